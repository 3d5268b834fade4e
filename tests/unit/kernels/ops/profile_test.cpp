// The profiling back end: forwards everything, counts everything once.
#include "kernels/ops/profile.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "kernels/ops/ops.h"

namespace dsv3::ops {
namespace {

// A device without memory: notes what it was asked for, and each op takes the milliseconds it is
// told to.
class NotingBackend final : public Backend {
 public:
  explicit NotingBackend(FakeClock& clock) : clock_(clock) {}
  const char* name() const override { return "noting"; }
  void* allocate(size_t) override { return note("allocate"), nullptr; }
  void deallocate(void*) override { note("deallocate"); }
  void copy_to_device(void*, const void*, size_t, Stream) override { note("copy_to_device"); }
  void copy_to_host(void*, const void*, size_t, Stream) override { note("copy_to_host"); }
  void fill_zero(void*, size_t, Stream) override { note("fill_zero"); }
  void synchronize(Stream) override { ++synchronized_; }
  DType matmul_dtype() const override { return DType::kBf16; }
#define DSV3_NOTE(op, Args)                           \
  void op(const Context& ctx, const Args&) override { \
    note(#op);                                        \
    EXPECT_EQ(ctx.backend, this) << #op;              \
    EXPECT_EQ(ctx.stream, kStream) << #op;            \
  }
  DSV3_PROFILED_OPS(DSV3_NOTE)
#undef DSV3_NOTE

  void note(const char* what) {
    asked.emplace_back(what);
    clock_.advance_ns(op_ns);
  }
  static inline Stream const kStream = reinterpret_cast<Stream>(0x10);
  std::vector<std::string> asked;
  int synchronized_ = 0;
  int64_t op_ns = 1000;

 private:
  FakeClock& clock_;
};

// Every `virtual void NAME(const Context&` of backend.h: a new op that the decorator does not know
// would run unseen.
std::vector<std::string> ops_of_the_header() {
  const auto text = read_file(std::string(DSV3_SOURCE_DIR) + "/kernels/ops/backend.h");
  EXPECT_TRUE(text.ok());
  std::vector<std::string> names;
  constexpr std::string_view kBegin = "virtual void ", kEnd = "(const Context&";
  for (size_t at = 0; (at = text->find(kBegin, at)) != std::string::npos;) {
    at += kBegin.size();
    const size_t end = text->find('(', at);
    if (text->compare(end, kEnd.size(), kEnd) == 0) names.push_back(text->substr(at, end - at));
  }
  return names;
}

TEST(ProfilingBackend, ForwardsEveryOpOfTheHeaderAndCountsItOnce) {
  FakeClock clock;
  NotingBackend inner(clock);
  Profile profile;
  ProfilingBackend outer(inner, profile, clock);
  const Context ctx{&outer, NotingBackend::kStream, nullptr};
#define DSV3_CALL(op, Args) outer.op(ctx, Args{});
  DSV3_PROFILED_OPS(DSV3_CALL)
#undef DSV3_CALL
  EXPECT_EQ(inner.asked, ops_of_the_header());
  EXPECT_EQ(inner.synchronized_, static_cast<int>(inner.asked.size()));
  std::set<std::string> recorded;
  for (const auto& [key, totals] : profile.entries()) {
    recorded.emplace(key.first);
    EXPECT_EQ(totals.calls, 1) << key.first;
    EXPECT_EQ(totals.ns, 1000) << key.first;
  }
  EXPECT_EQ(recorded, std::set<std::string>(inner.asked.begin(), inner.asked.end()));
  EXPECT_EQ(profile.total_ns(), 1000 * static_cast<int64_t>(inner.asked.size()));
}

TEST(ProfilingBackend, RecordsCopiesAndFillsButNotAllocations) {
  FakeClock clock;
  NotingBackend inner(clock);
  Profile profile;
  ProfilingBackend outer(inner, profile, clock);
  EXPECT_STREQ(outer.name(), "noting");
  EXPECT_EQ(outer.matmul_dtype(), DType::kBf16);
  outer.deallocate(outer.allocate(8));
  outer.copy_to_device(nullptr, nullptr, 400, NotingBackend::kStream);
  outer.copy_to_host(nullptr, nullptr, 400, NotingBackend::kStream);
  outer.fill_zero(nullptr, 400, NotingBackend::kStream);
  EXPECT_EQ(inner.asked, (std::vector<std::string>{"allocate", "deallocate", "copy_to_device",
                                                   "copy_to_host", "fill_zero"}));
  ASSERT_EQ(profile.entries().size(), 3u);
  double bytes = 0;
  for (const auto& [key, totals] : profile.entries()) bytes += totals.cost.bytes;
  EXPECT_EQ(bytes, 400 * 2 + 400 * 2 + 400);
}

TEST(Profile, SumsCallsOfOneSignatureAndKeepsOthersApart) {
  FakeClock clock;
  NotingBackend inner(clock);
  Profile profile;
  ProfilingBackend outer(inner, profile, clock);
  const Context ctx{&outer, NotingBackend::kStream, nullptr};
  float a[12], b[20], other[20], c[15];
  Gemm args{.a = ConstMatrix(a, DType::kF32, 3, 4),
            .b = ConstMatrix(b, DType::kF32, 5, 4),
            .c = Matrix(c, DType::kF32, 3, 5),
            .transpose_b = true};
  gemm(ctx, args);
  inner.op_ns = 500;
  gemm(ctx, args);
  args.b.data = other;
  gemm(ctx, args);
  ASSERT_EQ(profile.entries().size(), 2u);
  for (const auto& [key, totals] : profile.entries()) {
    const bool first = key.second.parameter == b;
    EXPECT_EQ(key.first, "gemm");
    EXPECT_EQ(totals.calls, first ? 2 : 1);
    EXPECT_EQ(totals.ns, first ? 1500 : 500);
    EXPECT_EQ(totals.cost.flops, (first ? 2 : 1) * 2.0 * 3 * 5 * 4);
  }
  profile.clear();
  EXPECT_EQ(profile.total_ns(), 0);
}

}  // namespace
}  // namespace dsv3::ops
