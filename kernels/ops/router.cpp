// Checks and dispatch of the router's ops; contract in args.h.
#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {
namespace {

// Every expert is in one group, and the kept groups hold enough experts for the choice.
bool is_valid(const RouterShape& s) {
  return s.tokens >= 0 && s.experts >= 1 && s.groups >= 1 && s.experts % s.groups == 0 &&
         s.top_groups >= 1 && s.top_groups <= s.groups && s.top_k >= 1 &&
         s.top_k <= s.top_groups * (s.experts / s.groups);
}
// As many tokens of each sequence, and no more than it has.
bool has_whole_sequences(const RouterShape& s) {
  return s.sequence >= 1 && s.tokens % s.sequence == 0 && s.loss_sequence() >= s.sequence;
}

}  // namespace

void router_forward(const Context& ctx, const RouterForward& args) {
  const RouterShape& s = args.shape;
  DSV3_CHECK(is_valid(s), "router_forward: shape");
  DSV3_CHECK(has_size(args.logits, s.tokens * s.experts), "router_forward: logits is [T, E]");
  DSV3_CHECK(is_absent_or_has_size(args.bias, s.experts), "router_forward: bias is [E]");
  DSV3_CHECK(has_size(args.scores, s.tokens * s.experts), "router_forward: scores is [T, E]");
  DSV3_CHECK(has_size(args.expert_idx, s.tokens * s.top_k), "router_forward: expert_idx is [T, K]");
  DSV3_CHECK(has_size(args.weights, s.tokens * s.top_k), "router_forward: weights is [T, K]");
  DSV3_CHECK(has_size(args.counts, s.experts), "router_forward: counts is [E]");
  DSV3_CHECK(
      args.run_counts.empty() || (args.run >= 1 && s.tokens % args.run == 0 &&
                                  has_size(args.run_counts, s.tokens / args.run * s.experts)),
      "router_forward: run_counts is [T / run, E]");
  ctx.backend->router_forward(ctx, args);
}

void router_loss(const Context& ctx, const RouterLoss& args) {
  const RouterShape& s = args.shape;
  DSV3_CHECK(is_valid(s) && has_whole_sequences(s), "router_loss: shape");
  DSV3_CHECK(has_size(args.logits, s.tokens * s.experts), "router_loss: logits is [T, E]");
  DSV3_CHECK(has_size(args.scores, s.tokens * s.experts), "router_loss: scores is [T, E]");
  DSV3_CHECK(has_size(args.expert_idx, s.tokens * s.top_k), "router_loss: expert_idx is [T, K]");
  DSV3_CHECK(is_absent_or_has_size(args.fraction, s.tokens / s.sequence * s.experts),
             "router_loss: fraction is [T / sequence, E]");
  DSV3_CHECK(args.aux_weight == 0.0f || s.tokens == 0 || (!args.fraction.empty() && args.aux_loss),
             "router_loss: an aux_weight needs fraction and aux_loss");
  DSV3_CHECK(args.z_weight == 0.0f || s.tokens == 0 || args.z_loss,
             "router_loss: a z_weight needs z_loss");
  DSV3_CHECK(is_absent_or_has_size(args.sequence_counts, s.tokens / s.sequence * s.experts),
             "router_loss: sequence_counts is [T / sequence, E]");
  ctx.backend->router_loss(ctx, args);
}

void router_backward(const Context& ctx, const RouterBackward& args) {
  const RouterShape& s = args.shape;
  DSV3_CHECK(is_valid(s), "router_backward: shape");
  DSV3_CHECK(has_size(args.logits, s.tokens * s.experts), "router_backward: logits is [T, E]");
  DSV3_CHECK(has_size(args.scores, s.tokens * s.experts), "router_backward: scores is [T, E]");
  DSV3_CHECK(has_size(args.expert_idx, s.tokens * s.top_k),
             "router_backward: expert_idx is [T, K]");
  DSV3_CHECK(has_size(args.dweights, s.tokens * s.top_k), "router_backward: dweights is [T, K]");
  DSV3_CHECK(
      args.aux_weight == 0.0f ||
          (has_whole_sequences(s) && has_size(args.fraction, s.tokens / s.sequence * s.experts)),
      "router_backward: an aux_weight needs fraction [T / sequence, E]");
  DSV3_CHECK(has_size(args.dlogits, s.tokens * s.experts), "router_backward: dlogits is [T, E]");
  ctx.backend->router_backward(ctx, args);
}

void router_bias_update(const Context& ctx, const RouterBiasUpdate& args) {
  DSV3_CHECK(has_size(args.counts, args.bias.size) && has_size(args.bias, args.counts.size),
             "router_bias_update: counts and bias are [E]");
  ctx.backend->router_bias_update(ctx, args);
}

}  // namespace dsv3::ops
