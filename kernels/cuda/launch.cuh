// What every CUDA kernel of this folder shares: error checks that name the op, bf16 loads and
// stores, grid sizes.
//
// Law: a failed CUDA call throws Failure(kDevice) with the op's name; no kernel waits for the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/ops/args.h"
#include "kernels/ops/backend.h"

namespace dsv3::cuda {

// Throws unless `error` is cudaSuccess; `op` names what was asked for.
void check(cudaError_t error, const char* op);

inline cudaStream_t stream_of(const ops::Context& ctx) {
  return static_cast<cudaStream_t>(ctx.stream);
}

constexpr int kThreads = 256;
inline int blocks_for(int64_t elements) {
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < 65535 ? blocks : 65535);
}

__device__ inline float load(const float* p) {
  return *p;
}
__device__ inline float load(const __nv_bfloat16* p) {
  return __bfloat162float(*p);
}
__device__ inline void store(float* p, float x) {
  *p = x;
}
__device__ inline void store(__nv_bfloat16* p, float x) {
  *p = __float2bfloat16_rn(x);
}

// Calls f with a null pointer of the device type of `dtype` (f32 or bf16), for overloads.
template <typename F>
void dispatch(DType dtype, F f) {
  if (dtype == DType::kBf16) {
    f(static_cast<__nv_bfloat16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}

}  // namespace dsv3::cuda
