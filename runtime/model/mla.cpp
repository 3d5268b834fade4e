// Forward and backward of multi-head latent attention; see mla.h.
#include "runtime/model/mla.h"

#include <optional>

#include "runtime/model/norm.h"
#include "runtime/model/rope_tables.h"
#include "runtime/model/tokens.h"

namespace dsv3::model {
namespace {

// Calls f(first, rows) for the rows of whole sequences that this rank's queries see: all of them;
// under CP each sequence's up to the end of the later of the rank's two parts.
template <typename F>
void for_each_seen(const Pass& pass, const F& f) {
  if (pass.cp() == 1) return f(int64_t{0}, pass.sequences * pass.sequence);
  const int64_t parts = 2 * pass.cp();
  const int64_t seen = (parts - pass.groups->position.cp_rank) * (pass.sequence / parts);
  for (int64_t b = 0; b < pass.sequences; ++b) f(b * pass.sequence, seen);
}

bool is_alone(const Pass& pass) {
  return pass.tp() == 1 && pass.cp() == 1;
}

}  // namespace

MlaBlock::MlaBlock(const spec::ModelSpec& model, const ParamStore& params,
                   const std::string& prefix)
    : tp_(params.layout().cut.tp),
      heads_(model.num_heads / tp_),
      nope_dim_(model.mla.qk_nope_head_dim),
      rope_dim_(model.mla.qk_rope_head_dim),
      v_dim_(model.mla.v_head_dim),
      q_rank_(model.mla.q_lora_rank.value_or(0)),
      kv_rank_(model.mla.kv_lora_rank),
      q_part_(query_in_latent() ? query_width() : q_rank_),
      scale_(softmax_scale(model.mla)),
      in_proj_(params.weight(prefix + ".in_proj")),
      kv_b_proj_(params.weight(prefix + ".kv_b_proj")),
      o_proj_(params.weight(prefix + ".o_proj")),
      kv_norm_(params.gain(prefix + ".kv_a_layernorm")) {
  if (query_in_latent()) return;
  q_b_proj_ = params.weight(prefix + (direct_query() ? ".q_proj" : ".q_b_proj"));
  if (!direct_query()) q_norm_ = params.gain(prefix + ".q_a_layernorm");
}

ops::Matrix MlaBlock::query_part(const tensor::Tensor& latent) const {
  return latent.matrix().col_range(0, q_part_);
}
ops::Matrix MlaBlock::kv_part(const tensor::Tensor& latent) const {
  return latent.matrix().col_range(q_part_, kv_rank_);
}
ops::Matrix MlaBlock::rope_part(const tensor::Tensor& latent) const {
  return latent.matrix().col_range(q_part_ + kv_rank_, rope_dim_);
}
ops::Matrix MlaBlock::query(const tensor::Tensor& latent, const tensor::Tensor& q) const {
  return query_in_latent() ? query_part(latent) : q.matrix();
}
ops::ConstMatrix MlaBlock::kv_input(const MlaStash& stash, const MlaInputs& inputs) const {
  if (inputs.latents.empty()) return stash.kv_normed.matrix();
  return inputs.latents.matrix().col_range(0, kv_rank_);
}
ops::ConstMatrix MlaBlock::rope_input(const MlaStash& stash, const MlaInputs& inputs) const {
  if (inputs.latents.empty()) return rope_part(stash.latent);
  return inputs.latents.matrix().col_range(kv_rank_, rope_dim_);
}

MlaInputs MlaBlock::push_inputs(const Pass& pass, bool with_query, int64_t query_cols) const {
  MlaInputs inputs;
  if (with_query && pass.tp() > 1) {
    inputs.query = pass.push_rows("transient/attention/inputs", pass.gathered_tokens(), query_cols);
  }
  if (!is_alone(pass)) {
    inputs.latents = pass.push_rows("transient/attention/inputs", pass.sequences * pass.sequence,
                                    kv_rank_ + rope_dim_);
  }
  return inputs;
}

// Both gathers of the inputs, under way from when it is made; scratch stays on the arena.
class MlaBlock::Gather {
 public:
  // query [tokens, ·]: what inputs.query gathers.
  Gather(const Pass& pass, const MlaBlock& block, const MlaStash& stash, ops::ConstMatrix query,
         const MlaInputs& inputs) {
    if (!inputs.query.empty())
      query_ = start_gather_tokens(pass, "attention query inputs", query, inputs.query);
    if (inputs.latents.empty()) return;
    const tensor::Tensor local =
        pass.push("transient/attention/inputs", block.kv_rank_ + block.rope_dim_);
    const ops::Matrix both = local;
    ops::cast(pass.ctx, {.x = stash.kv_normed, .y = both.col_range(0, block.kv_rank_)});
    if (block.rope_dim_ > 0) {
      ops::cast(pass.ctx, {.x = block.rope_part(stash.latent),
                           .y = both.col_range(block.kv_rank_, block.rope_dim_)});
    }
    latents_.emplace(pass, "attention latents", local.matrix(), inputs.latents.matrix());
  }
  void wait_query() { query_.wait(); }
  void wait_latents() {
    if (latents_) latents_->finish();
    latents_.reset();
  }

