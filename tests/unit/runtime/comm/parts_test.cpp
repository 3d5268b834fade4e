// The parts of the communicator that need no peer: reductions, frames.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/comm/cpu/fold.h"
#include "runtime/comm/cpu/wire.h"
#include "tests/unit/runtime/comm/values.h"

namespace dsv3::comm {
namespace {

TEST(Fold, AgreesWithThePlainLoopForAnyNumberOfSources) {
  for (const DType dtype : all_dtypes())
    for (const Reduce reduce : {Reduce::kSum, Reduce::kMax})
      for (const int num : {1, 2, 3, 4, 7})
        for (const int64_t count : {0, 1, 7, 2047, 2048, 2049, 5003}) {
          std::vector<std::vector<char>> inputs;
          std::vector<const std::byte*> sources;
          for (int r = 0; r < num; ++r) inputs.push_back(values(dtype, count, r, num));
          for (auto& in : inputs) sources.push_back(reinterpret_cast<std::byte*>(in.data()));
          const auto expected = reduced(dtype, inputs, reduce);
          // In place, into the last source.
          auto* out = reinterpret_cast<std::byte*>(inputs.back().data());
          fold(reduce, dtype, sources, out, count);
          EXPECT_EQ(inputs.back(), expected) << dtype_name(dtype) << " " << num << " " << count;
        }
}

TEST(Fold, RoundsBf16OnceAndKeepsNan) {
  // 1 + 2^-8 + 2^-8: each half bit is lost if every sum is rounded; added in f32 they make a bit.
  const std::vector<Bf16> values_of = {Bf16(1.0f), Bf16(0.00390625f), Bf16(0.00390625f)};
  std::vector<const std::byte*> sources;
  for (const Bf16& v : values_of) sources.push_back(reinterpret_cast<const std::byte*>(&v));
  Bf16 out;
  fold(Reduce::kSum, DType::kBf16, sources, reinterpret_cast<std::byte*>(&out), 1);
  EXPECT_EQ(static_cast<float>(out), 1.0078125f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [a, b] : {std::pair{nan, 1.0f}, std::pair{1.0f, nan}}) {
    const std::vector<const std::byte*> two = {reinterpret_cast<const std::byte*>(&a),
                                               reinterpret_cast<const std::byte*>(&b)};
    float largest = 0;
    fold(Reduce::kMax, DType::kF32, two, reinterpret_cast<std::byte*>(&largest), 1);
    EXPECT_TRUE(std::isnan(largest));
  }
}

TEST(Wire, ControlFramesComeBackAsTheyWent) {
  const Fault fault{Code::kPeerLost, 3, "all_reduce 'x' of group dp", "rank 3\nclosed"};
  const std::string frame = control_frame(ControlKind::kFault, fault);
  ControlKind kind;
  Fault back;
  // Byte by byte: nothing is taken before the last.
  std::string bytes;
  for (size_t i = 0; i + 1 < frame.size(); ++i) {
    bytes += frame[i];
    ASSERT_EQ(take_control_frame(bytes, kind, back), 0) << i;
  }
  bytes += frame.back();
  bytes += control_frame(ControlKind::kGoodbye, {});
  ASSERT_EQ(take_control_frame(bytes, kind, back), 1);
  EXPECT_EQ(kind, ControlKind::kFault);
  EXPECT_EQ(back.code, Code::kPeerLost);
  EXPECT_EQ(back.culprit, 3);
  EXPECT_EQ(back.operation, fault.operation);
  EXPECT_EQ(back.reason, "rank 3?closed");  // no line breaks into our log
  ASSERT_EQ(take_control_frame(bytes, kind, back), 1);
  EXPECT_EQ(kind, ControlKind::kGoodbye);
  EXPECT_TRUE(bytes.empty());
}

TEST(Wire, NonsenseIsNoFrame) {
  const std::string good = control_frame(ControlKind::kFault, {Code::kFailed, 1, "a", "b"});
  int refused = 0;
  for (size_t at = 0; at < sizeof(ControlHeader); ++at)
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      ControlKind kind;
      Fault fault;
      const int taken = take_control_frame(bytes, kind, fault);  // must stay within its bytes
      refused += taken == -1;
      EXPECT_TRUE(taken != 1 || fault.code != Code::kOk);
    }
  EXPECT_GE(refused, 20);  // magic, kind, rank, lengths
  Hello hello;
  hello.world = 2;
  EXPECT_EQ(judge(hello, "", 2), Answer::kWelcome);
  EXPECT_EQ(judge(hello, "x", 2), Answer::kToken);
  EXPECT_EQ(judge(hello, "", 3), Answer::kWorld);
  hello.rank = 2;
  EXPECT_EQ(judge(hello, "", 2), Answer::kWorld);
  hello.magic ^= 1;
  EXPECT_EQ(judge(hello, "", 2), Answer::kVersion);
}

}  // namespace
}  // namespace dsv3::comm
