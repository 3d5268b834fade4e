// Views: what an op is told about its tensors. No ownership, no allocation; the memory may be a
// device's.
//
// Law: every op's argument says its shape, dtype and row stride here, and the checks in
// kernels/ops/*.cpp run once per call, before any back end sees it. Matrices are row-major; a
// stride is in elements, from one row to the next.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/dtype.h"

namespace dsv3::ops {

// [rows, cols] of dtype, row-major, `stride` ≥ cols elements between rows.
template <typename Void>
struct BasicMatrix {
  Void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  BasicMatrix() = default;
  BasicMatrix(Void* d, DType t, int64_t r, int64_t c, int64_t s = -1)
      : data(d), dtype(t), rows(r), cols(c), stride(s < 0 ? c : s) {}
  // A mutable view reads as a const one.
  template <typename Other, typename = std::enable_if_t<std::is_convertible_v<Other*, Void*>>>
  BasicMatrix(const BasicMatrix<Other>& other)  // NOLINT: implicit by design
      : data(other.data),
        dtype(other.dtype),
        rows(other.rows),
        cols(other.cols),
        stride(other.stride) {}

  template <typename T>
  auto* as() const {
    using Out = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Out*>(data);
  }
  // Rows [begin, begin + count).
  BasicMatrix row_range(int64_t begin, int64_t count) const {
    return BasicMatrix(offset(begin * stride), dtype, count, cols, stride);
  }
  // Columns [begin, begin + count), same stride.
  BasicMatrix col_range(int64_t begin, int64_t count) const {
    return BasicMatrix(offset(begin), dtype, rows, count, stride);
  }

 private:
  Void* offset(int64_t elements) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data) + elements * static_cast<int64_t>(dtype_bytes(dtype));
  }
};
using Matrix = BasicMatrix<void>;
using ConstMatrix = BasicMatrix<const void>;

// [groups, rows, cols] of dtype, contiguous: one matrix per expert.
template <typename Void>
struct BasicStack {
  Void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t groups = 0;
  int64_t rows = 0;
  int64_t cols = 0;

  BasicStack() = default;
  BasicStack(Void* d, DType t, int64_t g, int64_t r, int64_t c)
      : data(d), dtype(t), groups(g), rows(r), cols(c) {}
  template <typename Other, typename = std::enable_if_t<std::is_convertible_v<Other*, Void*>>>
  BasicStack(const BasicStack<Other>& other)  // NOLINT: implicit by design
      : data(other.data),
        dtype(other.dtype),
        groups(other.groups),
        rows(other.rows),
        cols(other.cols) {}
};
using Stack = BasicStack<void>;
using ConstStack = BasicStack<const void>;

// `size` contiguous elements of T in the device's memory.
template <typename T>
struct Vector {
  T* data = nullptr;
  int64_t size = 0;

  Vector() = default;
  Vector(T* d, int64_t n) : data(d), size(n) {}
  template <typename U, typename = std::enable_if_t<std::is_convertible_v<U*, T*>>>
  Vector(const Vector<U>& other)
      : data(other.data), size(other.size) {}  // NOLINT: implicit by design
  bool empty() const { return data == nullptr; }
};

}  // namespace dsv3::ops
