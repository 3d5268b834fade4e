// The CUDA back end: memory, streams, and the ops of cuda_ops.cuh; an op that is not there yet
// fails by its own name.
//
// Law: creating it never crashes or hangs without a driver; it returns a sentence instead.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "base/failure.h"
#include "kernels/cuda/cuda_ops.cuh"
#include "kernels/cuda/launch.cuh"

namespace dsv3::cuda {

void check(cudaError_t error, const char* op) {
  if (error != cudaSuccess)
    throw Failure(Code::kDevice, std::string("cuda: ") + op, cudaGetErrorString(error));
}

namespace {

void check_allocation(cudaError_t error, const char* op, size_t bytes) {
  if (error == cudaErrorMemoryAllocation) {
    throw Failure(Code::kOutOfMemory, std::string("cuda: ") + op,
                  std::to_string(bytes) + " bytes could not be allocated");
  }
  check(error, op);
}

class CudaBackend final : public ops::Backend {
 public:
  explicit CudaBackend(cublasHandle_t blas) : blas_(blas) {}
  ~CudaBackend() override { cublasDestroy(blas_); }
  const char* name() const override { return "cuda"; }

  void* allocate(size_t bytes) override {
    void* data = nullptr;
    check_allocation(cudaMalloc(&data, std::max<size_t>(bytes, 1)), "allocate", bytes);
    return data;
  }
  void deallocate(void* data) override { cudaFree(data); }
  // Pinned and mapped: one address for host and device, read and written over the host link.
  void* allocate_host(size_t bytes) override {
    void* data = nullptr;
    check_allocation(cudaHostAlloc(&data, std::max<size_t>(bytes, 1),
                                   cudaHostAllocMapped | cudaHostAllocPortable),
                     "allocate_host", bytes);
    return data;
  }
  void deallocate_host(void* data) override { cudaFreeHost(data); }
  void copy_to_device(void* to, const void* from_host, size_t bytes, ops::Stream stream) override {
    check(
        cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
        "copy_to_device");
  }
  void copy_to_host(void* to_host, const void* from, size_t bytes, ops::Stream stream) override {
    check(
        cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
        "copy_to_host");
  }
  void fill_zero(void* data, size_t bytes, ops::Stream stream) override {
    check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "fill_zero");
  }
  void synchronize(ops::Stream stream) override {
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "synchronize");
  }
  DType matmul_dtype() const override { return DType::kBf16; }

  void gemm(const ops::Context& ctx, const ops::Gemm& args) override {
    cuda::gemm(ctx, args, blas_);
  }
  void rms_norm_forward(const ops::Context& ctx, const ops::RmsNormForward& args) override {
    cuda::rms_norm_forward(ctx, args);
  }
  void rope(const ops::Context& ctx, const ops::Rope& args) override { cuda::rope(ctx, args); }
  void swiglu_forward(const ops::Context& ctx, const ops::SwigluForward& args) override {
    cuda::swiglu_forward(ctx, args);
  }
  void add(const ops::Context& ctx, const ops::Add& args) override { cuda::add(ctx, args); }
  void cast(const ops::Context& ctx, const ops::Cast& args) override { cuda::cast(ctx, args); }

 private:
  cublasHandle_t blas_;
};

}  // namespace
}  // namespace dsv3::cuda

// The plug-in's one symbol (runtime/device/plugin_abi.h).
extern "C" dsv3::ops::Backend* dsv3_backend_create_v2(char* error, size_t error_bytes) {
  int devices = 0;  // cudaGetDeviceCount leaves it untouched without a driver
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    std::snprintf(error, error_bytes, "no usable GPU: %s",
                  found != cudaSuccess ? cudaGetErrorString(found) : "the driver lists none");
    return nullptr;
  }
  cublasHandle_t blas = nullptr;
  if (cublasCreate(&blas) != CUBLAS_STATUS_SUCCESS) {
    std::snprintf(error, error_bytes, "cuBLAS could not be started");
    return nullptr;
  }
  return new dsv3::cuda::CudaBackend(blas);
}
