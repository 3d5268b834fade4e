// Tensor: a pointer with dtype and shape; the views that ops take are made from it.
//
// Law: a Tensor owns nothing. Its memory belongs to the Arena that made it and dies with the arena
// or with the mark below it.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "base/check.h"
#include "kernels/ops/view.h"

namespace dsv3::tensor {

// Up to four dims, row-major; a dim may be 0.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {  // NOLINT: implicit by design
    DSV3_CHECK(dims.size() <= dims_.size());
    for (int64_t dim : dims) {
      DSV3_CHECK(dim >= 0);
      dims_[static_cast<size_t>(rank_++)] = dim;
    }
  }
  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[static_cast<size_t>(axis)]; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int axis = 0; axis < rank_; ++axis) n *= (*this)[axis];
    return n;
  }

 private:
  std::array<int64_t, 4> dims_{};
  int rank_ = 0;
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  bool empty() const { return data == nullptr; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t bytes() const { return num_elements() * static_cast<int64_t>(dtype_bytes(dtype)); }
  // The pointer, after checking that T is the element type.
  template <typename T>
  T* as() const {
    DSV3_CHECK(sizeof(T) == dtype_bytes(dtype));
    return static_cast<T*>(data);
  }
  // [rows, cols] of a rank-2 tensor.
  ops::Matrix matrix() const {
    DSV3_CHECK(shape.rank() == 2);
    return ops::Matrix(data, dtype, shape[0], shape[1]);
  }
  operator ops::Matrix() const { return matrix(); }       // NOLINT: implicit by design
  operator ops::ConstMatrix() const { return matrix(); }  // NOLINT: implicit by design
  // All elements, flat.
  template <typename T>
  ops::Vector<T> vector() const {
    return ops::Vector<T>(as<T>(), num_elements());
  }
};

}  // namespace dsv3::tensor
