// Products, the experts' products and attention by their sizes; see calibrate.h.
#include <algorithm>
#include <vector>

#include "runtime/train/calibrate_bench.h"

namespace dsv3::train {
namespace {

using ops::Context;
using plan::OpClass;

constexpr int64_t kExpertsMax = 128;
constexpr int64_t kAttentionTokensMax = 4096;
constexpr double kFlopsMax = 5e9;  // of a call; larger ones go at the rate of the nearest
constexpr double kFlopsMaxQuick = 3e8;

// The rates bend where a side passes a tile and where a cache is full. Only the router, which is
// f32 in any model, has a side as short as 8.
std::vector<int64_t> sides(DType dtype, bool quick) {
  if (quick) return {32, 256, 2048};
  if (dtype == DType::kF32) return {8, 32, 128, 512, 2048, 8192};
  return {32, 128, 512, 2048, 8192};
}

double flops_max(bool quick) {
  return quick ? kFlopsMaxQuick : kFlopsMax;
}

plan::StepOp like(OpClass cls, int64_t groups = 1) {
  plan::StepOp op;
  op.cls = cls;
  op.groups = groups;
  return op;
}

void gemm(const Context& context, const ops::Gemm& args) {
  ops::gemm(context, args);
}

// y = x Wᵀ, and the same added to the residual stream.
void measure_linear(Bench& bench, DType dtype, int64_t rows, int64_t out, int64_t in,
                    bool accumulate) {
  plan::StepOp op = like(OpClass::kGemm);
  op.accumulate = accumulate;
  bench.begin_op();
  const ops::Matrix x = bench.warm(dtype, rows, in);
  bench.measure(
      "gemm", op,
      [&] {
        return ops::Gemm{.a = x,
                         .b = bench.cold(dtype, out, in),
                         .c = bench.cold(dtype, rows, out),
                         .transpose_b = true,
                         .accumulate = accumulate};
      },
      gemm);
}

void measure_input_grad(Bench& bench, DType dtype, int64_t rows, int64_t out, int64_t in,
                        bool accumulate) {
  plan::StepOp op = like(OpClass::kGemm);
  op.accumulate = accumulate;
  bench.begin_op();
  const ops::Matrix dy = bench.warm(dtype, rows, in), dx = bench.warm(dtype, rows, out);
  bench.measure(
      "gemm", op,
      [&] {
        return ops::Gemm{.a = dy,
                         .b = bench.cold(dtype, in, out),
                         .c = accumulate ? bench.cold(dtype, rows, out) : dx,
                         .accumulate = accumulate};
      },
      gemm);
}

void measure_weight_grad(Bench& bench, DType dtype, int64_t m, int64_t n, int64_t rows) {
  plan::StepOp op = like(OpClass::kGemm);
  op.accumulate = true;
  bench.begin_op();
  const ops::Matrix dy = bench.warm(dtype, rows, m);
  bench.measure(
      "gemm", op,
      [&] {
        return ops::Gemm{.a = dy,
                         .b = bench.cold(dtype, rows, n),
                         .c = bench.cold(DType::kF32, m, n),
                         .transpose_a = true,
                         .accumulate = true};
      },
      gemm);
}

// Offsets of `groups` groups with `rows` each, in the arena's stack.
ops::Vector<const int32_t> equal_offsets(tensor::Arena& arena, int64_t groups, int64_t rows) {
  std::vector<int32_t> offsets;
  for (int64_t g = 0; g <= groups; ++g) offsets.push_back(static_cast<int32_t>(g * rows));
  const tensor::Tensor device = arena.push("calibration", DType::kI32, {groups + 1});
  arena.device().backend().copy_to_device(
      device.data, offsets.data(), offsets.size() * sizeof(int32_t), arena.device().stream());
  arena.device().synchronize();
  return device.vector<const int32_t>();
}

// Of `groups` experts with `rows` each: all three products as m or n × k of the grid.
void measure_experts(Bench& bench, DType dtype, int64_t groups, int64_t rows, int64_t n,
                     int64_t k) {
  const tensor::Scope scope(bench.arena());
  const auto offsets = equal_offsets(bench.arena(), groups, rows);
  const plan::StepOp op = like(OpClass::kGroupedGemm, groups);
  const int64_t all = groups * rows;
  const auto grouped = [](const Context& context, const ops::GroupedGemm& args) {
    ops::grouped_gemm(context, args);
  };
  bench.begin_op();
  const ops::Matrix a = bench.warm(dtype, all, k), c = bench.warm(dtype, all, n);
  bench.measure(
      "grouped_gemm", op,
      [&] {
        return ops::GroupedGemm{.a = a,
                                .b = bench.cold_stack(dtype, groups, n, k),
                                .c = bench.cold(dtype, all, n),
                                .offsets = offsets,
                                .transpose_b = true};
      },
      grouped);
  bench.measure(
      "grouped_gemm", op,
      [&] {
        return ops::GroupedGemm{
            .a = a, .b = bench.cold_stack(dtype, groups, k, n), .c = c, .offsets = offsets};
      },
      grouped);
  bench.begin_op();
  const ops::Matrix dy = bench.warm(dtype, all, n);
  bench.measure(
      "grouped_gemm_weight_grad", op,
      [&] {
        return ops::GroupedGemmWeightGrad{.a = dy,
                                          .b = bench.cold(dtype, all, k),
                                          .c = bench.cold_stack(DType::kF32, groups, n, k),
                                          .offsets = offsets};
      },
      [](const Context& context, const ops::GroupedGemmWeightGrad& args) {
        ops::grouped_gemm_weight_grad(context, args);
      });
}

void measure_heads(Bench& bench, DType dtype, const ops::MlaShape& shape) {
  const int64_t tokens = shape.batch * shape.sequence, heads = shape.heads;
  plan::StepOp op = like(OpClass::kAttentionForward);
  op.qk_dim = shape.nope_dim + shape.rope_dim;
  op.v_dim = shape.v_dim;
  const int64_t q_cols = heads * op.qk_dim, kv_cols = heads * (shape.nope_dim + shape.v_dim);
  const int64_t out_cols = heads * shape.v_dim;
  bench.begin_op();
  const ops::Vector<float> lse = bench.warm(tokens * heads);
  const ops::Matrix q = bench.warm(dtype, tokens, q_cols), kv = bench.warm(dtype, tokens, kv_cols),
                    k_rope = bench.warm(dtype, tokens, shape.rope_dim);
  bench.measure(
      "mla_attention_forward", op,
      [&] {
        return ops::MlaAttentionForward{.shape = shape,
                                        .q = q,
                                        .kv = kv,
                                        .k_rope = k_rope,
                                        .out = bench.cold(dtype, tokens, out_cols),
                                        .lse = lse};
      },
      [](const Context& context, const ops::MlaAttentionForward& args) {
        ops::mla_attention_forward(context, args);
      });
  op.cls = OpClass::kAttentionBackward;
  const ops::Matrix dout = bench.warm(dtype, tokens, out_cols);
  bench.measure(
      "mla_attention_backward", op,
      [&] {
        return ops::MlaAttentionBackward{.shape = shape,
                                         .q = bench.cold(dtype, tokens, q_cols),
                                         .kv = bench.cold(dtype, tokens, kv_cols),
                                         .k_rope = bench.cold(dtype, tokens, shape.rope_dim),
                                         .out = bench.cold(dtype, tokens, out_cols),
                                         .lse = lse,
                                         .dout = dout,
                                         .dq = q,
                                         .dkv = kv,
                                         .dk_rope = k_rope};
      },
      [](const Context& context, const ops::MlaAttentionBackward& args) {
        ops::mla_attention_backward(context, args);
      });
}

}  // namespace

void measure_products(Bench& bench, DType dtype, bool quick) {
  const std::vector<int64_t> lines = sides(dtype, quick);
  for (const int64_t m : lines) {
    for (const int64_t n : lines) {
      for (const int64_t k : lines) {
        const double flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k);
        const auto largest = static_cast<double>(std::max({m * n, n * k, m * k}));
        if (flops > flops_max(quick) || !bench.fits(largest * 2 * sizeof(float))) continue;
        measure_linear(bench, dtype, m, n, k, false);
        // Only outputs of blocks are added: as wide as the model.
        measure_linear(bench, dtype, m, n, k, true);
        measure_input_grad(bench, dtype, m, n, k, false);
        // Only the router's is added, in f32 models: as deep as there are experts.
        if (dtype == DType::kF32 && k <= kExpertsMax)
          measure_input_grad(bench, dtype, m, n, k, true);
        measure_weight_grad(bench, dtype, m, n, k);
      }
    }
  }
}

