// Where the time of the ops goes: a back end that hands every op to another one and notes how long
// it took and what it costs by its contract (cost.h).
//
// Laws: every op of backend.h stands in DSV3_PROFILED_OPS (a test compares the lists), so none runs
// unseen. The stream is waited for after each op, so that a time is the op's own; results are the
// inner back end's, bit for bit. An op that another op calls inside is a part of it, never counted
// twice.
#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "kernels/ops/backend.h"
#include "kernels/ops/cost.h"

#define DSV3_PROFILED_OPS(X)                          \
  X(gemm, Gemm)                                       \
  X(grouped_gemm, GroupedGemm)                        \
  X(grouped_gemm_weight_grad, GroupedGemmWeightGrad)  \
  X(rms_norm_forward, RmsNormForward)                 \
  X(rms_norm_backward, RmsNormBackward)               \
  X(rope, Rope)                                       \
  X(mla_attention_forward, MlaAttentionForward)       \
  X(mla_attention_backward, MlaAttentionBackward)     \
  X(swiglu_forward, SwigluForward)                    \
  X(swiglu_backward, SwigluBackward)                  \
  X(router_forward, RouterForward)                    \
  X(router_loss, RouterLoss)                          \
  X(router_backward, RouterBackward)                  \
  X(router_bias_update, RouterBiasUpdate)             \
  X(route_plan, RoutePlan)                            \
  X(permute_rows, PermuteRows)                        \
  X(unpermute_sum, UnpermuteSum)                      \
  X(embedding_forward, EmbeddingForward)              \
  X(embedding_backward, EmbeddingBackward)            \
  X(cross_entropy, CrossEntropy)                      \
  X(cross_entropy_statistics, CrossEntropyStatistics) \
  X(cross_entropy_finish, CrossEntropyFinish)         \
  X(add, Add)                                         \
  X(cast, Cast)                                       \
  X(squared_norm, SquaredNorm)                        \
  X(adamw, AdamW)                                     \
  X(clip_scale, ClipScale)

namespace dsv3::ops {

// Calls, time and costs, summed by op and signature. Not thread-safe.
class Profile {
 public:
  struct Totals {
    int64_t calls = 0;
    int64_t ns = 0;
    OpCost cost;  // of all calls
  };
  // The op's name ("fill_zero" and the copies too) and what its calls have in common.
  using Key = std::pair<std::string_view, OpSignature>;

  // `op` is a literal.
  void record(std::string_view op, const OpSignature& signature, OpCost cost, int64_t ns);
  const std::map<Key, Totals>& entries() const { return entries_; }
  int64_t total_ns() const;
  void clear() { entries_.clear(); }

 private:
  std::map<Key, Totals> entries_;
};

// Forwards to `inner` and records into `profile`; both, and the clock, outlive it.
class ProfilingBackend final : public Backend {
 public:
  ProfilingBackend(Backend& inner, Profile& profile, const Clock& clock = system_clock())
      : inner_(inner), profile_(profile), clock_(clock) {}

  const char* name() const override { return inner_.name(); }
  void* allocate(size_t bytes) override { return inner_.allocate(bytes); }
  void deallocate(void* data) override { inner_.deallocate(data); }
  void* allocate_host(size_t bytes) override { return inner_.allocate_host(bytes); }
  void deallocate_host(void* data) override { inner_.deallocate_host(data); }
  void copy_to_device(void* to, const void* from_host, size_t bytes, Stream stream) override;
  void copy_to_host(void* to_host, const void* from, size_t bytes, Stream stream) override;
  void fill_zero(void* data, size_t bytes, Stream stream) override;
  void synchronize(Stream stream) override { inner_.synchronize(stream); }
  DType matmul_dtype() const override { return inner_.matmul_dtype(); }

#define DSV3_DECLARE(op, Args) void op(const Context& ctx, const Args& args) override;
  DSV3_PROFILED_OPS(DSV3_DECLARE)
#undef DSV3_DECLARE

 private:
  template <typename Body>
  void timed(std::string_view op, const OpSignature& signature, OpCost cost, Stream stream,
             const Body& body);

  Backend& inner_;
  Profile& profile_;
  const Clock& clock_;
};

}  // namespace dsv3::ops
