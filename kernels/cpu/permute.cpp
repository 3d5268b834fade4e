// Moving tokens to their experts and back: a stable counting sort of the slots, a gather, a
// gathered sum; contract in kernels/ops/args.h.
//
// Law: within an expert rows are in token order, and a token's rows are added in the order of its
// choices, so results do not depend on the number of threads.
//
//   T tokens    K experts per token    E experts    slot = t · K + k
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

constexpr int64_t kSumColumns = 512;  // columns summed at a time, on the stack

// y[0, cols) (+)= Σ_k of the rows of x that hold the token's choices.
template <typename T>
void sum_rows(const ops::ConstMatrix& x, const int32_t* rows, int64_t top_k, bool accumulate, T* y,
              int64_t cols) {
  float sum[kSumColumns];
  for (int64_t begin = 0; begin < cols; begin += kSumColumns) {
    const int64_t count = std::min(kSumColumns, cols - begin);
    if (accumulate) {
      load_row(y + begin, sum, count);
    } else {
      std::fill_n(sum, count, 0.0f);
    }
    for (int64_t k = 0; k < top_k; ++k) {
      if (rows[k] < 0) continue;  // dropped
      const T* row = row_of<T>(x, rows[k]) + begin;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) sum[i] += to_float(row[i]);
    }
    store_row(sum, y + begin, count);
  }
}

bool is_kept(const ops::RoutePlan& args, int64_t slot) {
  return args.capacity == 0 || args.row_of_slot.data[slot] >= 0;
}

// Gives every slot beyond its expert's capacity row −1, the others 0. `taken` [threads, E] is
// scratch.
void drop_beyond_capacity(const ops::RoutePlan& args, int32_t* taken) {
  const int64_t slots = args.expert_idx.size, experts = args.experts;
  const int64_t per_run = args.run * args.top_k;
  int64_t dropped = 0;
#pragma omp parallel for schedule(static) reduction(+ : dropped) if (slots > kParallelMin)
  for (int64_t run = 0; run < slots / per_run; ++run) {
    int32_t* mine = taken + omp_get_thread_num() * experts;
    if (args.before.empty()) {
      std::fill_n(mine, experts, 0);
    } else {
      std::copy_n(args.before.data + run * experts, experts, mine);
    }
    for (int64_t slot = run * per_run; slot < (run + 1) * per_run; ++slot) {
      const int32_t expert = args.expert_idx.data[slot];
      const bool full = mine[expert] >= args.capacity;
      ++mine[expert];
      args.row_of_slot.data[slot] = full ? -1 : 0;
      dropped += full;
    }
  }
  if (args.dropped) *args.dropped += static_cast<double>(dropped);
}

}  // namespace

namespace DSV3_CPU_ROWS {

void route_plan(const ops::Context& ctx, const ops::RoutePlan& args) {
  const int64_t slots = args.expert_idx.size, experts = args.experts;
  // Each chunk counts its slots per expert, the counts become first rows, then each chunk places
  // its slots: stable whatever the number of chunks.
  const int64_t chunks = std::clamp<int64_t>(slots / kParallelMin, 1, omp_get_max_threads());
  const int64_t per_chunk = ceil_div(slots, chunks);
  const int64_t scratch = chunks + (args.capacity > 0 ? omp_get_max_threads() : 0);
  int32_t* next_row = reinterpret_cast<int32_t*>(
      ctx.workspace->reserve(scratch * experts * sizeof(int32_t)));  // [chunks, E]
  std::fill_n(next_row, chunks * experts, 0);
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (int64_t c = 0; c < chunks; ++c) {
    for (int64_t slot = c * per_chunk; slot < std::min(slots, (c + 1) * per_chunk); ++slot) {
      const int32_t expert = args.expert_idx.data[slot];
      DSV3_CHECK(expert >= 0 && expert < experts,
                 "route_plan: an expert index is outside [0, experts)");
      ++next_row[c * experts + expert];
    }
  }
  if (args.capacity > 0) {
    drop_beyond_capacity(args, next_row + chunks * experts);
    std::fill_n(next_row, chunks * experts, 0);
    for (int64_t slot = 0; slot < slots; ++slot) {
      next_row[slot / per_chunk * experts + args.expert_idx.data[slot]] += is_kept(args, slot);
    }
  }
  int32_t row = 0;
  for (int64_t e = 0; e < experts; ++e) {
    args.offsets.data[e] = row;
    for (int64_t c = 0; c < chunks; ++c) {
      const int32_t count = next_row[c * experts + e];
      next_row[c * experts + e] = row;
      row += count;
    }
  }
  args.offsets.data[experts] = row;
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (int64_t c = 0; c < chunks; ++c) {
    for (int64_t slot = c * per_chunk; slot < std::min(slots, (c + 1) * per_chunk); ++slot) {
      if (!is_kept(args, slot)) continue;
      const int32_t to = next_row[c * experts + args.expert_idx.data[slot]]++;
      args.row_of_slot.data[slot] = to;
      args.slot_of_row.data[to] = static_cast<int32_t>(slot);
    }
  }
}

void permute_rows(const ops::Context&, const ops::PermuteRows& args) {
  const int64_t rows = args.slot_of_row.size;
  dispatch(args.x.dtype, [&](auto element) {
    using T = decltype(element);
#pragma omp parallel for schedule(static) if (rows * args.x.cols > kParallelMin)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t slot = args.slot_of_row.data[r];
      std::copy_n(row_of<T>(args.x, slot / args.top_k), args.x.cols, row_of<T>(args.y, r));
      if (!args.weights.empty()) args.row_weight.data[r] = args.weights.data[slot];
    }
  });
}

void unpermute_sum(const ops::Context&, const ops::UnpermuteSum& args) {
  const int64_t slots = args.row_of_slot.size, tokens = slots / args.top_k;
  if (args.x.data) {
    dispatch(args.x.dtype, [&](auto element) {
      using T = decltype(element);
#pragma omp parallel for schedule(static) if (slots * args.x.cols > kParallelMin)
      for (int64_t t = 0; t < tokens; ++t) {
        sum_rows<T>(args.x, args.row_of_slot.data + t * args.top_k, args.top_k, args.accumulate,
                    row_of<T>(args.y, t), args.x.cols);
      }
    });
  }
  if (args.row_values.empty()) return;
#pragma omp parallel for schedule(static) if (slots > kParallelMin)
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int32_t row = args.row_of_slot.data[slot];
    args.slot_values.data[slot] = row < 0 ? 0.0f : args.row_values.data[row];
  }
}

}  // namespace DSV3_CPU_ROWS
}  // namespace dsv3::cpu
