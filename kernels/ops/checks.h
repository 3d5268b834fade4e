// The words of the dispatch functions' checks: what a well-formed view is. Used by
// kernels/ops/*.cpp only.
//
// Law: a failed check is a programmer error: it prints the op's name and what was broken, and
// aborts. Memory may be null only where there is nothing to read or write.
#pragma once

#include "base/check.h"
#include "kernels/ops/view.h"

namespace dsv3::ops {

// The dtypes of activations.
inline bool is_act(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBf16;
}

// Sizes and stride make sense, and there is memory behind every element.
inline bool is_valid(const ConstMatrix& m) {
  return m.rows >= 0 && m.cols >= 0 && m.stride >= m.cols &&
         (m.data != nullptr || m.rows * m.cols == 0);
}
inline bool is_valid(const ConstStack& s) {
  return s.groups >= 0 && s.rows >= 0 && s.cols >= 0 &&
         (s.data != nullptr || s.groups * s.rows * s.cols == 0);
}

// A well-formed [rows, cols] of `dtype`.
inline bool has_shape(const ConstMatrix& m, DType dtype, int64_t rows, int64_t cols) {
  return is_valid(m) && m.dtype == dtype && m.rows == rows && m.cols == cols;
}
// Exactly `size` elements, with memory behind them.
template <typename T>
bool has_size(const Vector<T>& v, int64_t size) {
  return v.size == size && (v.data != nullptr || size == 0);
}
// Left out, or exactly `size` elements.
template <typename T>
bool is_absent_or_has_size(const Vector<T>& v, int64_t size) {
  return v.empty() || v.size == size;
}

}  // namespace dsv3::ops