void measure_grouped_products(Bench& bench, DType dtype, bool quick) {
  const std::vector<int64_t> few = {16, 256}, many = {8, 32, 128, 512};
  const std::vector<int64_t> narrow = {64, 512}, wide = {64, 256, 1024};
  for (const int64_t groups : {4, 16}) {
    for (const int64_t rows : quick ? few : many) {
      for (const int64_t n : quick ? narrow : wide) {
        for (const int64_t k : quick ? narrow : wide) {
          const double stack = static_cast<double>(groups * n * k) * sizeof(float);
          const double slots = static_cast<double>(groups * rows);
          const double operands = slots * static_cast<double>(n + k) * sizeof(float);
          const double flops = 2 * slots * static_cast<double>(n * k);
          if (!bench.fits(std::max(stack, operands)) || flops > flops_max(quick)) continue;
          measure_experts(bench, dtype, groups, rows, n, k);
        }
      }
    }
  }
}

void measure_attention(Bench& bench, DType dtype, bool quick) {
  constexpr int64_t kHeads = 4;
  const std::vector<int64_t> few = {64, 512}, many = {16, 64, 128, 256, 512, 1024};
  for (const int64_t sequence : quick ? few : many) {
    for (const int64_t unit : {16, 32, 64}) {  // rope's width; nope and v twice it, as in V3
      for (const int64_t batch : {2, 8}) {
        // Backward: three products of 3 units a pair and two of 2, of half the pairs.
        const double flops = 13.0 * static_cast<double>(unit * batch * kHeads) *
                             static_cast<double>(sequence * sequence);
        if (batch * sequence > kAttentionTokensMax || flops > flops_max(quick)) continue;
        measure_heads(bench, dtype,
                      {.batch = batch,
                       .sequence = sequence,
                       .heads = kHeads,
                       .nope_dim = 2 * unit,
                       .rope_dim = unit,
                       .v_dim = 2 * unit,
                       .scale = 0.1F});
      }
    }
  }
}

}  // namespace dsv3::train
