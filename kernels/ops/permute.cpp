// Checks and dispatch of the ops that move tokens to their experts and back; contract in args.h.
#include <limits>

#include "kernels/ops/checks.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {

void route_plan(const Context& ctx, const RoutePlan& args) {
  const int64_t slots = args.expert_idx.size;
  DSV3_CHECK(args.top_k >= 1 && args.experts >= 1 && slots % args.top_k == 0,
             "route_plan: expert_idx is [T, K]");
  DSV3_CHECK(slots <= std::numeric_limits<int32_t>::max(),
             "route_plan: more slots than 32 bits index");
  DSV3_CHECK(has_size(args.expert_idx, slots), "route_plan: expert_idx is [T, K]");
  DSV3_CHECK(has_size(args.offsets, args.experts + 1), "route_plan: offsets is [E + 1]");
  DSV3_CHECK(has_size(args.row_of_slot, slots), "route_plan: row_of_slot is [T·K]");
  DSV3_CHECK(has_size(args.slot_of_row, slots), "route_plan: slot_of_row is [T·K]");
  DSV3_CHECK(args.capacity >= 0, "route_plan: capacity");
  if (args.capacity > 0) {
    const int64_t tokens = slots / args.top_k;
    DSV3_CHECK(args.run >= 1 && tokens % args.run == 0, "route_plan: a capacity needs whole runs");
    DSV3_CHECK(is_absent_or_has_size(args.before, tokens / args.run * args.experts),
               "route_plan: before is [T / run, E]");
  }
  ctx.backend->route_plan(ctx, args);
}

void permute_rows(const Context& ctx, const PermuteRows& args) {
  const int64_t rows = args.slot_of_row.size;
  DSV3_CHECK(args.top_k >= 1, "permute_rows: top_k");
  DSV3_CHECK(is_act(args.x.dtype) && is_valid(args.x), "permute_rows: x");
  DSV3_CHECK(has_size(args.slot_of_row, rows), "permute_rows: slot_of_row is [rows]");
  DSV3_CHECK(has_shape(args.y, args.x.dtype, rows, args.x.cols),
             "permute_rows: y is [rows, D] like x");
  DSV3_CHECK(is_absent_or_has_size(args.weights, args.x.rows * args.top_k),
             "permute_rows: weights is [T, K]");
  DSV3_CHECK(args.weights.empty() || has_size(args.row_weight, rows),
             "permute_rows: row_weight is [rows], with weights");
  ctx.backend->permute_rows(ctx, args);
}

void unpermute_sum(const Context& ctx, const UnpermuteSum& args) {
  const int64_t slots = args.row_of_slot.size;
  DSV3_CHECK(args.top_k >= 1 && slots % args.top_k == 0 && has_size(args.row_of_slot, slots),
             "unpermute_sum: row_of_slot is [T·K]");
  if (args.x.data) {
    DSV3_CHECK(is_act(args.x.dtype) && is_valid(args.x), "unpermute_sum: x");
    DSV3_CHECK(has_shape(args.y, args.x.dtype, slots / args.top_k, args.x.cols),
               "unpermute_sum: y is [T, D] like x");
  }
  DSV3_CHECK(args.row_values.empty() || has_size(args.slot_values, slots),
             "unpermute_sum: slot_values is [T·K], with row_values");
  ctx.backend->unpermute_sum(ctx, args);
}

}  // namespace dsv3::ops
