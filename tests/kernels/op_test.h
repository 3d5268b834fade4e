// What every kernel test is made of: host tensors with guarded padding, one fixture per activation
// dtype, tolerances, gradients.
//
// Laws: one body runs for f32 and bf16; the expectation comes from the scalar double reference
// (tests/kernels/reference); the tolerances stand in one table here. A backward is checked against
// finite differences of the reference's forward, run in f64. Every tensor's padding (stride > cols,
// and the tail) holds a sentinel: expect_guards finds writes outside a view.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops/ops.h"

namespace dsv3::test {

// A host matrix [rows, cols] of f32, bf16, f64, i32 or i64 that owns its memory. Rows are `stride`
// elements apart.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, int64_t rows, int64_t cols, int64_t stride = -1);
  static Tensor random(DType dtype, int64_t rows, int64_t cols, uint64_t seed, double scale = 1.0,
                       int64_t stride = -1);
  static Tensor filled(DType dtype, int64_t rows, int64_t cols, double value);

  DType dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t size() const { return rows_ * cols_; }
  double at(int64_t row, int64_t col) const;
  void set(int64_t row, int64_t col, double value);
  // The same numbers in another dtype (and contiguous rows).
  Tensor as(DType dtype) const;

  ops::Matrix matrix() { return ops::Matrix(bytes_.data(), dtype_, rows_, cols_, stride_); }
  ops::ConstMatrix matrix() const {
    return ops::ConstMatrix(bytes_.data(), dtype_, rows_, cols_, stride_);
  }
  // [groups, rows / groups, cols]; contiguous tensors only.
  ops::Stack stack(int64_t groups) {
    return ops::Stack(bytes_.data(), dtype_, groups, groups ? rows_ / groups : 0, cols_);
  }
  // All elements in a row; T must be the dtype's type; contiguous tensors only.
  template <typename T>
  ops::Vector<T> vector() {
    return ops::Vector<T>(data<T>(), size());
  }
  template <typename T>
  T* data() {
    return reinterpret_cast<T*>(bytes_.data());
  }
  void* raw() { return bytes_.data(); }
  // True when every byte, padding included, is equal.
  bool bits_equal(const Tensor& other) const { return bytes_ == other.bytes_; }
  // True while the padding holds its sentinel.
  bool guards_hold() const;

 private:
  int64_t index(int64_t row, int64_t col) const;

  DType dtype_ = DType::kF32;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t stride_ = 0;
  std::vector<std::byte> bytes_;
};

// Scratch memory that remembers the most it was ever asked for; fresh scratch is filled with NaN
// bits.
class TestWorkspace : public ops::Workspace {
 public:
  std::byte* reserve(size_t bytes) override;
  size_t peak_bytes() const { return peak_bytes_; }

 private:
  size_t peak_bytes_ = 0;
  std::vector<std::byte> memory_;
};

// |actual − expected| ≤ absolute · max|expected| + relative · |expected|, elementwise.
struct Tolerance {
  double absolute = 0.0;
  double relative = 0.0;
};
// The table: what an output of this dtype may differ by, its inputs being of dtype act.
Tolerance tolerance(DType act, DType output);

// One body per activation dtype: `class RopeTest : public OpTest {}; DSV3_OP_TEST_DTYPES(RopeTest);
// TEST_P(RopeTest, …)`.
class OpTest : public testing::TestWithParam<DType> {
 protected:
  OpTest();
  DType act() const { return GetParam(); }
  const ops::Context& cpu() const { return cpu_; }
  const ops::Context& reference() const { return reference_; }
  ops::Backend& reference_backend() { return *reference_backend_; }
  const TestWorkspace& workspace() const { return workspace_; }
  // Element-wise within tolerance(act(), actual's dtype) times `slack`, and the guards of actual
  // hold.
  void expect_close(const Tensor& actual, const Tensor& expected, const std::string& what,
                    double slack = 1.0) const;

 private:
  TestWorkspace workspace_;
  std::unique_ptr<ops::Backend> cpu_backend_;
  std::unique_ptr<ops::Backend> reference_backend_;
  ops::Context cpu_;
  ops::Context reference_;
};

// As OpTest::expect_close with an explicit tolerance.
void expect_close(const Tensor& actual, const Tensor& expected, Tolerance tolerance,
                  const std::string& what);

// Compares `analytic` [same shape as x] with the central difference (loss(x + step) − loss(x −
// step)) / 2 step for every element of x; x is f64 or f32 and is left as it was. Fails beyond
// `tolerance` of the largest gradient.
void expect_gradient(const Tensor& analytic, Tensor& x, const std::function<double()>& loss,
                     const std::string& what, double step = 1e-3, double tolerance = 2e-4);

// Σ weight · y over all elements: the scalar loss whose gradient with respect to y is `weight`.
double weighted_sum(const Tensor& y, const Tensor& weight);

// The scalar reference, for tests that call it without a fixture (and with act = f64).
std::unique_ptr<ops::Backend> make_reference_backend();

std::string dtype_case_name(const testing::TestParamInfo<DType>& info);

#define DSV3_OP_TEST_DTYPES(Suite)                                                                 \
  INSTANTIATE_TEST_SUITE_P(Cpu, Suite, testing::Values(::dsv3::DType::kF32, ::dsv3::DType::kBf16), \
                           ::dsv3::test::dtype_case_name)

}  // namespace dsv3::test