 private:
  TokenMove query_;
  std::optional<WholeGather> latents_;
};

void MlaBlock::push_stash(const Pass& pass, MlaStash& stash) const {
  stash.latent = pass.push("activations/attention/latent", q_part_ + kv_rank_ + rope_dim_);
  if (!direct_query()) {
    stash.q_normed = pass.push("activations/attention/latent", q_rank_);
    stash.q_rstd = pass.push_f32("activations/attention/statistics", {pass.tokens()});
  }
  stash.q = {};
  if (!query_in_latent() && keeps_query(pass))
    stash.q = pass.push_rows("activations/attention/q", pass.gathered_tokens(), query_width());
  stash.kv_normed = pass.push("activations/attention/latent", kv_rank_);
  stash.kv_rstd = pass.push_f32("activations/attention/statistics", {pass.tokens()});
  stash.kv = {};
  if (keeps_kv(pass)) {
    stash.kv =
        pass.push_rows("activations/attention/kv", pass.sequences * pass.sequence, kv_width());
  }
  stash.out = pass.push_rows("activations/attention/out", pass.gathered_tokens(), heads_ * v_dim_);
  stash.lse = pass.push_f32("activations/attention/statistics", {pass.gathered_tokens(), heads_});
}

void MlaBlock::rotate_query(const Pass& pass, ops::Vector<const float> cos,
                            ops::Vector<const float> sin, ops::Matrix q, bool transpose) const {
  if (rope_dim_ == 0) return;
  ops::rope(pass.ctx, {.x = q.col_range(nope_dim_, rope_dim_).data,
                       .dtype = pass.act,
                       .tokens = pass.gathered_tokens(),
                       .heads = heads_,
                       .token_stride = q.stride,
                       .head_stride = nope_dim_ + rope_dim_,
                       .rope_dim = rope_dim_,
                       .sequence = pass.gathered_sequence(),
                       .cos = cos,
                       .sin = sin,
                       .transpose = transpose});
}

void MlaBlock::rotate_key(const Pass& pass, ops::Vector<const float> cos,
                          ops::Vector<const float> sin, ops::Matrix k_rope, bool transpose) const {
  if (rope_dim_ == 0) return;
  // Of the gathered tokens' angles this TP rank's run.
  const int64_t angles = pass.local_sequence() * rope_dim_ / 2;
  const int64_t first = pass.groups->position.tp_rank * angles;
  ops::rope(pass.ctx, {.x = k_rope.data,
                       .dtype = pass.act,
                       .tokens = pass.tokens(),
                       .heads = 1,
                       .token_stride = k_rope.stride,
                       .head_stride = rope_dim_,
                       .rope_dim = rope_dim_,
                       .sequence = pass.local_sequence(),
                       .cos = {cos.data + first, angles},
                       .sin = {sin.data + first, angles},
                       .transpose = transpose});
}

void MlaBlock::expand_kv(const Pass& pass, ops::ConstMatrix latents,
                         const tensor::Tensor& kv) const {
  for_each_seen(pass, [&](int64_t first, int64_t rows) {
    linear(pass, latents.row_range(first, rows), kv_b_proj_, kv.matrix().row_range(first, rows));
  });
}

template <typename F>
void MlaBlock::for_each_call(const Pass& pass, const F& f) const {
  Call call{.shape = {.batch = pass.sequences,
                      .sequence = pass.sequence,
                      .heads = heads_,
                      .nope_dim = nope_dim_,
                      .rope_dim = rope_dim_,
                      .v_dim = v_dim_,
                      .scale = scale_}};
  if (pass.cp() == 1) return f(call);
  const int64_t parts = 2 * pass.cp(), part = pass.sequence / parts;
  const int64_t cp_rank = pass.groups->position.cp_rank;
  call.shape.batch = 1;
  call.shape.queries = part;
  for (int64_t b = 0; b < pass.sequences; ++b) {
    for (const bool later : {true, false}) {
      call.later = later;
      call.shape.sequence = (later ? parts - cp_rank : cp_rank + 1) * part;
      call.first_query = b * pass.gathered_sequence() + (later ? part : 0);
      call.first_key = b * pass.sequence;
      f(call);
    }
  }
}

void MlaBlock::forward(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                       ops::ConstMatrix x, ops::Matrix y, MlaStash& stash) const {
  DSV3_CHECK(pass.tp() == tp_, "parameters cut for another TP");
  push_stash(pass, stash);
  linear(pass, x, in_proj_, stash.latent);
  if (!direct_query()) {
    norm_forward(pass, q_norm_, kLatentNormEps, query_part(stash.latent), stash.q_normed,
                 stash.q_rstd);
  }
  norm_forward(pass, kv_norm_, kLatentNormEps, kv_part(stash.latent), stash.kv_normed,
               stash.kv_rstd);
  rotate_key(pass, cos, sin, rope_part(stash.latent), false);

  const tensor::Scope scope(pass.arena);
  const ops::ConstMatrix local_query =
      direct_query() ? x : ops::ConstMatrix(stash.q_normed.matrix());
  const MlaInputs inputs = push_inputs(pass, true, local_query.cols);
  Gather gather(pass, *this, stash, local_query, inputs);
  tensor::Tensor q = stash.q, kv = stash.kv;
  if (!keeps_query(pass))
    q = pass.push_rows("transient/attention/q", pass.gathered_tokens(), query_width());
  if (!keeps_kv(pass)) {
    kv = pass.push_rows("transient/attention/kv", pass.sequences * pass.sequence, kv_width());
  }
  gather.wait_query();
  if (!query_in_latent()) {
    const bool here = inputs.query.empty();
    linear(pass, here ? local_query : ops::ConstMatrix(inputs.query.matrix()), q_b_proj_, q);
  }
  rotate_query(pass, cos, sin, query(stash.latent, q), false);
  gather.wait_latents();
  expand_kv(pass, kv_input(stash, inputs), kv);
  const ops::Matrix queries = query(stash.latent, q), out = stash.out;
  const ops::ConstMatrix k_rope = rope_input(stash, inputs);
  for_each_call(pass, [&](const Call& c) {
    ops::mla_attention_forward(
        pass.ctx, {.shape = c.shape,
                   .q = queries.row_range(c.first_query, c.queries()),
                   .kv = kv.matrix().row_range(c.first_key, c.keys()),
                   .k_rope = k_rope.row_range(c.first_key, c.keys()),
                   .out = out.row_range(c.first_query, c.queries()),
                   .lse = {stash.lse.as<float>() + c.first_query * heads_, c.queries() * heads_}});
  });
  if (tp_ == 1) return linear(pass, stash.out, o_proj_, y, true);
  const tensor::Tensor partial =
      pass.push_rows("transient/attention/out", pass.gathered_tokens(), y.cols);
  linear(pass, stash.out, o_proj_, partial);
  add_scattered_tokens(pass, "attention out", partial, y);
}

void MlaBlock::attend_backward(const Pass& pass, const MlaStash& stash, ops::ConstMatrix q,
                               const tensor::Tensor& kv, ops::ConstMatrix k_rope,
                               ops::ConstMatrix dout, ops::Matrix dq, const MlaGrad& grad,
                               ops::Matrix dk_rope) const {
  for_each_call(pass, [&](const Call& c) {
    const tensor::Scope scope(pass.arena);
    const ops::Matrix dkv = grad.dkv.matrix().row_range(c.first_key, c.keys());
    const ops::Matrix dk = dk_rope.row_range(c.first_key, c.keys());
    // The later part's gradients of the keys are written, the earlier one's added.
    ops::Matrix own_dkv = dkv, own_dk = dk;
    if (!c.later) {
      own_dkv = pass.push_rows("transient/attention/kv", c.keys(), kv_width());
      own_dk = pass.push_rows("transient/attention/latent", c.keys(), rope_dim_);
    }
    ops::mla_attention_backward(
        pass.ctx, {.shape = c.shape,
                   .q = q.row_range(c.first_query, c.queries()),
                   .kv = kv.matrix().row_range(c.first_key, c.keys()),
                   .k_rope = k_rope.row_range(c.first_key, c.keys()),
                   .out = stash.out.matrix().row_range(c.first_query, c.queries()),
                   .lse = {stash.lse.as<float>() + c.first_query * heads_, c.queries() * heads_},
                   .dout = dout.row_range(c.first_query, c.queries()),
                   .dq = dq.row_range(c.first_query, c.queries()),
                   .dkv = own_dkv,
                   .dk_rope = own_dk});
    if (c.later) return;
    ops::add(pass.ctx, {.x = own_dkv, .y = dkv});
    if (rope_dim_ > 0) ops::add(pass.ctx, {.x = own_dk, .y = dk});
  });
}

void MlaBlock::latent_backward(const Pass& pass, ops::Vector<const float> cos,
                               ops::Vector<const float> sin, const MlaStash& stash,
                               const MlaGrad& grad, ops::Matrix partial) const {
  TokenMove query_move;
  tensor::Tensor dq_normed, dq_partial;
  if (!direct_query()) {
    dq_normed = dq_partial =
        pass.push_rows("transient/attention/latent", pass.gathered_tokens(), q_rank_);
    linear_input_grad(pass, grad.dq, q_b_proj_, dq_partial);
    if (tp_ > 1) {
      dq_normed = pass.push("transient/attention/latent", q_rank_);
      query_move =
          start_scatter_tokens(pass, "attention query inputs gradient", dq_partial, dq_normed);
    }
  }
  for_each_seen(pass, [&](int64_t first, int64_t rows) {
    linear_input_grad(pass, grad.dkv.matrix().row_range(first, rows), kv_b_proj_,
                      partial.row_range(first, rows).col_range(0, kv_rank_));
  });
  ops::Matrix dlatents = partial.col_range(0, kv_rank_);
  if (!is_alone(pass)) {
    const ops::Matrix local = pass.push("transient/attention/latent", kv_rank_ + rope_dim_);
    scatter_whole(pass, "attention latents gradient", partial, local);
    dlatents = local.col_range(0, kv_rank_);
    if (rope_dim_ > 0) {
      ops::cast(pass.ctx,
                {.x = local.col_range(kv_rank_, rope_dim_), .y = rope_part(grad.dlatent)});
    }
  }
  rotate_key(pass, cos, sin, rope_part(grad.dlatent), true);
  norm_backward(pass, kv_norm_, dlatents, kv_part(stash.latent), stash.kv_rstd,
                kv_part(grad.dlatent), false);
  query_move.wait();
  if (direct_query()) return;
  norm_backward(pass, q_norm_, dq_normed, query_part(stash.latent), stash.q_rstd,
                query_part(grad.dlatent), false);
}

void MlaBlock::backward_input(const Pass& pass, ops::Vector<const float> cos,
                              ops::Vector<const float> sin, const MlaStash& stash,
                              ops::ConstMatrix dy, ops::Matrix dx, MlaGrad& grad) const {
  const int64_t whole = pass.sequences * pass.sequence;
  grad.dlatent = pass.push("transient/attention/latent", q_part_ + kv_rank_ + rope_dim_);
  if (!query_in_latent())
    grad.dq = pass.push_rows("transient/attention/q", pass.gathered_tokens(), query_width());
  grad.dkv = pass.push_rows("transient/attention/kv", whole, kv_width());
  if (tp_ > 1) grad.dy = pass.push_rows("transient/attention/out", pass.gathered_tokens(), dy.cols);
  grad.inputs = push_inputs(pass, !direct_query(), q_rank_);

  const tensor::Scope scope(pass.arena);
  TokenMove dy_move;
  if (tp_ > 1) dy_move = start_gather_tokens(pass, "attention out gradient", dy, grad.dy);
  const ops::ConstMatrix local_query =
      direct_query() ? ops::ConstMatrix() : ops::ConstMatrix(stash.q_normed.matrix());
  Gather gather(pass, *this, stash, local_query, grad.inputs);
  const tensor::Tensor dout =
      pass.push_rows("transient/attention/out", pass.gathered_tokens(), heads_ * v_dim_);
  dy_move.wait();
  linear_input_grad(pass, tp_ > 1 ? ops::ConstMatrix(grad.dy.matrix()) : dy, o_proj_, dout);
  gather.wait_query();
  tensor::Tensor q = stash.q, kv = stash.kv;
  if (!keeps_query(pass)) {
    q = pass.push_rows("transient/attention/q", pass.gathered_tokens(), query_width());
    linear(pass, tp_ > 1 ? grad.inputs.query : stash.q_normed, q_b_proj_, q);
    rotate_query(pass, cos, sin, q, false);
  }
  gather.wait_latents();
  if (!keeps_kv(pass)) {
    kv = pass.push_rows("transient/attention/kv", whole, kv_width());
    expand_kv(pass, kv_input(stash, grad.inputs), kv);
  }
  // Of the kv latent and k_rope; alone the latter's gradient is written where it belongs.
  const tensor::Tensor partial = pass.push_rows("transient/attention/latent", whole,
                                                is_alone(pass) ? kv_rank_ : kv_rank_ + rope_dim_);
  if (pass.cp() > 1) {  // positions that no query here sees
    pass.ctx.backend->fill_zero(partial.data, static_cast<size_t>(partial.bytes()),
                                pass.ctx.stream);
  }
  const ops::Matrix dq = query(grad.dlatent, grad.dq);
  pass.between_operations();
  attend_backward(
      pass, stash, query(stash.latent, q), kv, rope_input(stash, grad.inputs), dout, dq, grad,
      is_alone(pass) ? rope_part(grad.dlatent) : partial.matrix().col_range(kv_rank_, rope_dim_));
  rotate_query(pass, cos, sin, dq, true);
  latent_backward(pass, cos, sin, stash, grad, partial);
  linear_input_grad(pass, grad.dlatent, in_proj_, dx);
  if (direct_query() && tp_ > 1) {
    const tensor::Tensor dx_partial =
        pass.push_rows("transient/attention/inputs", pass.gathered_tokens(), dx.cols);
    linear_input_grad(pass, grad.dq, q_b_proj_, dx_partial);
    add_scattered_tokens(pass, "attention query inputs gradient", dx_partial, dx);
  }
}

void MlaBlock::backward_weight(const Pass& pass, const MlaStash& stash, ops::ConstMatrix x,
                               ops::ConstMatrix dy, const MlaGrad& grad) const {
  linear_weight_grad(pass, tp_ > 1 ? ops::ConstMatrix(grad.dy.matrix()) : dy, stash.out, o_proj_);
  const ops::ConstMatrix latents = kv_input(stash, grad.inputs);
  for_each_seen(pass, [&](int64_t first, int64_t rows) {
    linear_weight_grad(pass, grad.dkv.matrix().row_range(first, rows),
                       latents.row_range(first, rows), kv_b_proj_);
  });
  if (!query_in_latent()) {
    const tensor::Scope scope(pass.arena);
    tensor::Tensor input = tp_ > 1 ? grad.inputs.query : stash.q_normed;
    if (direct_query())
      input = gather_tokens(pass, "attention query inputs", "transient/attention/inputs", x);
    linear_weight_grad(pass, grad.dq, input, q_b_proj_);
  }
  linear_weight_grad(pass, grad.dlatent, x, in_proj_);
}

}  // namespace dsv3::model
