// A wall clock that is set forwards and back, by an hour and by a day, under dsv3d, its agents and
// their ranks (libfaketime in each of them, its offset in a file that this test changes).
//
// Law: only what people read is wall time. No time-out fires for it, nothing restarts, no duration
// is negative, and no delay is made longer.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <cmath>
#include <regex>

#include "base/clock.h"
#include "base/file.h"
#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

constexpr int kForEver = 10'000'000;  // steps
constexpr const char* kLibrary = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
constexpr double kDay_s = 86'400;

std::string why_no_faketime() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return "a sanitizer's library must be the first one";
#endif
  return path_exists(kLibrary) ? "" : "there is no libfaketime (Debian package faketime)";
}

// Everything that is started while it lives runs on this clock.
class WallClock {
 public:
  explicit WallClock(const Home& home) : file_(home.path() + "/clock") {
    set("+0");
    ::setenv("FAKETIME_TIMESTAMP_FILE", file_.c_str(), 1);
    ::setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1", 1);
    ::setenv("FAKETIME_NO_CACHE", "1", 1);
    ::setenv("NO_FAKE_STAT", "1", 1);
    ::setenv("LD_PRELOAD", kLibrary, 1);
  }
  ~WallClock() { ::unsetenv("LD_PRELOAD"); }
  WallClock(const WallClock&) = delete;
  WallClock& operator=(const WallClock&) = delete;

  // "+1d", "-1h": from the real time.
  void set(const std::string& offset) const { ASSERT_TRUE(write_file(file_, offset + "\n").ok()); }

 private:
  std::string file_;
};

// Seconds between the coordinator's time and this machine's.
double shift_s(const Home& home) {
  const Json info = home.json({"status"})["coordinator"];
  return info["started"].get<double>() + info["uptime_s"].get<double>() -
         static_cast<double>(system_clock().wall_ns()) * 1e-9;
}

void expect_sane(const Home& home, const std::string& id) {
  const Json status = home.json({"status"});
  const double uptime_s = status["coordinator"]["uptime_s"];
  EXPECT_GE(uptime_s, 0);
  EXPECT_LT(uptime_s, 300);
  const Json job = home.job(id);
  EXPECT_EQ(job["state"], "RUNNING") << job.dump(1);
  EXPECT_EQ(job["attempt"], 1);
  EXPECT_EQ(job["lost_steps"], 0);
  if (job["effective_time_ratio"].is_number()) {
    EXPECT_GE(job["effective_time_ratio"].get<double>(), 0);
    EXPECT_LE(job["effective_time_ratio"].get<double>(), 1);
  }
  if (job.contains("last_step_age_s") && job["last_step_age_s"].is_number()) {
    EXPECT_GE(job["last_step_age_s"].get<double>(), 0);
  }
  for (const Json& node : home.json({"nodes"})["nodes"]) {
    EXPECT_GE(node["last_heard_s"].get<double>(), 0);
    EXPECT_LT(node["last_heard_s"].get<double>(), 10);
  }
  for (const std::string& text : {home.ctl({"status"}).out, home.ctl({"status", id}).out})
    EXPECT_FALSE(std::regex_search(text, std::regex("(^|[ (])-[0-9]"))) << text;
  const Json steps = home.sql("SELECT min(step_s) AS least, max(step_s) AS most FROM metrics");
  EXPECT_GT(steps[0]["least"].get<double>(), 0);
  EXPECT_LT(steps[0]["most"].get<double>(), 60);
}

TEST(WallClock, ThatJumpsNeitherEndsNorRestartsAJob) {
  if (const std::string why = why_no_faketime(); !why.empty()) GTEST_SKIP() << why;
  const Home home;
  const WallClock clock(home);
  const std::string id = home.start_job(kForEver, gang_words(0));
  const auto ranks = wait_for_ranks(home);
  for (const auto& [offset, seconds] : std::vector<std::pair<std::string, double>>{
           {"+1h", 3600}, {"+1d", kDay_s}, {"-1h", -3600}, {"-1d", -kDay_s}, {"+0", 0}}) {
    SCOPED_TRACE(offset);
    clock.set(offset);
    ASSERT_TRUE(wait_until([&] { return std::abs(shift_s(home) - seconds) < 60; }))
        << "the clock was not changed";
    const int64_t step = home.step(id);
    ASSERT_TRUE(wait_until([&] { return home.step(id) > step + 3; })) << home.job(id).dump(1);
    expect_sane(home, id);
  }
  EXPECT_EQ(wait_for_ranks(home), ranks);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
  const Json job = home.job(id);
  EXPECT_EQ(job["state"], "CANCELLED");
  EXPECT_EQ(job["checkpoint"]["step"], job["step"]);
}

// Seconds of the steady clock that `body` takes.
template <typename Body>
double seconds_of(Body&& body) {
  const int64_t begin_ns = system_clock().steady_ns();
  body();
  return static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9;
}

TEST(WallClock, ThatIsSetBackMakesNoDelayLonger) {
  if (const std::string why = why_no_faketime(); !why.empty()) GTEST_SKIP() << why;
  const Home home;
  const WallClock clock(home);
  const std::string id = home.submit_job(kForEver, gang_words(0));
  std::vector<pid_t> ranks;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    ASSERT_TRUE(trains(home, id, attempt));
    ranks = wait_for_ranks(home, ranks);
    kill_all({ranks.front()});
  }
  // The third attempt begins a second after the second's end.
  ASSERT_TRUE(reaches(home, id, "RESTARTING"));
  clock.set("-1d");
  EXPECT_LT(seconds_of([&] { EXPECT_TRUE(trains(home, id, 3)) << home.job(id).dump(1); }), 15);
  // A rank that does not listen is killed after the grace.
  ranks = wait_for_ranks(home, ranks);
  kill_all({ranks.back()}, SIGSTOP);
  Running cancel(home.ctl_words({"cancel", id, "--grace", "1"}), home.environment());
  ASSERT_TRUE(reaches(home, id, "STOPPING"));
  clock.set("-2d");
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(cancel.finish(30).code, 0); }), 15);
  EXPECT_EQ(home.job(id)["state"], "CANCELLED");
}

}  // namespace
}  // namespace dsv3::e2e
