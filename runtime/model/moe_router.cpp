// Scores, choices, losses and their gradients; see moe_router.h.
#include "runtime/model/moe_router.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace dsv3::model {
namespace {

// The position, in the whole sequence, of a CP rank's token j: token_positions()[j].
int64_t position_of(const Pass& pass, int64_t cp_rank, int64_t j) {
  if (pass.cp() == 1) return j;
  const int64_t parts = 2 * pass.cp(), part = pass.sequence / parts;
  return j < part ? cp_rank * part + j : (parts - 1 - cp_rank) * part + j - part;
}

}  // namespace

MoeRouter::MoeRouter(const spec::ModelSpec& model, const ParamStore& params,
                     const std::string& prefix, ops::Vector<float> bias)
    : experts_(model.moe.num_experts),
      top_k_(model.moe.num_experts_per_token),
      groups_(model.moe.n_group),
      top_groups_(model.moe.topk_group),
      score_(model.moe.score_function == "softmax" ? ops::ScoreFunction::kSoftmax
                                                   : ops::ScoreFunction::kSigmoid),
      normalise_(model.moe.norm_topk_prob),
      scaling_(static_cast<float>(model.moe.routed_scaling_factor)),
      capacity_factor_(model.moe.capacity_factor.value_or(0.0)),
      bias_(bias),
      gate_(params.f32_weight(prefix + ".gate")) {}

int64_t MoeRouter::capacity(int64_t sequence) const {
  if (capacity_factor_ == 0) return 0;
  const double mean =
      static_cast<double>(sequence) * static_cast<double>(top_k_) / static_cast<double>(experts_);
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(capacity_factor_ * mean)));
}

ops::RouterShape MoeRouter::shape(const Pass& pass) const {
  return {.tokens = pass.tokens(),
          .sequence = pass.local_sequence(),
          .experts = experts_,
          .top_k = top_k_,
          .groups = groups_,
          .top_groups = top_groups_,
          .score = score_,
          .normalise = normalise_,
          .scaling = scaling_,
          .whole_sequence = pass.sequence};
}

// TP cuts a CP rank's two parts into runs: of an even number none crosses from one to the other.
int64_t MoeRouter::run(const Pass& pass) const {
  const bool two = pass.cp() > 1 && pass.tp() % 2 == 1;
  return pass.local_sequence() / (two ? 2 : 1);
}

bool MoeRouter::needs_sequence_counts(const Pass& pass) const {
  return pass.groups->sequence &&
         (capacity_factor_ > 0 || (pass.training && pass.scales.aux != 0.0f));
}

ops::ConstMatrix MoeRouter::as_f32(const Pass& pass, ops::ConstMatrix x) const {
  if (x.dtype == DType::kF32) return x;
  const tensor::Tensor copy = pass.push_f32("activations/moe/router_input", {x.rows, x.cols});
  ops::cast(pass.ctx, {.x = x, .y = copy});
  return copy;
}

// Every rank tells the others of its sequences what its runs chose. (The sums are made here, on the
// host, where the CPU's counts are; a GPU would make them in a kernel behind the same gather.)
MoeRouter::SequenceCounts MoeRouter::exchange_counts(const Pass& pass,
                                                     const tensor::Tensor& run_counts) const {
  comm::Communicator& group = *pass.groups->sequence;
  const int64_t members = group.size(), runs = pass.local_sequence() / run(pass);
  const int64_t each = run_counts.num_elements();
  const tensor::Tensor all = pass.push_i32("activations/moe/router", {members, each});
  const tensor::Tensor whole = pass.push_i32("activations/moe/router", {pass.sequences, experts_});
  const tensor::Tensor before =
      pass.push_i32("activations/moe/router", {pass.sequences * runs, experts_});
  const tensor::Tensor sizes = pass.arena.push("activations/moe/router", DType::kI64, {members});
  std::fill_n(sizes.as<int64_t>(), members, each);
  group.all_gather("router/counts", {run_counts.data, each, DType::kI32},
                   {all.data, members * each, DType::kI32},
                   {sizes.as<int64_t>(), static_cast<size_t>(members)});

  // Members stand in the order of tp, then cp.
  const auto first_position = [&](int64_t member, int64_t r) {
    const int64_t tp_rank = member % pass.tp(), cp_rank = member / pass.tp();
    return position_of(pass, cp_rank, tp_rank * pass.local_sequence() + r * run(pass));
  };
  std::fill_n(whole.as<int32_t>(), whole.num_elements(), 0);
  std::fill_n(before.as<int32_t>(), before.num_elements(), 0);
  for (int64_t member = 0; member < members; ++member) {
    for (int64_t i = 0; i < pass.sequences * runs; ++i) {
      const int32_t* counts = all.as<int32_t>() + member * each + i * experts_;
      const int64_t s = i / runs, position = first_position(member, i % runs);
      for (int64_t e = 0; e < experts_; ++e) whole.as<int32_t>()[s * experts_ + e] += counts[e];
      for (int64_t mine = s * runs; mine < (s + 1) * runs; ++mine) {
        if (position >= first_position(group.rank(), mine % runs)) continue;
        int32_t* sum = before.as<int32_t>() + mine * experts_;
        for (int64_t e = 0; e < experts_; ++e) sum[e] += counts[e];
      }
    }
  }
  return {whole.vector<const int32_t>(), before.vector<const int32_t>()};
}

