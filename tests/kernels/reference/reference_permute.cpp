// The moves of tokens to their experts and back, as args.h says; see reference_backend.h.
#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {

void ReferenceBackend::route_plan(const ops::Context&, const ops::RoutePlan& args) {
  int32_t row = 0;
  for (int64_t e = 0; e < args.experts; ++e) {
    args.offsets.data[e] = row;
    int64_t run = -1, taken = 0;
    for (int64_t slot = 0; slot < args.expert_idx.size; ++slot) {
      if (args.capacity > 0 && slot / args.top_k / args.run != run) {
        run = slot / args.top_k / args.run;
        taken = args.before.empty() ? 0 : args.before.data[run * args.experts + e];
      }
      if (args.expert_idx.data[slot] != e) continue;
      if (args.capacity > 0 && taken++ >= args.capacity) {
        args.row_of_slot.data[slot] = -1;
        if (args.dropped) *args.dropped += 1;
        continue;
      }
      args.row_of_slot.data[slot] = row;
      args.slot_of_row.data[row] = static_cast<int32_t>(slot);
      ++row;
    }
  }
  args.offsets.data[args.experts] = row;
}

void ReferenceBackend::permute_rows(const ops::Context&, const ops::PermuteRows& args) {
  for (int64_t r = 0; r < args.slot_of_row.size; ++r) {
    const int32_t slot = args.slot_of_row.data[r];
    for (int64_t c = 0; c < args.x.cols; ++c)
      store(args.y, r, c, load(args.x, slot / args.top_k, c));
    if (!args.weights.empty()) args.row_weight.data[r] = args.weights.data[slot];
  }
}

void ReferenceBackend::unpermute_sum(const ops::Context&, const ops::UnpermuteSum& args) {
  for (int64_t t = 0; t < args.row_of_slot.size / args.top_k; ++t) {
    const int32_t* rows = args.row_of_slot.data + t * args.top_k;
    for (int64_t c = 0; c < args.x.cols && args.x.data; ++c) {
      double sum = args.accumulate ? load(args.y, t, c) : 0.0;
      for (int64_t k = 0; k < args.top_k; ++k) sum += rows[k] < 0 ? 0.0 : load(args.x, rows[k], c);
      store(args.y, t, c, sum);
    }
    for (int64_t k = 0; k < args.top_k && !args.row_values.empty(); ++k) {
      args.slot_values.data[t * args.top_k + k] =
          rows[k] < 0 ? 0.0f : args.row_values.data[rows[k]];
    }
  }
}

}  // namespace dsv3::reference
