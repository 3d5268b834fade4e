// What step_ops.cpp builds its lists with: a rank's sizes under a layout, and ops appended with
// their costs.
//
// Law: costs are counted as kernels/ops/cost.cpp counts them, one function per op. Only for
// step_ops.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/plan/step_ops.h"

namespace dsv3::plan {

inline constexpr std::string_view kForward = "forward", kInputGrad = "input grad",
                                  kWeightGrad = "weight grad";

// Of one rank; see step_ops.cpp for the letters.
struct RankSizes {
  int64_t sequences, s, t, ts;  // sequences of the micro-batch, tokens of each on this rank
  int64_t full_s;               // tokens of a sequence before CP
  int64_t keys;                 // of the micro-batch: whole sequences, whose latents CP gathers
  int64_t h, heads, qr, r, dn, dr, dv, dq;
  int64_t dense, shared, width;  // of the feed-forwards, on this rank
  int64_t experts, groups;       // in all, and on this rank
  int64_t top_k, rows, vocab;
  double e;
  DType act;
  bool fp8;  // the layers' products
  bool direct_query;
  int64_t tp, cp;
  int64_t sent;       // rows of this rank's own tokens
  bool travels;       // they go to experts elsewhere
  int64_t parts;      // of the experts here, computed one after the other
  bool keeps_swiglu;  // its outputs are kept for the backward pass
};

inline double area(int64_t rows, int64_t cols) {
  return static_cast<double>(rows) * static_cast<double>(cols);
}

// Appends ops with their costs, as kernels/ops/cost.cpp counts them.
class OpList {
 public:
  explicit OpList(const RankSizes& z) : z_(z) { ops_.reserve(64); }

  std::vector<StepOp> take() { return std::move(ops_); }
  StepOp& last() { return ops_.back(); }
  // Of the ops that follow.
  void set_beside(Beside beside) { beside_ = beside; }
  // What was added last is computed for one part of the experts after the other.
  void in_parts() {
    StepOp& op = last();
    op.calls = double(z_.parts);
    op.shape[0] /= z_.parts;
    op.flops /= op.calls;
    op.bytes /= op.calls;
    op.groups = (op.groups + z_.parts - 1) / z_.parts;
  }

  StepOp& add(std::string_view op, OpClass cls, DType dtype, std::array<int64_t, 3> shape,
              double flops, double bytes) {
    StepOp& added = ops_.emplace_back();
    added.op = op;
    added.cls = cls;
    added.dtype = dtype;
    added.shape = shape;
    added.flops = flops;
    added.bytes = bytes;
    added.beside = beside_;
    return added;
  }
  StepOp& memory(std::string_view op, DType dtype, int64_t rows, int64_t cols, double bytes) {
    return add(op, OpClass::kMemory, dtype, {rows, cols, 0}, 0, bytes);
  }

  // A linear layer [out, in] on rows; the result in `to`.
  void product(std::string_view role, DType dtype, int64_t rows, int64_t out, int64_t in, DType to,
               bool accumulate = false) {
    const double e = static_cast<double>(dtype_bytes(dtype));
    const double written = static_cast<double>(dtype_bytes(to)) * (accumulate ? 2 : 1);
    std::array<int64_t, 3> shape{rows, out, in};
    if (role == kInputGrad) shape = {rows, in, out};
    if (role == kWeightGrad) shape = {out, in, rows};
    const double bytes = e * (area(shape[0], shape[2]) + area(shape[2], shape[1])) +
                         written * area(shape[0], shape[1]);
    StepOp& op = add("gemm", OpClass::kGemm, dtype, shape, 2 * area(rows, out) * double(in), bytes);
    op.role = role;
    op.accumulate = accumulate;
    op.fp8 = z_.fp8 && dtype == z_.act;
  }
  void linear(int64_t rows, int64_t out, int64_t in, bool accumulate = false) {
    product(kForward, z_.act, rows, out, in, z_.act, accumulate);
  }
  void input_grad(int64_t rows, int64_t out, int64_t in) {
    product(kInputGrad, z_.act, rows, out, in, z_.act);
  }
  void weight_grad(int64_t rows, int64_t out, int64_t in) {
    product(kWeightGrad, z_.act, rows, out, in, DType::kF32, true);
  }
  // The experts' products, every expert's weight once.
  void grouped(std::string_view role, int64_t out, int64_t in) {
    const bool weight = role == kWeightGrad;
    std::array<int64_t, 3> shape{z_.rows, out, in};
    if (role == kInputGrad) shape = {z_.rows, in, out};
    if (weight) shape = {out, in, z_.rows};
    const double stack = static_cast<double>(z_.groups) * area(out, in);
    const double bytes = z_.e * (area(z_.rows, in) + area(z_.rows, out)) +
                         stack * (weight ? 8 : z_.e) + 4.0 * static_cast<double>(z_.groups + 1);
    StepOp& op = add(weight ? "grouped_gemm_weight_grad" : "grouped_gemm", OpClass::kGroupedGemm,
                     z_.act, shape, 2 * area(z_.rows, out) * double(in), bytes);
    op.role = role;
    op.groups = z_.groups;
    op.fp8 = z_.fp8;
  }

