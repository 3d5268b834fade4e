// The reference back end's memory and element access; see reference_backend.h.
#include "tests/kernels/reference/reference_backend.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/failure.h"

namespace dsv3::reference {

double load(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF64) return static_cast<const double*>(data)[i];
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  DSV3_CHECK(dtype == DType::kBf16);
  return static_cast<float>(static_cast<const Bf16*>(data)[i]);
}

void store(void* data, DType dtype, int64_t i, double value) {
  if (dtype == DType::kF64) {
    static_cast<double*>(data)[i] = value;
    return;
  }
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[i] = static_cast<float>(value);
    return;
  }
  DSV3_CHECK(dtype == DType::kBf16);
  static_cast<Bf16*>(data)[i] = Bf16(static_cast<float>(value));
}

double load(const ops::ConstMatrix& m, int64_t row, int64_t col) {
  return load(m.data, m.dtype, row * m.stride + col);
}

void store(const ops::Matrix& m, int64_t row, int64_t col, double value) {
  store(m.data, m.dtype, row * m.stride + col, value);
}

void* ReferenceBackend::allocate(size_t bytes) {
  void* data = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
  if (!data) throw Failure(Code::kOutOfMemory, "reference: allocate", "out of memory");
  return data;
}

void ReferenceBackend::deallocate(void* data) {
  std::free(data);
}

void ReferenceBackend::copy_to_device(void* to, const void* from_host, size_t bytes, ops::Stream) {
  if (bytes) std::memcpy(to, from_host, bytes);
}

void ReferenceBackend::copy_to_host(void* to_host, const void* from, size_t bytes, ops::Stream) {
  if (bytes) std::memcpy(to_host, from, bytes);
}

void ReferenceBackend::fill_zero(void* data, size_t bytes, ops::Stream) {
  if (bytes) std::memset(data, 0, bytes);
}

}  // namespace dsv3::reference
