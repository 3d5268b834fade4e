// What an op costs: the arithmetic and the memory traffic that its contract asks for.
//
// Laws: pure, from shapes and dtypes alone, one function per op. FLOPs are those of matrix products
// (2 per multiply-add), causal attention with the pairs that are seen; other arithmetic counts 0.
// Bytes are each argument once: what is read, plus what is written ("+=" is both). Whatever a back
// end moves beyond that, or finds in a cache, is its own affair: the cost is the yardstick.
#pragma once

#include <array>
#include <compare>

#include "kernels/ops/args.h"

namespace dsv3::ops {

struct OpCost {
  double flops = 0;
  double bytes = 0;
};

// Which product of a linear layer this is; kNone where an op's name says it.
enum class Role : uint8_t { kNone, kForward, kInputGrad, kWeightGrad };
const char* role_name(Role role);  // "", "forward", "input grad", "weight grad"

// What calls of one op are told apart by.
struct OpSignature {
  Role role = Role::kNone;
  DType dtype = DType::kF32;        // of what is multiplied or moved
  std::array<int64_t, 3> shape{};   // products: m, n, k; others: rows, width; attention: see .cpp
  const void* parameter = nullptr;  // first element of the parameter or gradient; null: none

  auto operator<=>(const OpSignature&) const = default;
};

// [m, k] · [k, n]: 2 m n k FLOPs; a, b and c once, c twice when accumulated.
OpCost cost_of(const Gemm& args);
// All rows of `a` are taken to belong to a group: 2 rows n k FLOPs, every group's b once.
OpCost cost_of(const GroupedGemm& args);
OpCost cost_of(const GroupedGemmWeightGrad& args);
OpCost cost_of(const RmsNormForward& args);
OpCost cost_of(const RmsNormBackward& args);
OpCost cost_of(const Rope& args);
// batch · heads · (n (s − n) + n (n + 1) / 2) pairs with n queries (n = s: all), each
// 2 (nope + rope + v) FLOPs.
OpCost cost_of(const MlaAttentionForward& args);
// The same pairs with five products: scores again (the contract keeps none), and the gradients of
// probabilities, v, q and k: 2 (3 (nope + rope) + 2 v) FLOPs a pair.
OpCost cost_of(const MlaAttentionBackward& args);
OpCost cost_of(const SwigluForward& args);
OpCost cost_of(const SwigluBackward& args);
OpCost cost_of(const RouterForward& args);
OpCost cost_of(const RouterLoss& args);
OpCost cost_of(const RouterBackward& args);
OpCost cost_of(const RouterBiasUpdate& args);
OpCost cost_of(const RoutePlan& args);
OpCost cost_of(const PermuteRows& args);
OpCost cost_of(const UnpermuteSum& args);
OpCost cost_of(const EmbeddingForward& args);
// As if no token stood twice: T rows of dtable are read and written.
OpCost cost_of(const EmbeddingBackward& args);
OpCost cost_of(const CrossEntropy& args);
OpCost cost_of(const CrossEntropyStatistics& args);
OpCost cost_of(const CrossEntropyFinish& args);
OpCost cost_of(const Add& args);
OpCost cost_of(const Cast& args);
OpCost cost_of(const SquaredNorm& args);
OpCost cost_of(const AdamW& args);
OpCost cost_of(const ClipScale& args);

OpSignature signature_of(const Gemm& args);
OpSignature signature_of(const GroupedGemm& args);
OpSignature signature_of(const GroupedGemmWeightGrad& args);
OpSignature signature_of(const RmsNormForward& args);
OpSignature signature_of(const RmsNormBackward& args);
OpSignature signature_of(const Rope& args);
OpSignature signature_of(const MlaAttentionForward& args);
OpSignature signature_of(const MlaAttentionBackward& args);
OpSignature signature_of(const SwigluForward& args);
OpSignature signature_of(const SwigluBackward& args);
OpSignature signature_of(const RouterForward& args);
OpSignature signature_of(const RouterLoss& args);
OpSignature signature_of(const RouterBackward& args);
OpSignature signature_of(const RouterBiasUpdate& args);
OpSignature signature_of(const RoutePlan& args);
OpSignature signature_of(const PermuteRows& args);
OpSignature signature_of(const UnpermuteSum& args);
OpSignature signature_of(const EmbeddingForward& args);
OpSignature signature_of(const EmbeddingBackward& args);
OpSignature signature_of(const CrossEntropy& args);
OpSignature signature_of(const CrossEntropyStatistics& args);
OpSignature signature_of(const CrossEntropyFinish& args);
OpSignature signature_of(const Add& args);
OpSignature signature_of(const Cast& args);
OpSignature signature_of(const SquaredNorm& args);
OpSignature signature_of(const AdamW& args);
OpSignature signature_of(const ClipScale& args);

}  // namespace dsv3::ops
