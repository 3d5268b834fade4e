// The costs of the ops; see cost.h.
#include "kernels/ops/cost.h"

namespace dsv3::ops {
namespace {

double product(double a, double b) {
  return a * b;
}
double bytes_of(const ConstMatrix& m) {
  return m.data ? product(m.rows, m.cols) * static_cast<double>(dtype_bytes(m.dtype)) : 0.0;
}
double bytes_of(const ConstStack& s) {
  return product(s.groups, s.rows) * static_cast<double>(s.cols) *
         static_cast<double>(dtype_bytes(s.dtype));
}
template <typename T>
double bytes_of(const Vector<T>& v) {
  return v.empty() ? 0.0 : product(v.size, sizeof(T));
}
// Written, or read too when it is added to.
double touched(double bytes, bool accumulate) {
  return accumulate ? 2 * bytes : bytes;
}
double flops(double m, double n, double k) {
  return 2 * m * n * k;
}
// Pairs of a query and a key that it sees, over all heads.
double pairs(const MlaShape& s) {
  const int64_t n = s.num_queries(), before = s.sequence - n;  // keys that every query sees
  return product(s.batch, s.heads) * (product(n, before) + product(n, n + 1) / 2);
}
OpSignature rows_of(const ConstMatrix& m, const void* parameter = nullptr) {
  return {Role::kNone, m.dtype, {m.rows, m.cols}, parameter};
}

}  // namespace

const char* role_name(Role role) {
  switch (role) {
    case Role::kNone:
      return "";
    case Role::kForward:
      return "forward";
    case Role::kInputGrad:
      return "input grad";
    case Role::kWeightGrad:
      return "weight grad";
  }
  return "";
}

OpCost cost_of(const Gemm& a) {
  const int64_t k = a.transpose_a ? a.a.rows : a.a.cols;
  return {flops(a.c.rows, a.c.cols, k),
          bytes_of(a.a) + bytes_of(a.b) + touched(bytes_of(a.c), a.accumulate)};
}
OpCost cost_of(const GroupedGemm& a) {
  return {flops(a.c.rows, a.c.cols, a.a.cols), bytes_of(a.a) + bytes_of(a.b) + bytes_of(a.offsets) +
                                                   touched(bytes_of(a.c), a.accumulate)};
}
OpCost cost_of(const GroupedGemmWeightGrad& a) {
  return {flops(a.a.cols, a.b.cols, a.a.rows), bytes_of(a.a) + bytes_of(a.b) + bytes_of(a.offsets) +
                                                   touched(bytes_of(a.c), a.accumulate)};
}
OpCost cost_of(const RmsNormForward& a) {
  return {0, bytes_of(a.x) + bytes_of(a.gain) + bytes_of(a.y) + bytes_of(a.rstd)};
}
OpCost cost_of(const RmsNormBackward& a) {
  return {0, bytes_of(a.dy) + bytes_of(a.x) + bytes_of(a.gain) + bytes_of(a.rstd) +
                 touched(bytes_of(a.dx), a.accumulate_dx) + 2 * bytes_of(a.dgain)};
}
OpCost cost_of(const Rope& a) {
  const double elements = product(a.tokens, a.heads) * static_cast<double>(a.rope_dim);
  return {0, 2 * elements * static_cast<double>(dtype_bytes(a.dtype)) + bytes_of(a.cos) +
                 bytes_of(a.sin)};
}
OpCost cost_of(const MlaAttentionForward& a) {
  const double width = static_cast<double>(a.shape.nope_dim + a.shape.rope_dim + a.shape.v_dim);
  return {2 * pairs(a.shape) * width,
          bytes_of(a.q) + bytes_of(a.kv) + bytes_of(a.k_rope) + bytes_of(a.out) + bytes_of(a.lse)};
}
OpCost cost_of(const MlaAttentionBackward& a) {
  const double qk = static_cast<double>(a.shape.nope_dim + a.shape.rope_dim);
  const double v = static_cast<double>(a.shape.v_dim);
  const double read = bytes_of(a.q) + bytes_of(a.kv) + bytes_of(a.k_rope) + bytes_of(a.out) +
                      bytes_of(a.lse) + bytes_of(a.dout);
  return {2 * pairs(a.shape) * (3 * qk + 2 * v),
          read + bytes_of(a.dq) + bytes_of(a.dkv) + bytes_of(a.dk_rope)};
}
OpCost cost_of(const SwigluForward& a) {
  return {0, bytes_of(a.gate_up) + bytes_of(a.row_scale) + bytes_of(a.y)};
}
OpCost cost_of(const SwigluBackward& a) {
  return {0, bytes_of(a.dy) + bytes_of(a.gate_up) + bytes_of(a.row_scale) + bytes_of(a.dgate_up) +
                 bytes_of(a.drow_scale)};
}
OpCost cost_of(const RouterForward& a) {
  return {0, bytes_of(a.logits) + bytes_of(a.bias) + bytes_of(a.scores) + bytes_of(a.expert_idx) +
                 bytes_of(a.weights) + 2 * bytes_of(a.counts)};
}
OpCost cost_of(const RouterLoss& a) {
  const double aux = bytes_of(a.scores) + bytes_of(a.expert_idx) + bytes_of(a.fraction);
  return {0, (a.aux_weight != 0 ? aux : 0.0) + (a.z_weight != 0 ? bytes_of(a.logits) : 0.0)};
}
OpCost cost_of(const RouterBackward& a) {
  return {0, bytes_of(a.scores) + bytes_of(a.expert_idx) + bytes_of(a.dweights) +
                 bytes_of(a.dlogits) + (a.aux_weight != 0 ? bytes_of(a.fraction) : 0.0) +
                 (a.z_weight != 0 ? bytes_of(a.logits) : 0.0)};
}
OpCost cost_of(const RouterBiasUpdate& a) {
  return {0, bytes_of(a.counts) + 2 * bytes_of(a.bias)};
}
OpCost cost_of(const RoutePlan& a) {
  return {0, bytes_of(a.expert_idx) + bytes_of(a.offsets) + bytes_of(a.row_of_slot) +
                 bytes_of(a.slot_of_row)};
}
OpCost cost_of(const PermuteRows& a) {
  return {0, bytes_of(a.x) + bytes_of(a.slot_of_row) + bytes_of(a.y) + bytes_of(a.weights) +
                 (a.weights.empty() ? 0.0 : bytes_of(a.row_weight))};
}
OpCost cost_of(const UnpermuteSum& a) {
  const double sum = bytes_of(a.x) + touched(bytes_of(a.y), a.accumulate);
  return {0, (a.x.data ? sum : 0.0) + bytes_of(a.row_of_slot) + bytes_of(a.row_values) +
                 (a.row_values.empty() ? 0.0 : bytes_of(a.slot_values))};
}
OpCost cost_of(const EmbeddingForward& a) {
  return {0, bytes_of(a.ids) + 2 * bytes_of(a.y)};
}
OpCost cost_of(const EmbeddingBackward& a) {
  const double rows = product(a.dy.rows, a.dy.cols) * sizeof(float);
  return {0, bytes_of(a.dy) + bytes_of(a.ids) + 2 * rows};
}
OpCost cost_of(const CrossEntropy& a) {
  return {0, touched(bytes_of(a.logits), a.want_grad) + bytes_of(a.labels)};
}
OpCost cost_of(const CrossEntropyStatistics& a) {
  return {0,
          touched(bytes_of(a.logits), a.keep_terms) + bytes_of(a.labels) + bytes_of(a.statistics)};
}
OpCost cost_of(const CrossEntropyFinish& a) {
  return {
      0, (a.want_grad ? 2 * bytes_of(a.terms) : 0.0) + bytes_of(a.labels) + bytes_of(a.statistics)};
}
OpCost cost_of(const Add& a) {
  return {0, bytes_of(a.x) + 2 * bytes_of(a.y)};
}
OpCost cost_of(const Cast& a) {
  return {0, bytes_of(a.x) + bytes_of(a.y)};
}
OpCost cost_of(const SquaredNorm& a) {
  return {0, bytes_of(a.x)};
}
OpCost cost_of(const AdamW& a) {
  const double n = static_cast<double>(a.master.size);
  const double moments = 2 * n * static_cast<double>(dtype_bytes(a.moments_dtype));
  return {0, 2 * bytes_of(a.master) + bytes_of(a.grad) + 2 * moments +
                 (a.compute ? n * static_cast<double>(dtype_bytes(DType::kBf16)) : 0.0)};
}
OpCost cost_of(const ClipScale&) {
  return {0, 2 * sizeof(double) + sizeof(float)};
}

// A linear layer's three products differ in what is transposed (args.h).
OpSignature signature_of(const Gemm& a) {
  const int64_t k = a.transpose_a ? a.a.rows : a.a.cols;
  const Role role = a.transpose_a   ? Role::kWeightGrad
                    : a.transpose_b ? Role::kForward
                                    : Role::kInputGrad;
  const void* parameter = a.transpose_a ? a.c.data : a.b.data;
  return {role, a.a.dtype, {a.c.rows, a.c.cols, k}, parameter};
}
OpSignature signature_of(const GroupedGemm& a) {
  return {a.transpose_b ? Role::kForward : Role::kInputGrad,
          a.a.dtype,
          {a.c.rows, a.c.cols, a.a.cols},
          a.b.data};
}
OpSignature signature_of(const GroupedGemmWeightGrad& a) {
  return {Role::kWeightGrad, a.a.dtype, {a.a.cols, a.b.cols, a.a.rows}, a.c.data};
}
OpSignature signature_of(const RmsNormForward& a) {
  return rows_of(a.x, a.gain.data);
}
OpSignature signature_of(const RmsNormBackward& a) {
  return rows_of(a.x, a.gain.data);
}
OpSignature signature_of(const Rope& a) {
  return {Role::kNone, a.dtype, {a.tokens, a.heads * a.rope_dim}};
}
// Sequences, tokens of each, heads.
OpSignature signature_of(const MlaAttentionForward& a) {
  return {Role::kNone, a.q.dtype, {a.shape.batch, a.shape.sequence, a.shape.heads}};
}
OpSignature signature_of(const MlaAttentionBackward& a) {
  return {Role::kNone, a.q.dtype, {a.shape.batch, a.shape.sequence, a.shape.heads}};
}
OpSignature signature_of(const SwigluForward& a) {
  return rows_of(a.y);
}
OpSignature signature_of(const SwigluBackward& a) {
  return rows_of(a.dy);
}
OpSignature signature_of(const RouterForward& a) {
  return {Role::kNone, DType::kF32, {a.shape.tokens, a.shape.experts}};
}
OpSignature signature_of(const RouterLoss& a) {
  return {Role::kNone, DType::kF32, {a.shape.tokens, a.shape.experts}};
}
OpSignature signature_of(const RouterBackward& a) {
  return {Role::kNone, DType::kF32, {a.shape.tokens, a.shape.experts}};
}
OpSignature signature_of(const RouterBiasUpdate& a) {
  return {Role::kNone, DType::kF32, {1, a.bias.size}};
}
OpSignature signature_of(const RoutePlan& a) {
  return {Role::kNone, DType::kI32, {a.expert_idx.size, a.experts}};
}
OpSignature signature_of(const PermuteRows& a) {
  return rows_of(a.y);
}
OpSignature signature_of(const UnpermuteSum& a) {
  return rows_of(a.x);
}
OpSignature signature_of(const EmbeddingForward& a) {
  return rows_of(a.y, a.table.data);
}
OpSignature signature_of(const EmbeddingBackward& a) {
  return rows_of(a.dy, a.dtable.data);
}
OpSignature signature_of(const CrossEntropy& a) {
  return rows_of(a.logits);
}
OpSignature signature_of(const CrossEntropyStatistics& a) {
  return rows_of(a.logits);
}
OpSignature signature_of(const CrossEntropyFinish& a) {
  return {Role::kNone, DType::kF32, {a.labels.size, a.want_grad ? a.terms.cols : 0}};
}
OpSignature signature_of(const Add& a) {
  return rows_of(a.y);
}
OpSignature signature_of(const Cast& a) {
  return rows_of(a.x);
}
OpSignature signature_of(const SquaredNorm& a) {
  return {Role::kNone, DType::kF32, {1, a.x.size}};
}
OpSignature signature_of(const AdamW& a) {
  return {Role::kNone, a.moments_dtype, {1, a.master.size}};
}
OpSignature signature_of(const ClipScale&) {
  return {};
}

}  // namespace dsv3::ops
