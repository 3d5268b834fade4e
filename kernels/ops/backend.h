// Backend: one device's memory and its implementation of every op. The CPU's is built in
// (kernels/cpu), CUDA's is a plug-in.
//
// Laws: missing hardware is an object: an op that a back end does not have fails by its own name
// ("cuda: rope is not built"). Ops are asynchronous on their stream; on the CPU a stream is the
// calling thread. No op allocates: scratch comes from the context's Workspace, which grows in the
// first step and then stays.
#pragma once

#include <cstddef>
#include <string>

#include "kernels/ops/args.h"

namespace dsv3::ops {

// Scratch memory of one stream. reserve() returns at least `bytes` of 64-byte aligned device
// memory, valid until the next reserve() of the same stream. Implemented by the runtime's arena
// (ledger name "workspace").
class Workspace {
 public:
  virtual ~Workspace() = default;
  virtual std::byte* reserve(size_t bytes) = 0;
};

// A queue of work: a cudaStream_t behind the plug-in, nullptr on the CPU.
using Stream = void*;

// What an op runs with: where, in which queue, with which scratch.
struct Context {
  class Backend* backend = nullptr;
  Stream stream = nullptr;
  Workspace* workspace = nullptr;
};

// Implementations throw Failure (base/failure.h) on device errors; arguments have been checked by
// the dispatch functions of kernels/ops (gemm(), rope(), …), which are what callers use.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;  // "cpu", "cuda"

  // ---- memory. Copies and fills are ordered on the stream; synchronize waits for it.
  virtual void* allocate(size_t bytes) = 0;  // 64-byte aligned; throws Failure(kOutOfMemory)
  virtual void deallocate(void* data) = 0;
  // Memory of the host that this device's ops and copies reach in place: where the device is the
  // host, memory like any other.
  virtual void* allocate_host(size_t bytes) { return allocate(bytes); }
  virtual void deallocate_host(void* data) { deallocate(data); }
  virtual void copy_to_device(void* to, const void* from_host, size_t bytes, Stream stream) = 0;
  virtual void copy_to_host(void* to_host, const void* from, size_t bytes, Stream stream) = 0;
  virtual void fill_zero(void* data, size_t bytes, Stream stream) = 0;
  virtual void synchronize(Stream stream) = 0;
  // The dtype in which matrices are multiplied when bf16 is asked for: bf16 where this device is
  // faster at it, else f32.
  virtual DType matmul_dtype() const = 0;

  // ---- ops: see args.h
  virtual void gemm(const Context&, const Gemm&) { missing("gemm"); }
  virtual void grouped_gemm(const Context&, const GroupedGemm&) { missing("grouped_gemm"); }
  virtual void grouped_gemm_weight_grad(const Context&, const GroupedGemmWeightGrad&) {
    missing("grouped_gemm_weight_grad");
  }
  virtual void rms_norm_forward(const Context&, const RmsNormForward&) {
    missing("rms_norm_forward");
  }
  virtual void rms_norm_backward(const Context&, const RmsNormBackward&) {
    missing("rms_norm_backward");
  }
  virtual void rope(const Context&, const Rope&) { missing("rope"); }
  virtual void mla_attention_forward(const Context&, const MlaAttentionForward&) {
    missing("mla_attention_forward");
  }
  virtual void mla_attention_backward(const Context&, const MlaAttentionBackward&) {
    missing("mla_attention_backward");
  }
  virtual void swiglu_forward(const Context&, const SwigluForward&) { missing("swiglu_forward"); }
  virtual void swiglu_backward(const Context&, const SwigluBackward&) {
    missing("swiglu_backward");
  }
  virtual void router_forward(const Context&, const RouterForward&) { missing("router_forward"); }
  virtual void router_loss(const Context&, const RouterLoss&) { missing("router_loss"); }
  virtual void router_backward(const Context&, const RouterBackward&) {
    missing("router_backward");
  }
  virtual void router_bias_update(const Context&, const RouterBiasUpdate&) {
    missing("router_bias_update");
  }
  virtual void route_plan(const Context&, const RoutePlan&) { missing("route_plan"); }
  virtual void permute_rows(const Context&, const PermuteRows&) { missing("permute_rows"); }
  virtual void unpermute_sum(const Context&, const UnpermuteSum&) { missing("unpermute_sum"); }
  virtual void embedding_forward(const Context&, const EmbeddingForward&) {
    missing("embedding_forward");
  }
  virtual void embedding_backward(const Context&, const EmbeddingBackward&) {
    missing("embedding_backward");
  }
  virtual void cross_entropy(const Context&, const CrossEntropy&) { missing("cross_entropy"); }
  virtual void cross_entropy_statistics(const Context&, const CrossEntropyStatistics&) {
    missing("cross_entropy_statistics");
  }
  virtual void cross_entropy_finish(const Context&, const CrossEntropyFinish&) {
    missing("cross_entropy_finish");
  }
  virtual void add(const Context&, const Add&) { missing("add"); }
  virtual void cast(const Context&, const Cast&) { missing("cast"); }
  virtual void squared_norm(const Context&, const SquaredNorm&) { missing("squared_norm"); }
  virtual void adamw(const Context&, const AdamW&) { missing("adamw"); }
  virtual void clip_scale(const Context&, const ClipScale&) { missing("clip_scale"); }

 protected:
  // Throws Failure(kDevice) that names this back end and the op.
  [[noreturn]] void missing(const char* op) const;
};

}  // namespace dsv3::ops
