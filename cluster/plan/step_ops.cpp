// The ops of a layer, of the model's ends and of the optimizer; see step_ops.h.
//
// The order is that of runtime/model. Letters: t tokens of this CP rank's micro-batch, ts its share
// outside of attention and experts (sequence parallel: t / TP), h d_model, e bytes of an element.
// Latents of keys and values are projected up for whole sequences on every CP rank.
#include "cluster/plan/step_ops.h"

#include <algorithm>

#include "base/check.h"
#include "cluster/plan/op_list.h"
#include "configs/spec/model_tensors.h"

namespace dsv3::plan {
namespace {

// The head's chunks of rows (runtime/model/head.h; a test compares the lists).
constexpr int64_t kHeadChunkBytes = int64_t{16} << 20;
constexpr int64_t kHeadRowsMin = 64;
constexpr int64_t kStepScalars = 8;  // runtime/model/step_state.h

RankSizes sizes_of(const spec::JobSpec& job, const Layout& layout) {
  const spec::ModelSpec& model = job.model;
  const spec::MlaSpec& mla = model.mla;
  const spec::MoeSpec& moe = model.moe;
  RankSizes z{};
  z.sequences = layout.micro_batch;
  z.full_s = job.training.seq_length;
  z.s = z.full_s / layout.cp;
  z.t = z.sequences * z.s;
  z.keys = z.sequences * z.full_s;
  z.ts = z.t / layout.tp;
  z.h = model.d_model;
  z.heads = model.num_heads / layout.tp;
  z.qr = mla.q_lora_rank.value_or(0);
  z.direct_query = z.qr == 0;
  z.r = mla.kv_lora_rank;
  z.dn = mla.qk_nope_head_dim;
  z.dr = mla.qk_rope_head_dim;
  z.dv = mla.v_head_dim;
  z.dq = mla.qk_head_dim();
  z.dense = model.dense_intermediate_size / layout.tp;
  z.shared = moe.num_shared_experts * moe.expert_intermediate_size / layout.tp;
  const bool cut = layout.etp > 1;
  z.width = moe.expert_intermediate_size / (cut ? layout.tp : 1);
  z.experts = moe.num_experts;
  z.groups = std::max<int64_t>(1, z.experts / (layout.ep * (cut ? 1 : layout.tp)));
  z.top_k = moe.num_experts_per_token;
  // Routing is balanced in the mean: an expert rank gets as many rows as it sends.
  z.rows = (cut ? z.t : z.ts) * z.top_k;
  z.vocab = model.vocab_size / layout.tp;
  z.act = job.training.dtype == "fp32" ? DType::kF32 : DType::kBf16;
  z.fp8 = job.training.dtype == "fp8";
  z.e = static_cast<double>(dtype_bytes(z.act));
  z.tp = layout.tp;
  z.cp = layout.cp;
  z.sent = z.ts * z.top_k;
  z.travels = cut || expert_ranks(layout) > 1;
  z.parts = std::max<int64_t>(
      1, expert_parts(layout, moe.num_experts, job.parallel.overlap_expert_exchange));
  z.keeps_swiglu = layout.recompute != "selective";
  return z;
}

// The products that make the latents: one when they are whole on every TP rank, else the query's,
// which is cut by heads, on all tokens, and the rest on the share.
struct LatentProduct {
  int64_t rows, out;
};
std::vector<LatentProduct> latent_products(const RankSizes& z, const Layout& layout) {
  const int64_t rest = z.r + z.dr;
  if (!z.direct_query) return {{z.ts, z.qr + rest}};
  if (layout.tp == 1) return {{z.t, z.heads * z.dq + rest}};
  return {{z.t, z.heads * z.dq}, {z.ts, rest}};
}

// Every rank gathers the latents and rotary keys of whole sequences: put side by side before, and
// in order of positions where they come from CP ranks, which have two runs of a sequence each.
void gather_latents(const RankSizes& z, OpList* ops) {
  if (z.tp * z.cp == 1) return;
  ops->copy(z.ts, z.r);
  if (z.dr > 0) ops->copy(z.ts, z.dr);
  if (z.cp > 1) ops->copy(z.keys, z.r + z.dr);
}
// What TP sums is made apart, scattered and then added.
void linear_scattered(const RankSizes& z, int64_t in, OpList* ops) {
  ops->linear(z.t, z.h, in, z.tp == 1);
  if (z.tp > 1) ops->add_to(z.ts, z.h);
}

void attention_projections_up(const RankSizes& z, OpList* ops) {
  if (!z.direct_query) {
    ops->norm_forward(z.ts, z.qr);
    ops->linear(z.t, z.heads * z.dq, z.qr);
  }
  ops->norm_forward(z.ts, z.r);
  ops->linear(z.keys, z.heads * (z.dn + z.dv), z.r);
  ops->rope();
}

void attention_forward(const RankSizes& z, const Layout& layout, OpList* ops) {
  for (const auto& [rows, out] : latent_products(z, layout)) ops->linear(rows, out, z.h);
  gather_latents(z, ops);
  attention_projections_up(z, ops);
  ops->attention(false);
  linear_scattered(z, z.heads * z.dv, ops);
}

// Under CP keys and values of whole sequences are not kept but made again, and of a rank's two
// parts the earlier one's gradients of them are added to the later one's.
void attention_backward_whole(const RankSizes& z, OpList* ops) {
  gather_latents(z, ops);
  if (z.cp == 1) return;
  if (z.keeps_swiglu) ops->linear(z.keys, z.heads * (z.dn + z.dv), z.r);  // else counted there
  const int64_t part = z.keys / (2 * z.cp);
  ops->memory("fill_zero", z.act, z.keys, z.r + z.dr, z.e * area(z.keys, z.r + z.dr));
  ops->add_to(part, z.heads * (z.dn + z.dv));
  if (z.dr > 0) ops->add_to(part, z.dr);
  ops->copy(z.keys, z.r + z.dr);
}

void attention_backward(const RankSizes& z, const Layout& layout, OpList* ops) {
  ops->input_grad(z.t, z.h, z.heads * z.dv);
  attention_backward_whole(z, ops);
  ops->attention(true);
  ops->rope();
  ops->input_grad(z.keys, z.heads * (z.dn + z.dv), z.r);
  if (z.tp * z.cp > 1 && z.dr > 0) ops->copy(z.ts, z.dr);
  ops->norm_backward(z.ts, z.r, false);
  if (!z.direct_query) {
    ops->input_grad(z.t, z.heads * z.dq, z.qr);
    ops->norm_backward(z.ts, z.qr, false);
  }
  for (const auto& [rows, out] : latent_products(z, layout)) ops->input_grad(rows, out, z.h);
  if (z.direct_query && z.tp > 1) ops->add_to(z.ts, z.h);
  ops->weight_grad(z.t, z.h, z.heads * z.dv);
  ops->weight_grad(z.keys, z.heads * (z.dn + z.dv), z.r);
  if (!z.direct_query) ops->weight_grad(z.t, z.heads * z.dq, z.qr);
  for (const auto& [rows, out] : latent_products(z, layout)) ops->weight_grad(rows, out, z.h);
}

void ffn_up(const RankSizes& z, int64_t width, OpList* ops) {
  ops->linear(z.t, 2 * width, z.h);
  ops->swiglu_forward(z.t, width, false);
}
void ffn_down(const RankSizes& z, int64_t width, OpList* ops) {
  linear_scattered(z, width, ops);
}
void ffn_backward_input(const RankSizes& z, int64_t width, OpList* ops) {
  ops->input_grad(z.t, z.h, width);
  ops->swiglu_backward(z.t, width, false);
  ops->input_grad(z.t, 2 * width, z.h);
}
void ffn_backward_weight(const RankSizes& z, int64_t width, OpList* ops) {
  ops->weight_grad(z.t, z.h, width);
  ops->weight_grad(z.t, 2 * width, z.h);
}

void route(const RankSizes& z, const spec::MoeSpec& moe, OpList* ops) {
  const double scores = 4.0 * area(z.ts, z.experts), chosen = 4.0 * area(z.ts, z.top_k);
  const double bias = moe.use_aux_loss_free ? 4.0 * double(z.experts) : 0.0;
  if (z.act != DType::kF32) ops->cast(z.ts, z.h, z.act, DType::kF32);
  ops->product(kForward, DType::kF32, z.ts, z.experts, z.h, DType::kF32);
  ops->memory("router_forward", DType::kF32, z.ts, z.experts,
              2 * scores + bias + 2 * chosen + 16.0 * double(z.experts));
  const double fraction = 4.0 * area(z.sequences, z.experts);
  ops->memory("router_loss", DType::kF32, z.ts, z.experts,
              (moe.router_aux_loss_weight != 0 ? scores + chosen + fraction : 0.0) +
                  (moe.router_z_loss_weight != 0 ? scores : 0.0));
  ops->memory("route_plan", DType::kI32, z.ts * z.top_k, z.experts,
              3 * chosen + 4.0 * double(z.experts + 1));
}

// Rows between order of arrival and the experts', part by part, with `numbers` beside each.
void order_rows(const RankSizes& z, double numbers, OpList* ops) {
  ops->set_beside(Beside::kExperts);
  if (!z.travels) return;
  ops->permute(z.rows, z.rows, numbers);
  ops->in_parts();
}

void moe_forward(const RankSizes& z, const spec::MoeSpec& moe, OpList* ops) {
  route(z, moe, ops);
  ops->permute(z.ts, z.sent, 3);
  ops->set_beside(Beside::kBefore);
  if (z.shared > 0) ffn_up(z, z.shared, ops);
  if (z.tp == 1 && z.keeps_swiglu) ops->set_beside(Beside::kAfter);
  if (z.shared > 0) ffn_down(z, z.shared, ops);
  order_rows(z, 3, ops);
  ops->grouped(kForward, 2 * z.width, z.h);
  ops->in_parts();
  ops->swiglu_forward(z.rows, z.width, true);
  ops->in_parts();
  ops->grouped(kForward, z.h, z.width);
  ops->in_parts();
  order_rows(z, 1, ops);
  ops->set_beside(Beside::kNothing);
  ops->memory("unpermute_sum", z.act, z.sent, z.h,
              z.e * area(z.sent, z.h) + 2 * z.e * area(z.ts, z.h) + 4 * double(z.sent));
}

void moe_backward(const RankSizes& z, const spec::MoeSpec& moe, OpList* ops) {
  ops->permute(z.ts, z.sent, 1);
  ops->set_beside(Beside::kBefore);
  if (z.shared > 0) ffn_backward_input(z, z.shared, ops);
  order_rows(z, 1, ops);
  ops->grouped(kInputGrad, z.h, z.width);
  ops->in_parts();
  ops->swiglu_backward(z.rows, z.width, true);
  ops->in_parts();
  ops->grouped(kInputGrad, 2 * z.width, z.h);
  ops->in_parts();
  order_rows(z, 3, ops);
  ops->set_beside(z.keeps_swiglu ? Beside::kAfter : Beside::kNothing);
  ops->grouped(kWeightGrad, z.h, z.width);
  ops->grouped(kWeightGrad, 2 * z.width, z.h);
  if (z.tp > 1) ops->set_beside(Beside::kNothing);
  if (z.shared > 0) ffn_backward_weight(z, z.shared, ops);
  ops->set_beside(Beside::kNothing);
  ops->memory("unpermute_sum", z.act, z.sent, z.h,
              z.e * area(z.sent, z.h) + (z.shared > 0 ? 2 : 1) * z.e * area(z.ts, z.h) +
                  12 * double(z.sent));
  const double scores = 4.0 * area(z.ts, z.experts), chosen = 4.0 * area(z.ts, z.top_k);
  ops->memory("router_backward", DType::kF32, z.ts, z.experts,
              2 * scores + 2 * chosen +
                  (moe.router_aux_loss_weight != 0 ? 4.0 * area(z.sequences, z.experts) : 0.0) +
                  (moe.router_z_loss_weight != 0 ? scores : 0.0));
  if (z.act == DType::kF32) {
    ops->product(kInputGrad, DType::kF32, z.ts, z.experts, z.h, DType::kF32, true);
  } else {
    ops->product(kInputGrad, DType::kF32, z.ts, z.experts, z.h, DType::kF32);
    ops->cast(z.ts, z.h, DType::kF32, z.act);
    ops->add_to(z.ts, z.h);
  }
  if (z.act != DType::kF32) ops->cast(z.ts, z.h, z.act, DType::kF32);
  ops->product(kWeightGrad, DType::kF32, z.ts, z.experts, z.h, DType::kF32, true);
}

bool is_moe(const spec::JobSpec& job, LayerKind kind) {
  return kind == LayerKind::kMoe || (kind == LayerKind::kMtp && job.model.moe.num_experts > 0);
}

void embed(const RankSizes& z, bool backward, OpList* ops) {
  // Of the rows of all tokens, those of this rank's part of the vocabulary, which TP scatters.
  const double ids = 4.0 * double(z.t), values = area(z.t, z.h);
  if (backward) {
    ops->memory("embedding_backward", z.act, z.t, z.h, ids + (z.e + 8) * values);
  } else {
    ops->memory("embedding_forward", z.act, z.t, z.h, ids + 2 * z.e * values);
  }
}

void forward(const spec::JobSpec& job, const Layout& layout, LayerKind kind, const RankSizes& z,
             OpList* ops) {
  if (kind == LayerKind::kMtp) {
    embed(z, false, ops);
    ops->norm_forward(z.ts, z.h);
    ops->norm_forward(z.ts, z.h);
    ops->linear(z.t, z.h / layout.tp, 2 * z.h);
    if (z.tp > 1) ops->copy(z.ts, z.h);  // columns to tokens
  }
  ops->norm_forward(z.ts, z.h);
  ops->copy(z.ts, z.h);
  attention_forward(z, layout, ops);
  ops->norm_forward(z.ts, z.h);
  ops->copy(z.ts, z.h);
  if (is_moe(job, kind)) {
    moe_forward(z, job.model.moe, ops);
  } else {
    ffn_up(z, z.dense, ops);
    ffn_down(z, z.dense, ops);
  }
  if (kind == LayerKind::kMtp) ops->norm_forward(z.ts, z.h);
}

// What "selective" drops (activations.h): norms, the up-projections, SwiGLU.
void recompute_selected(const spec::JobSpec& job, LayerKind kind, const RankSizes& z, OpList* ops) {
  ops->norm_forward(z.ts, z.h);
  attention_projections_up(z, ops);
  ops->norm_forward(z.ts, z.h);
  if (!is_moe(job, kind)) {
    ops->swiglu_forward(z.t, z.dense, false);
    return;
  }
  if (z.shared > 0) ops->swiglu_forward(z.t, z.shared, false);
  ops->swiglu_forward(z.rows, z.width, true);
}

// Chunks of rows that the head takes at a time: how many, of how many rows.
struct Chunks {
  int64_t count, rows;
};
std::vector<Chunks> head_chunks(int64_t tokens, int64_t vocab) {
  const int64_t chunk = std::clamp<int64_t>(kHeadChunkBytes / (vocab * 4), kHeadRowsMin,
                                            std::max(tokens, kHeadRowsMin));
  std::vector<Chunks> chunks;
  if (tokens >= chunk) chunks.push_back({tokens / chunk, chunk});
  if (tokens % chunk != 0) chunks.push_back({1, tokens % chunk});
  return chunks;
}

}  // namespace

std::vector<StepOp> layer_forward_ops(const spec::JobSpec& job, const Layout& layout,
                                      LayerKind kind) {
  const RankSizes z = sizes_of(job, layout);
  OpList ops(z);
  forward(job, layout, kind, z, &ops);
  return ops.take();
}

std::vector<StepOp> layer_backward_ops(const spec::JobSpec& job, const Layout& layout,
                                       LayerKind kind) {
  const RankSizes z = sizes_of(job, layout);
  OpList ops(z);
  if (layout.recompute == "full") forward(job, layout, kind, z, &ops);
  if (layout.recompute == "selective") recompute_selected(job, kind, z, &ops);
  if (kind == LayerKind::kMtp) ops.norm_backward(z.ts, z.h, false);
  if (is_moe(job, kind)) {
    moe_backward(z, job.model.moe, &ops);
  } else {
    ffn_backward_input(z, z.dense, &ops);
    ffn_backward_weight(z, z.dense, &ops);
  }
  ops.norm_backward(z.ts, z.h, true);
  attention_backward(z, layout, &ops);
  ops.norm_backward(z.ts, z.h, true);
  if (kind == LayerKind::kMtp) {
    if (z.tp > 1) ops.copy(z.ts, z.h);
    ops.weight_grad(z.t, z.h / layout.tp, 2 * z.h);
    ops.input_grad(z.t, z.h / layout.tp, 2 * z.h);
    ops.norm_backward(z.ts, z.h, true);
    ops.norm_backward(z.ts, z.h, false);
    embed(z, true, &ops);
  }
  return ops.take();
}

std::vector<StepOp> embedding_ops(const spec::JobSpec& job, const Layout& layout, bool backward) {
  const RankSizes z = sizes_of(job, layout);
  OpList ops(z);
  if (!backward) {
    const int64_t ids = 2 * (1 + job.model.mtp_layers) * z.t;
    ops.memory("copy_to_device", DType::kF32, 1, ids, 8.0 * double(ids));
  }
  embed(z, backward, &ops);
  return ops.take();
}

std::vector<StepOp> head_ops(const spec::JobSpec& job, const Layout& layout, bool backward) {
  RankSizes z = sizes_of(job, layout);
  z.fp8 = false;
  OpList ops(z);
  if (backward) {
    ops.norm_backward(z.ts, z.h, false);
  } else {
    ops.norm_forward(z.ts, z.h);
  }
  const auto repeat = [&](const Chunks& chunk) {
    ops.last().calls = double(chunk.count * (1 + job.model.mtp_layers));
  };
  for (const Chunks& chunk : head_chunks(z.t, z.vocab)) {
    if (!backward) {
      ops.product(kForward, z.act, chunk.rows, z.vocab, z.h, DType::kF32);
      repeat(chunk);
      const double cells = 8.0 * area(chunk.rows, z.vocab), labels = 4.0 * double(chunk.rows);
      if (z.tp == 1) {
        ops.memory("cross_entropy", DType::kF32, chunk.rows, z.vocab, cells + labels);
      } else {  // three numbers of each row from every rank between
        ops.memory("cross_entropy_statistics", DType::kF32, chunk.rows, z.vocab,
                   cells + 4 * labels);
        repeat(chunk);
        ops.memory("cross_entropy_finish", DType::kF32, chunk.rows, z.vocab,
                   cells + double(1 + 3 * z.tp) * labels);
      }
      repeat(chunk);
      continue;
    }
    if (z.act != DType::kF32) {
      ops.cast(chunk.rows, z.vocab, DType::kF32, z.act);
      repeat(chunk);
    }
    ops.input_grad(chunk.rows, z.vocab, z.h);
    repeat(chunk);
    ops.weight_grad(chunk.rows, z.vocab, z.h);
    repeat(chunk);
  }
  return ops.take();
}

UpdateCounts update_counts(const spec::ModelSpec& model) {
  UpdateCounts counts;
  for (const spec::TensorFamily& family : spec::model_tensor_families(model)) {
    const int64_t elements = family.tensor.num_elements() * family.copies;
    if (!family.tensor.weight_decay) counts.gains += elements;
    if (family.tensor.part == spec::Part::kRouter) counts.router += elements;
  }
  for (int64_t layer = 0; layer < model.num_layers + model.mtp_layers; ++layer) {
    counts.moe_layers += model.is_moe_layer(layer) ? 1 : 0;
  }
  return counts;
}

std::vector<StepOp> optimizer_ops(const spec::JobSpec& job, const Layout& layout,
                                  const LocalParams& local) {
  return optimizer_ops(job, layout, local, update_counts(job.model));
}

std::vector<StepOp> optimizer_ops(const spec::JobSpec& job, const Layout& layout,
                                  const LocalParams& local, const UpdateCounts& counts) {
  const RankSizes z = sizes_of(job, layout);
  OpList ops(z);
  const bool cut = layout.zero_stage > 0;
  const double moment = layout.moments_dtype == "bf16" ? 2 : 4;
  const int64_t updated =
      cut ? local.dense / layout.dense_zero_group() + local.experts / layout.expert_zero_group()
          : local.total();
  const int64_t shares = layout.pp * (cut ? layout.dense_zero_group() : 1);
  const int64_t gains = std::min(updated, counts.gains / shares);
  const int64_t router =
      z.act == DType::kF32 ? 0 : std::min(updated - gains, counts.router / shares);
  const double gradient = layout.grads_dtype == "bf16" ? 2 : 4;
  ops.memory("fill_zero", DType::kF32, 1, local.total(), gradient * double(local.total()));
  const int64_t state = 2 * (kStepScalars + counts.moe_layers * z.experts);
  ops.memory("fill_zero", DType::kF32, 1, state, 4.0 * double(state));
  ops.memory("copy_to_host", DType::kF32, 1, state, 8.0 * double(state));
  ops.add("squared_norm", OpClass::kOptimizer, DType::kF32, {1, updated, 0}, 0,
          gradient * double(updated));
  ops.memory("clip_scale", DType::kF32, 0, 0, 20);
  const DType moments = layout.moments_dtype == "bf16" ? DType::kBf16 : DType::kF32;
  const auto adamw = [&](int64_t n, bool copied) {
    if (n == 0) return;
    const bool compute = copied && z.act != DType::kF32;
    ops.add("adamw", OpClass::kOptimizer, moments, {1, n, 0}, 0,
            double(n) * (8 + gradient + 4 * moment + (compute ? 2 : 0)));
  };
  adamw(updated - gains - router, true);
  adamw(router, false);
  adamw(gains, false);
  if (job.model.moe.use_aux_loss_free && counts.moe_layers > 0) {
    ops.memory("router_bias_update", DType::kF32, 1, z.experts, 16.0 * double(z.experts));
    ops.last().calls = double(std::max<int64_t>(1, counts.moe_layers / layout.pp));
  }
  return ops.take();
}

std::vector<StepOp> step_ops(const spec::JobSpec& job, const Layout& layout) {
  DSV3_CHECK(layout.pp == 1);
  const spec::ModelSpec& model = job.model;
  const auto micro_batches = static_cast<double>(layout.grad_accumulation);
  std::vector<StepOp> step;
  const auto add = [&step](const std::vector<StepOp>& ops, double times) {
    for (const StepOp& op : ops) {
      const auto same = std::find_if(step.begin(), step.end(), [&](const StepOp& other) {
        return other.op == op.op && other.role == op.role && other.dtype == op.dtype &&
               other.shape == op.shape && other.bytes == op.bytes;
      });
      if (same != step.end()) {
        same->calls += times * op.calls;
        continue;
      }
      step.push_back(op);
      step.back().calls *= times;
    }
  };
  for (int64_t layer = 0; layer < model.num_layers + model.mtp_layers; ++layer) {
    const LayerKind kind = layer >= model.num_layers   ? LayerKind::kMtp
                           : model.is_moe_layer(layer) ? LayerKind::kMoe
                                                       : LayerKind::kDense;
    add(layer_forward_ops(job, layout, kind), micro_batches);
    add(layer_backward_ops(job, layout, kind), micro_batches);
  }
  for (const bool backward : {false, true}) {
    add(embedding_ops(job, layout, backward), micro_batches);
    add(head_ops(job, layout, backward), micro_batches);
  }
  add(optimizer_ops(job, layout, ShardedCounts(model).stage(layout, 0)), 1);
  return step;
}

}  // namespace dsv3::plan