  void norm_forward(int64_t rows, int64_t cols) {
    memory("rms_norm_forward", z_.act, rows, cols,
           2 * z_.e * area(rows, cols) + 4.0 * double(cols) + 4.0 * double(rows));
  }
  void norm_backward(int64_t rows, int64_t cols, bool accumulate) {
    memory(
        "rms_norm_backward", z_.act, rows, cols,
        (accumulate ? 4 : 3) * z_.e * area(rows, cols) + 12.0 * double(cols) + 4.0 * double(rows));
  }
  void rope() {
    if (z_.dr == 0) return;
    const double tables = 4.0 * area(z_.full_s, z_.dr);
    for (const auto& [tokens, heads] : {std::pair(z_.t, z_.heads), std::pair(z_.ts, int64_t{1})}) {
      memory("rope", z_.act, tokens, heads * z_.dr,
             2 * z_.e * area(tokens, heads * z_.dr) + tables);
    }
  }
  void swiglu_forward(int64_t rows, int64_t width, bool scaled) {
    memory("swiglu_forward", z_.act, rows, width,
           3 * z_.e * area(rows, width) + (scaled ? 4.0 * double(rows) : 0.0));
  }
  void swiglu_backward(int64_t rows, int64_t width, bool scaled) {
    memory("swiglu_backward", z_.act, rows, width,
           5 * z_.e * area(rows, width) + (scaled ? 8.0 * double(rows) : 0.0));
  }
  void add_to(int64_t rows, int64_t cols) {
    memory("add", z_.act, rows, cols, 3 * z_.e * area(rows, cols));
  }
  void copy(int64_t rows, int64_t cols) { cast(rows, cols, z_.act, z_.act); }
  // Of `from` rows `to` are made; `numbers` of four bytes beside each.
  void permute(int64_t from, int64_t to, double numbers) {
    memory("permute_rows", z_.act, to, z_.h,
           z_.e * area(from, z_.h) + z_.e * area(to, z_.h) + 4 * numbers * double(to));
  }
  void cast(int64_t rows, int64_t cols, DType from, DType to) {
    memory("cast", from, rows, cols,
           area(rows, cols) * static_cast<double>(dtype_bytes(from) + dtype_bytes(to)));
  }
  void attention(bool backward) {
    // Under CP a rank has two of 2·CP parts, the i-th from the front and the i-th from the back,
    // and with them exactly its share of the pairs: parts of c tokens see (i + 2·CP − 1 − i) c² +
    // c (c + 1) = s (full_s + 1) / 2.
    const double pairs = area(z_.sequences, z_.heads) * area(z_.s, z_.full_s + 1) / 2;
    const double qk = double(z_.dq), v = double(z_.dv), t = double(z_.t), heads = double(z_.heads);
    const double q_kv =
        z_.e * (t * heads * qk + double(z_.keys) * (heads * (double(z_.dn) + v) + double(z_.dr)));
    const double out = z_.e * t * heads * v, lse = 4 * t * heads;
    StepOp& op = backward
                     ? add("mla_attention_backward", OpClass::kAttentionBackward, z_.act,
                           {z_.sequences, z_.s, z_.heads}, 2 * pairs * (3 * qk + 2 * v),
                           2 * q_kv + 2 * out + lse)
                     : add("mla_attention_forward", OpClass::kAttentionForward, z_.act,
                           {z_.sequences, z_.s, z_.heads}, 2 * pairs * (qk + v), q_kv + out + lse);
    op.qk_dim = z_.dq;
    op.v_dim = z_.dv;
  }

 private:
  const RankSizes& z_;
  std::vector<StepOp> ops_;
  Beside beside_ = Beside::kNothing;
};

}  // namespace dsv3::plan