void MoeRouter::forward(const Pass& pass, StepState& step, int64_t moe_idx, ops::ConstMatrix x,
                        RouterStash& stash) const {
  const int64_t tokens = pass.tokens(), slots = tokens * top_k_;
  stash.logits = pass.push_f32("activations/moe/router", {tokens, experts_});
  stash.scores = pass.push_f32("activations/moe/router", {tokens, experts_});
  stash.weights = pass.push_f32("activations/moe/router", {tokens, top_k_});
  stash.fraction = pass.push_f32("activations/moe/router", {pass.sequences, experts_});
  stash.expert_idx = pass.push_i32("activations/moe/router", {tokens, top_k_});
  stash.offsets = pass.push_i32("activations/moe/router", {experts_ + 1});
  stash.row_of_slot = pass.push_i32("activations/moe/router", {slots});
  stash.slot_of_row = pass.push_i32("activations/moe/router", {slots});
  const tensor::Scope scope(pass.arena);

  linear(pass, as_f32(pass, x), gate_, stash.logits);
  tensor::Tensor run_counts;
  if (needs_sequence_counts(pass)) {
    run_counts = pass.push_i32("activations/moe/router", {tokens / run(pass), experts_});
  }
  choose(pass, step, moe_idx, stash, run_counts);
}

void MoeRouter::choose(const Pass& pass, StepState& step, int64_t moe_idx, const RouterStash& stash,
                       const tensor::Tensor& run_counts) const {
  // Evaluation, and a forward made again, count into memory that nobody reads, so that they can't
  // change the balance.
  const bool told = pass.training && !pass.again;
  const ops::Vector<int64_t> counts =
      told ? step.counts(moe_idx)
           : pass.arena.push("activations/moe/router", DType::kI64, {experts_}).vector<int64_t>();
  if (!told) {
    pass.ctx.backend->fill_zero(counts.data, static_cast<size_t>(counts.size) * sizeof(int64_t),
                                pass.ctx.stream);
  }
  ops::router_forward(pass.ctx, {.shape = shape(pass),
                                 .logits = stash.logits.vector<const float>(),
                                 .bias = bias_,
                                 .scores = stash.scores.vector<float>(),
                                 .expert_idx = stash.expert_idx.vector<int32_t>(),
                                 .weights = stash.weights.vector<float>(),
                                 .counts = counts,
                                 .run = run(pass),
                                 .run_counts = run_counts.empty() ? ops::Vector<int32_t>()
                                                                  : run_counts.vector<int32_t>()});
  SequenceCounts sequences;
  if (!run_counts.empty()) sequences = exchange_counts(pass, run_counts);
  if (pass.training) {
    ops::router_loss(pass.ctx, {.shape = shape(pass),
                                .logits = stash.logits.vector<const float>(),
                                .scores = stash.scores.vector<const float>(),
                                .expert_idx = stash.expert_idx.vector<const int32_t>(),
                                .aux_weight = told ? pass.scales.aux : 0.0f,
                                .z_weight = told ? pass.scales.z : 0.0f,
                                .fraction = stash.fraction.vector<float>(),
                                .aux_loss = step.scalar(Scalar::kAuxLoss),
                                .z_loss = step.scalar(Scalar::kZLoss),
                                .sequence_counts = sequences.whole});
  }
  ops::route_plan(pass.ctx, {.expert_idx = stash.expert_idx.vector<const int32_t>(),
                             .top_k = top_k_,
                             .experts = experts_,
                             .offsets = stash.offsets.vector<int32_t>(),
                             .row_of_slot = stash.row_of_slot.vector<int32_t>(),
                             .slot_of_row = stash.slot_of_row.vector<int32_t>(),
                             .capacity = capacity(pass.sequence),
                             .run = run(pass),
                             .before = sequences.before,
                             .dropped = told ? step.scalar(Scalar::kDropped) : nullptr});
}

void MoeRouter::backward_input(const Pass& pass, const RouterStash& stash,
                               const tensor::Tensor& dweights, ops::Matrix dx,
                               const tensor::Tensor& dlogits) const {
  ops::router_backward(pass.ctx, {.shape = shape(pass),
                                  .logits = stash.logits.vector<const float>(),
                                  .scores = stash.scores.vector<const float>(),
                                  .expert_idx = stash.expert_idx.vector<const int32_t>(),
                                  .dweights = dweights.vector<const float>(),
                                  .fraction = stash.fraction.vector<const float>(),
                                  .aux_weight = pass.scales.aux,
                                  .z_weight = pass.scales.z,
                                  .dlogits = dlogits.vector<float>()});
  if (dx.dtype == DType::kF32) {
    linear_input_grad(pass, dlogits, gate_, dx, true);
    return;
  }
  const tensor::Tensor dx_f32 = pass.push_f32("transient/moe/router_input", {dx.rows, dx.cols});
  const tensor::Tensor dx_act = pass.push("transient/moe/router_input", dx.cols);
  linear_input_grad(pass, dlogits, gate_, dx_f32);
  ops::cast(pass.ctx, {.x = dx_f32, .y = dx_act});
  ops::add(pass.ctx, {.x = dx_act, .y = dx});
}

void MoeRouter::backward_weight(const Pass& pass, ops::ConstMatrix x,
                                const tensor::Tensor& dlogits) const {
  const tensor::Scope scope(pass.arena);
  linear_weight_grad(pass, dlogits, as_f32(pass, x), gate_);
}

}  // namespace dsv3::model
