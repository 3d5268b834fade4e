// The tensors, tolerances and gradient checks of the kernel tests; see op_test.h.
#include "tests/kernels/op_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/rng.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::test {
namespace {

// A quiet NaN in f32, f64 and bf16 alike, so that a kernel that reads padding shows in its output.
constexpr std::byte kSentinel{0xFF};
constexpr int64_t kTailElements = 16;

}  // namespace

Tensor::Tensor(DType dtype, int64_t rows, int64_t cols, int64_t stride)
    : dtype_(dtype), rows_(rows), cols_(cols), stride_(stride < 0 ? cols : stride) {
  DSV3_CHECK(stride_ >= cols_);
  bytes_.assign((rows_ * stride_ + kTailElements) * dtype_bytes(dtype), kSentinel);
  for (int64_t r = 0; r < rows_; ++r) {
    std::memset(&bytes_[r * stride_ * dtype_bytes(dtype)], 0, cols_ * dtype_bytes(dtype));
  }
}

Tensor Tensor::random(DType dtype, int64_t rows, int64_t cols, uint64_t seed, double scale,
                      int64_t stride) {
  Tensor t(dtype, rows, cols, stride);
  const CounterRng rng(seed, name_key("kernel test"));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) t.set(r, c, scale * rng.normal(r * cols + c));
  return t;
}

Tensor Tensor::filled(DType dtype, int64_t rows, int64_t cols, double value) {
  Tensor t(dtype, rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) t.set(r, c, value);
  return t;
}

int64_t Tensor::index(int64_t row, int64_t col) const {
  DSV3_CHECK(row >= 0 && row < rows_ && col >= 0 && col < cols_);
  return row * stride_ + col;
}

double Tensor::at(int64_t row, int64_t col) const {
  const int64_t i = index(row, col);
  if (dtype_ == DType::kI32) return reinterpret_cast<const int32_t*>(bytes_.data())[i];
  if (dtype_ == DType::kI64)
    return static_cast<double>(reinterpret_cast<const int64_t*>(bytes_.data())[i]);
  return reference::load(bytes_.data(), dtype_, i);
}

void Tensor::set(int64_t row, int64_t col, double value) {
  const int64_t i = index(row, col);
  if (dtype_ == DType::kI32) {
    data<int32_t>()[i] = static_cast<int32_t>(value);
  } else if (dtype_ == DType::kI64) {
    data<int64_t>()[i] = static_cast<int64_t>(value);
  } else {
    reference::store(bytes_.data(), dtype_, i, value);
  }
}

Tensor Tensor::as(DType dtype) const {
  Tensor t(dtype, rows_, cols_);
  for (int64_t r = 0; r < rows_; ++r)
    for (int64_t c = 0; c < cols_; ++c) t.set(r, c, at(r, c));
  return t;
}

bool Tensor::guards_hold() const {
  const int64_t size = static_cast<int64_t>(dtype_bytes(dtype_));
  const auto is_sentinel = [](std::byte b) { return b == kSentinel; };
  for (int64_t r = 0; r < rows_; ++r) {
    const auto row = bytes_.begin() + r * stride_ * size;
    if (!std::all_of(row + cols_ * size, row + stride_ * size, is_sentinel)) return false;
  }
  return std::all_of(bytes_.begin() + rows_ * stride_ * size, bytes_.end(), is_sentinel);
}

std::byte* TestWorkspace::reserve(size_t bytes) {
  peak_bytes_ = std::max(peak_bytes_, bytes);
  memory_.assign(bytes + 64, kSentinel);
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory_.data());
  return memory_.data() + (64 - address % 64) % 64;
}

Tolerance tolerance(DType act, DType output) {
  if (output == DType::kBf16) return {8e-3, 8e-3};  // one rounding to 8 bits is 2^-9 = 2e-3
  if (act == DType::kBf16) return {4e-3, 4e-3};     // f32 sums of products of rounded intermediates
  return {1e-5, 2e-5};
}

OpTest::OpTest() {
  auto backend = cpu::create_backend();
  DSV3_CHECK(backend.ok(), backend.ok() ? "" : backend.status().to_string());
  cpu_backend_ = std::move(backend).value();
  reference_backend_ = make_reference_backend();
  cpu_ = {cpu_backend_.get(), nullptr, &workspace_};
  reference_ = {reference_backend_.get(), nullptr, nullptr};
}

void OpTest::expect_close(const Tensor& actual, const Tensor& expected, const std::string& what,
                          double slack) const {
  const Tolerance table = tolerance(act(), actual.dtype());
  test::expect_close(actual, expected, {table.absolute * slack, table.relative * slack}, what);
}

void expect_close(const Tensor& actual, const Tensor& expected, Tolerance tolerance,
                  const std::string& what) {
  ASSERT_EQ(actual.rows(), expected.rows()) << what;
  ASSERT_EQ(actual.cols(), expected.cols()) << what;
  EXPECT_TRUE(actual.guards_hold()) << what << ": written outside its view";
  double largest = 0.0;
  for (int64_t r = 0; r < expected.rows(); ++r)
    for (int64_t c = 0; c < expected.cols(); ++c) {
      if (std::isfinite(expected.at(r, c)))
        largest = std::max(largest, std::abs(expected.at(r, c)));
    }
  int64_t wrong = 0;
  for (int64_t r = 0; r < expected.rows(); ++r)
    for (int64_t c = 0; c < expected.cols(); ++c) {
      const double a = actual.at(r, c), e = expected.at(r, c);
      if (a == e) continue;
      const double allowed = tolerance.absolute * largest + tolerance.relative * std::abs(e);
      if (!(std::abs(a - e) <= allowed) && ++wrong <= 3) {
        ADD_FAILURE() << what << " [" << r << ", " << c << "]: " << a << ", expected " << e << " ± "
                      << allowed;
      }
    }
  EXPECT_EQ(wrong, 0) << what << ": of " << expected.size();
}

void expect_gradient(const Tensor& analytic, Tensor& x, const std::function<double()>& loss,
                     const std::string& what, double step, double tolerance) {
  ASSERT_EQ(analytic.rows(), x.rows()) << what;
  ASSERT_EQ(analytic.cols(), x.cols()) << what;
  double largest = 0.0, worst = 0.0;
  std::string place;
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c) {
      const double before = x.at(r, c);
      x.set(r, c, before + step);
      const double high = x.at(r, c), loss_high = loss();
      x.set(r, c, before - step);
      const double low = x.at(r, c), loss_low = loss();
      x.set(r, c, before);
      const double numeric = (loss_high - loss_low) / (high - low);
      largest = std::max(largest, std::abs(numeric));
      const double error = std::abs(numeric - analytic.at(r, c));
      if (!(error <= worst)) {
        worst = error;
        place = "[" + std::to_string(r) + ", " + std::to_string(c) +
                "]: " + std::to_string(analytic.at(r, c)) + ", finite difference " +
                std::to_string(numeric);
      }
    }
  EXPECT_LE(worst, tolerance * std::max(largest, 1e-3)) << what << " " << place;
}

double weighted_sum(const Tensor& y, const Tensor& weight) {
  double sum = 0.0;
  for (int64_t r = 0; r < y.rows(); ++r)
    for (int64_t c = 0; c < y.cols(); ++c) sum += y.at(r, c) * weight.at(r, c);
  return sum;
}

std::unique_ptr<ops::Backend> make_reference_backend() {
  return std::make_unique<reference::ReferenceBackend>();
}

std::string dtype_case_name(const testing::TestParamInfo<DType>& info) {
  return dtype_name(info.param);
}

}  // namespace dsv3::test
