// A rank's chunks of the model; see stage.h.
#include "runtime/model/stage.h"

#include <algorithm>

#include "runtime/model/embedding.h"
#include "runtime/model/norm.h"
#include "runtime/model/rope_tables.h"

namespace dsv3::model {
namespace {

tensor::Tensor upload_table(tensor::Arena& arena, const std::vector<float>& values) {
  const tensor::Tensor table =
      arena.persistent("runtime/rope", DType::kF32, {static_cast<int64_t>(values.size())});
  arena.device().backend().copy_to_device(table.data, values.data(), values.size() * sizeof(float),
                                          arena.device().stream());
  arena.device().synchronize();
  return table;
}

}  // namespace

Stage::Stage(const spec::ModelSpec& model, int64_t sequence, int64_t global_sequences,
             const ParamStore& params, StepState& step, const tensor::Tensor& router_bias,
             tensor::Arena& arena)
    : model_(model),
      global_sequences_(static_cast<double>(global_sequences)),
      sequence_(sequence),
      step_(step) {
  const plan::Layout& cut = params.layout().cut;
  const plan::RankPosition& position = params.layout().position;
  has_first_ = position.pp_stage == 0;
  has_last_ = position.pp_stage == cut.pp - 1;
  positions_ = token_positions(sequence, cut.cp, position.cp_rank);
  const RopeTables tables = rope_tables(model.mla, positions_);
  cos_ = upload_table(arena, tables.cos);
  sin_ = upload_table(arena, tables.sin);
  if (has_first_ || (has_last_ && plan::copies_embedding(model, cut)))
    embedding_ = params.weight("model.embed_tokens");
  if (has_last_) {
    head_ = model.tie_embeddings ? embedding_ : params.weight("lm_head");
    norm_ = params.gain("model.norm");
  }
  std::vector<int64_t> moe_idx_of(static_cast<size_t>(model.num_layers + model.mtp_layers) + 1);
  for (int64_t layer = 0; layer < model.num_layers + model.mtp_layers; ++layer) {
    const auto i = static_cast<size_t>(layer);
    moe_idx_of[i + 1] = moe_idx_of[i] + (model.is_moe_layer(layer) ? 1 : 0);
  }
  const auto add = [&](auto& to, int64_t layer) {
    const int64_t moe_idx = moe_idx_of[static_cast<size_t>(layer)];
    ops::Vector<float> bias;
    if (router_bias.num_elements() > 0 && model.is_moe_layer(layer)) {
      bias = {router_bias.as<float>() + moe_idx * model.moe.num_experts, model.moe.num_experts};
    }
    to.emplace_back(model, params, layer, moe_idx, bias);
  };
  for (int64_t chunk = 0; chunk < plan::chunks_of(cut, model.num_layers); ++chunk) {
    const plan::StageLayers range =
        plan::chunk_layers(cut, model.num_layers, position.pp_stage, chunk);
    const size_t first = layers_.size();
    for (int64_t layer = range.first; layer < range.end; ++layer) add(layers_, layer);
    chunks_.push_back({first, layers_.size(), range.first});
  }
  for (int64_t depth = 0; has_last_ && depth < model.mtp_layers; ++depth)
    add(mtp_, model.num_layers + depth);
}

MicroBatch Stage::make_micro_batch() const {
  size_t most = 0;
  for (const Chunk& chunk : chunks_) most = std::max(most, chunk.end - chunk.first);
  return {static_cast<int64_t>(most), model_.mtp_layers};
}

void Stage::begin(const Pass& pass, int64_t chunk, std::span<const int32_t> tokens,
                  MicroBatch& batch) const {
  batch.mark = pass.arena.mark();
  batch.sequences = pass.sequences;
  batch.deferred = false;
  if (reads_tokens(chunk)) upload(pass, tokens, positions_, &batch);
}

void Stage::forward(const Pass& pass, int64_t chunk_idx, std::span<const int32_t> tokens,
                    const tensor::Tensor& x, const tensor::Tensor& y, MicroBatch& batch) const {
  const Chunk& chunk = chunks_[static_cast<size_t>(chunk_idx)];
  const size_t num_layers = chunk.end - chunk.first;
  begin(pass, chunk_idx, tokens, batch);
  if (is_last(chunk_idx)) {
    batch.normed = pass.push("activations/norm", model_.d_model);
    batch.normed_rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  }
  batch.hidden[0] = pass.push("activations/residual", model_.d_model);
  if (is_first(chunk_idx)) {
    embed(pass, embedding_, batch.inputs.ids, batch.hidden[0]);
  } else {
    ops::cast(pass.ctx, {.x = x, .y = batch.hidden[0]});
  }
  for (size_t i = 0; i < num_layers; ++i) {
    const bool sent = i + 1 == num_layers && !is_last(chunk_idx);
    batch.hidden[i + 1] = sent ? y : pass.push("activations/residual", model_.d_model);
    batch.marks[i] = pass.arena.mark();
    layers_[chunk.first + i].forward(pass, step_, cos(), sin(), batch.hidden[i],
                                     batch.hidden[i + 1], batch.stashes[i]);
    if (pass.keeps_inputs_only()) pass.arena.release(batch.marks[i]);
  }
  if (!is_last(chunk_idx)) return;
  norm_forward(pass, norm_, static_cast<float>(model_.rms_norm_eps), batch.hidden[num_layers],
               batch.normed, batch.normed_rstd);
}

const tensor::Tensor& Stage::mtp_previous(int64_t depth, const MicroBatch& batch) const {
  return depth == 1 ? batch.normed : batch.mtp[static_cast<size_t>(depth - 2)].hidden;
}

void Stage::forward_mtp(const Pass& pass, MicroBatch& batch) const {
  for (size_t i = 0; i < mtp_.size(); ++i) {
    mtp_[i].forward(pass, step_, cos(), sin(), batch.inputs.mtp_ids[i],
                    mtp_previous(static_cast<int64_t>(i) + 1, batch), batch.mtp[i]);
  }
}

// 1 / (depths · labelled positions of the global batch): the mean over depths of each depth's mean.
double Stage::mtp_scale(int64_t depth) const {
  const double labelled =
      global_sequences_ * static_cast<double>(std::max<int64_t>(sequence_ - depth, 0));
  return labelled == 0 ? 0.0 : 1.0 / (static_cast<double>(model_.mtp_layers) * labelled);
}

void Stage::add_lm_loss(const Pass& pass, const tensor::Tensor& normed, double scale,
                        MicroBatch& batch) const {
  head_loss(pass, head_,
            {.x = normed,
             .labels = batch.inputs.labels,
             .loss_scale = scale,
             .grad_scale = pass.training ? scale : 0.0,
             .loss = step_.scalar(Scalar::kLmLoss),
             .dx = pass.training ? batch.dnormed[0].matrix() : ops::Matrix()});
}

// Losses of the main model and of every MTP depth, with the gradients of what the head was given.
void Stage::losses(const Pass& pass, MicroBatch& batch) const {
  for (tensor::Tensor& dnormed : batch.dnormed)
    dnormed = pass.push("transient/residual", model_.d_model);
  add_lm_loss(pass, batch.normed, pass.scales.token, batch);
  forward_mtp(pass, batch);
  for (int64_t depth = 1; depth <= model_.mtp_layers; ++depth) {
    const auto i = static_cast<size_t>(depth);
    head_loss(pass, head_,
              {.x = batch.mtp[i - 1].normed,
               .labels = batch.inputs.mtp_labels[i - 1],
               .loss_scale = mtp_scale(depth),
               .grad_scale = mtp_scale(depth) * model_.mtp_loss_weight,
               .loss = step_.scalar(Scalar::kMtpLoss),
               .dx = batch.dnormed[i]});
  }
  if (pass.observer) pass.observer->head_done();
}

void Stage::mtp_backward(const Pass& pass, MicroBatch& batch) const {
  const int64_t depths = model_.mtp_layers;
  if (depths == 0) return;
  // Two buffers take turns as gradient of h^depth and of h^{depth−1}; the last goes into the main
  // model's.
  const tensor::Scope scope(pass.arena);
  tensor::Tensor own = pass.push("transient/residual", model_.d_model);
  tensor::Tensor next = pass.push("transient/residual", model_.d_model);
  for (int64_t depth = depths; depth >= 1; --depth) {
    const auto i = static_cast<size_t>(depth);
    mtp_[i - 1].backward(pass, step_, cos(), sin(), batch.inputs.mtp_ids[i - 1], batch.mtp[i - 1],
                         batch.dnormed[i], own, depth < depths,
                         depth == 1 ? batch.dnormed[0] : next, depth == 1);
    std::swap(own, next);
    if (pass.observer) pass.observer->layer_done(model_.num_layers + depth - 1);
  }
}

// Joint backward of the chunk's i-th layer, after a second forward where only its input was kept.
void Stage::layer_backward(const Pass& pass, const Chunk& chunk, size_t i, const tensor::Tensor& dh,
                           bool last_chunk, MicroBatch& batch) const {
  const TransformerLayer& layer = layers_[chunk.first + i];
  if (pass.keeps_inputs_only()) {
    Pass again = pass;
    again.again = true;
    // Nobody needs the output: it goes where it was, or, where that was sent away, nowhere.
    const bool sent = chunk.first + i + 1 == chunk.end && !last_chunk;
    const tensor::Tensor y =
        sent ? pass.push("transient/residual", model_.d_model) : batch.hidden[i + 1];
    layer.forward(again, step_, cos(), sin(), batch.hidden[i], y, batch.stashes[i]);
  }
  layer.backward(pass, cos(), sin(), batch.stashes[i], dh);
}

void Stage::backward(const Pass& pass, int64_t chunk_idx, const tensor::Tensor& dh, WeightGrad when,
                     MicroBatch& batch) const {
  const Chunk& chunk = chunks_[static_cast<size_t>(chunk_idx)];
  const size_t num_layers = chunk.end - chunk.first;
  // Who keeps inputs only has no room for what a later product needs: it comes now.
  batch.deferred = when == WeightGrad::kLater && !pass.keeps_inputs_only();
  if (is_last(chunk_idx)) {
    losses(pass, batch);
    mtp_backward(pass, batch);
    norm_backward(pass, norm_, batch.dnormed[0], batch.hidden[num_layers], batch.normed_rstd, dh,
                  false);
  }
  for (size_t i = num_layers; i-- > 0;) {
    if (batch.deferred) {
      layers_[chunk.first + i].backward_input(pass, cos(), sin(), batch.stashes[i], dh,
                                              batch.grads[i]);
      continue;
    }
    layer_backward(pass, chunk, i, dh, is_last(chunk_idx), batch);
    pass.arena.release(batch.marks[i]);
    if (pass.observer) pass.observer->layer_done(chunk.layer + static_cast<int64_t>(i));
  }
  if (!is_first(chunk_idx)) return;
  embed_backward(pass, embedding_, batch.inputs.ids, dh);
}

void Stage::backward_weight(const Pass& pass, int64_t chunk_idx, MicroBatch& batch) const {
  if (!batch.deferred) return;
  const Chunk& chunk = chunks_[static_cast<size_t>(chunk_idx)];
  for (size_t i = chunk.end - chunk.first; i-- > 0;) {
    layers_[chunk.first + i].backward_weight(pass, batch.stashes[i], batch.grads[i]);
    if (pass.observer) pass.observer->layer_done(chunk.layer + static_cast<int64_t>(i));
  }
  batch.deferred = false;
}

void Stage::release(const Pass& pass, MicroBatch& batch) const {
  pass.arena.release(batch.mark);
}

tensor::Tensor Stage::forward_only(const Pass& pass, int64_t chunk_idx, const tensor::Tensor& x_in,
                                   MicroBatch& batch) const {
  const Chunk& chunk = chunks_[static_cast<size_t>(chunk_idx)];
  tensor::Tensor x = pass.push("activations/residual", model_.d_model);
  tensor::Tensor y = pass.push("activations/residual", model_.d_model);
  if (is_first(chunk_idx)) {
    embed(pass, embedding_, batch.inputs.ids, x);
  } else {
    ops::cast(pass.ctx, {.x = x_in, .y = x});
  }
  for (size_t i = chunk.first; i < chunk.end; ++i) {
    const tensor::Scope scope(pass.arena);
    LayerStash stash;
    layers_[i].forward(pass, step_, cos(), sin(), x, y, stash);
    std::swap(x, y);
  }
  if (!is_last(chunk_idx)) return x;
  const tensor::Tensor rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  norm_forward(pass, norm_, static_cast<float>(model_.rms_norm_eps), x, y, rstd);
  return y;
}

}  // namespace dsv3::model
