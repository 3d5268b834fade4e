// oneDNN's matrix product behind a cache: what gemm.cpp and attention.cpp multiply with.
//
// Laws: a primitive is created once per shape (creation costs 0.1–10 ms) and reused by any thread;
// it is created for the number of threads it runs with, since oneDNN plans its split for that team.
// Scratch is the caller's. bf16 that oneDNN cannot multiply here (it needs AVX-512) is the caller's
// to convert: see native_bf16().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/dtype.h"

namespace dsv3::cpu {

// A dimension whose size is given at each run: rows per expert, which change with every batch.
enum class RuntimeDim : uint8_t { kNone = 0, kM = 1, kK = 2 };

// c [m, n] (+)= op(a) [m, k] · op(b) [k, n], row-major with the given row strides (elements); op(x)
// = xᵀ when transposed. The size of the runtime dimension is left 0.
struct MatmulShape {
  int64_t m = 0, n = 0, k = 0;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
  DType in = DType::kF32;   // f32 or bf16
  DType out = DType::kF32;  // f32, or bf16 with in bf16
  RuntimeDim runtime = RuntimeDim::kNone;
  bool packed_b = false;  // b comes from pack(), in the layout that oneDNN multiplies fastest
  int64_t packed_m = 0;   // not 0: packed as for this m, so that two sizes share one packed b

  bool operator==(const MatmulShape&) const = default;
};

// One oneDNN primitive. Immutable: any number of threads may run it at once, each with its own
// scratch.
class Matmul {
 public:
  virtual ~Matmul() = default;
  // Bytes of scratch that run() needs, 64-byte aligned.
  virtual size_t scratch_bytes() const = 0;
  // Multiplies. `runtime_size` is the size of the runtime dimension, if there is one.
  // With packed_b, b is what pack() wrote.
  virtual void run(const void* a, const void* b, void* c, std::byte* scratch,
                   int64_t runtime_size = 0) const = 0;
  // With packed_b: the bytes of a packed b, and the packing of b [k, n] (row-major, b_stride
  // between rows).
  virtual size_t packed_bytes() const = 0;
  virtual void pack(const void* b, void* packed) const = 0;
};

// The primitive for `shape` that runs with `threads` threads, made on first use. Throws
// Failure(kDevice) with oneDNN's words. Thread-safe; a caller holds the pointer while it runs,
// since the cache is emptied when it has grown too large.
std::shared_ptr<const Matmul> cached_matmul(const MatmulShape& shape, int threads);

// The number of primitives made so far in this process: what a test watches to see that steady
// state makes none. Thread-safe.
int64_t matmuls_made();

// True where oneDNN multiplies bf16 (AVX-512 and up, within ONEDNN_MAX_CPU_ISA); the slower kinds
// are still correct.
bool native_bf16();

// True where oneDNN multiplies bf16 with AMX tiles.
bool has_amx();

// True where the project's own AVX-512 kernels (kernels/cpu/avx512) may run, within
// ONEDNN_MAX_CPU_ISA; for bf16 where they are also the fastest: AVX512-BF16 without AMX.
bool has_f32_vectors();
bool has_bf16_vectors();

}  // namespace dsv3::cpu
