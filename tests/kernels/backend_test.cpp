// The CPU back end itself: its memory, its choice of matmul dtype, and what the dispatch functions
// refuse.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/failure.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/op_test.h"

namespace dsv3::test {
namespace {

std::unique_ptr<ops::Backend> make_cpu() {
  auto backend = cpu::create_backend();
  EXPECT_TRUE(backend.ok());
  return std::move(backend).value();
}

TEST(CpuBackend, MemoryIsAlignedAndCopies) {
  auto backend = make_cpu();
  EXPECT_STREQ(backend->name(), "cpu");
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{100001}}) {
    void* data = backend->allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    std::vector<unsigned char> sent(bytes, 7), received(bytes, 1);
    backend->copy_to_device(data, sent.data(), bytes, nullptr);
    backend->copy_to_host(received.data(), data, bytes, nullptr);
    EXPECT_EQ(received, sent);
    backend->fill_zero(data, bytes, nullptr);
    backend->synchronize(nullptr);
    backend->copy_to_host(received.data(), data, bytes, nullptr);
    EXPECT_EQ(received, std::vector<unsigned char>(bytes, 0));
    backend->deallocate(data);
  }
}

TEST(CpuBackend, TooLargeAnAllocationIsAFailureWithItsCode) {
  auto backend = make_cpu();
  try {
    backend->allocate(SIZE_MAX - 8);
    FAIL() << "allocated";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), Code::kOutOfMemory);
  }
}

TEST(CpuBackend, MultipliesInTheFasterDtype) {
  auto backend = make_cpu();
  EXPECT_EQ(backend->matmul_dtype(), cpu::bf16_is_faster() ? DType::kBf16 : DType::kF32);
  if (const char* forced = std::getenv("DSV3_CPU_MATMUL")) {
    EXPECT_EQ(cpu::bf16_is_faster(), std::string_view(forced) == "bf16");
  }
}

// A back end without ops: what the CUDA plug-in looks like to a caller of an op it was built
// without.
class EmptyBackend : public ops::Backend {
 public:
  const char* name() const override { return "empty"; }
  void* allocate(size_t) override { return nullptr; }
  void deallocate(void*) override {}
  void copy_to_device(void*, const void*, size_t, ops::Stream) override {}
  void copy_to_host(void*, const void*, size_t, ops::Stream) override {}
  void fill_zero(void*, size_t, ops::Stream) override {}
  void synchronize(ops::Stream) override {}
  DType matmul_dtype() const override { return DType::kF32; }
};

TEST(Backend, AMissingOpFailsByItsName) {
  EmptyBackend backend;
  const ops::Context ctx{&backend, nullptr, nullptr};
  Tensor a(DType::kF32, 2, 2), c(DType::kF32, 2, 2);
  try {
    ops::gemm(ctx, {a.matrix(), a.matrix(), c.matrix()});
    FAIL() << "no failure";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), Code::kDevice);
    EXPECT_NE(std::string(failure.what()).find("empty: gemm"), std::string::npos) << failure.what();
  }
}

TEST(DispatchDeathTest, WrongShapesAbortWithTheOpsName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto backend = make_cpu();
  TestWorkspace workspace;
  const ops::Context ctx{backend.get(), nullptr, &workspace};
  Tensor a(DType::kF32, 2, 3), b(DType::kF32, 4, 5), c(DType::kF32, 2, 5),
      narrow(DType::kBf16, 3, 5);
  EXPECT_DEATH(ops::gemm(ctx, {a.matrix(), b.matrix(), c.matrix()}), "gemm: a and b differ in k");
  EXPECT_DEATH(ops::gemm(ctx, {a.matrix(), narrow.matrix(), c.matrix()}), "gemm: a and b are both");
  Tensor cos(DType::kF32, 2, 1);
  ops::Rope rope{a.raw(), DType::kF32, 2, 1, 3, 3, 3, 2, cos.vector<float>(), cos.vector<float>(),
                 false};
  EXPECT_DEATH(ops::rope(ctx, rope), "rope: rope_dim is even");
}

}  // namespace
}  // namespace dsv3::test
