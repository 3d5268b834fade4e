// Status, checks, bf16, checksums, clocks and child processes.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "base/clock.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/process.h"
#include "base/status.h"

namespace dsv3 {
namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return Status(Code::kInvalid, "odd number", "give an even one", "here:1:2");
  return x / 2;
}
Result<int> quarter(int x) {
  DSV3_ASSIGN_OR_RETURN(const int h, half(x));
  return half(h);
}

TEST(Status, PropagatesAndReadsAsOneSentence) {
  EXPECT_EQ(*quarter(8), 2);
  const Status status = quarter(6).status();
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_EQ(status.to_string(), "here:1:2: odd number; give an even one");
}

TEST(StatusDeathTest, ValueOfAnErrorAborts) {
  EXPECT_DEATH(half(3).value(), "check failed: ok\\(\\)");
}

TEST(Bf16, RoundsToNearestEvenAndKeepsSpecials) {
  EXPECT_EQ(Bf16(1.0f).bits, 0x3F80);
  EXPECT_EQ(Bf16(1.00390625f).bits, 0x3F80);  // halfway, even below
  EXPECT_EQ(Bf16(1.01171875f).bits, 0x3F82);  // halfway, even above
  EXPECT_EQ(Bf16(std::nextafter(1.00390625f, 2.0f)).bits, 0x3F81);
  EXPECT_EQ(Bf16(std::numeric_limits<float>::infinity()).bits, 0x7F80);
  EXPECT_TRUE(std::isnan(static_cast<float>(Bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(static_cast<float>(Bf16(-2.5f)), -2.5f);
}

TEST(Checksum, PiecesEqualTheWholeAndABitFlipShows) {
  std::string text = "the quick brown fox";
  const auto bytes = [&] { return std::as_bytes(std::span(text)); };
  Checksum pieces;
  pieces.update(bytes().subspan(0, 7));
  pieces.update(bytes().subspan(7));
  EXPECT_EQ(pieces.hex(), checksum(bytes()));
  const std::string before = checksum(bytes());
  text[3] ^= 1;
  EXPECT_NE(checksum(bytes()), before);
  EXPECT_EQ(checksum({}), "99aa06d3014798d86001c324468d497f");  // XXH3-128 of nothing, published
}

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock(1000);
  EXPECT_EQ(clock.steady_ns(), 0);
  clock.advance_ns(5);
  EXPECT_EQ(clock.steady_ns(), 5);
  EXPECT_EQ(clock.wall_ns(), 1005);
}

// Reaps with a deadline instead of sleeping.
int reap(pid_t pid) {
  const int64_t deadline = system_clock().steady_ns() + 10'000'000'000;
  while (system_clock().steady_ns() < deadline) {
    if (const auto code = try_reap(pid)) return *code;
    ::usleep(1000);
  }
  ADD_FAILURE() << "the child did not end";
  return -1;
}

TEST(Spawn, GivesExitCodesSignalsAndEnvironment) {
  auto pid = spawn({.argv = {"/bin/sh", "-c", "exit $WANTED"}, .extra_env = {{"WANTED", "42"}}});
  ASSERT_TRUE(pid.ok());
  EXPECT_EQ(reap(*pid), 42);
  pid = spawn({.argv = {"/bin/sleep", "100"}, .new_session = true, .die_with_parent = true});
  ASSERT_TRUE(pid.ok());
  EXPECT_TRUE(process_alive(*pid));
  ::kill(*pid, SIGKILL);
  // A zombie counts as dead, also before it is reaped.
  const int64_t deadline = system_clock().steady_ns() + 10'000'000'000;
  while (process_alive(*pid) && system_clock().steady_ns() < deadline) ::usleep(1000);
  EXPECT_FALSE(process_alive(*pid));
  EXPECT_EQ(reap(*pid), 128 + SIGKILL);
}

TEST(Spawn, NamesAProgramThatCannotStart) {
  const auto pid = spawn({.argv = {"/no/such/program"}});
  ASSERT_FALSE(pid.ok());
  EXPECT_EQ(pid.status().message(), "cannot start '/no/such/program': No such file or directory");
}

}  // namespace
}  // namespace dsv3
