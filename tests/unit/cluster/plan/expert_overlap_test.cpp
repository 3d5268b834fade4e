// What the parts of an experts' exchange leave exposed. Oracle: a simulation of events, part by
// part, which knows a link and a computing unit and nothing of the equation.
#include "cluster/plan/expert_overlap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <vector>

namespace dsv3::plan {
namespace {

// Time goes from event to event; a unit that is free takes the first job that may begin.
double simulated(const ExpertExchange& x) {
  struct Job {
    double left = 0;
    size_t part = 0;
    bool home = false;  // of the link's
  };
  const auto parts = static_cast<size_t>(x.parts);
  const auto share = [&](double seconds) { return seconds / static_cast<double>(x.parts); };
  std::deque<Job> link, compute;
  for (size_t part = 0; part < parts; ++part) link.push_back({share(x.there_s), part});
  compute.push_back({x.before_s, parts});
  for (size_t part = 0; part < parts; ++part) compute.push_back({share(x.experts_s), part});
  compute.push_back({x.after_s, parts});
  std::vector<bool> is_here(parts + 1, false);
  is_here[parts] = true;  // what needs no rows
  double now = 0;
  while (!link.empty() || !compute.empty()) {
    const bool computes = !compute.empty() && is_here[compute.front().part];
    double step = link.empty() ? compute.front().left : link.front().left;
    if (computes) step = std::min(step, compute.front().left);
    now += step;
    const bool linked = !link.empty();
    if (linked) link.front().left -= step;
    if (computes) compute.front().left -= step;
    if (linked && link.front().left <= 0) {
      if (!link.front().home) is_here[link.front().part] = true;
      link.pop_front();
    }
    if (computes && compute.front().left <= 0) {
      if (const size_t part = compute.front().part; part < parts)
        link.push_back({share(x.back_s), part, true});
      compute.pop_front();
    }
  }
  return now - (x.before_s + x.experts_s + x.after_s);
}

TEST(ExpertOverlap, IsWhatASimulationOfPartsLeaves) {
  std::mt19937 random(7);
  // Whole numbers, and parts that halve them: sums are exact, events coincide.
  std::uniform_int_distribution<int> seconds(0, 12), power(0, 3);
  for (int i = 0; i < 20000; ++i) {
    const auto drawn = [&] { return static_cast<double>(seconds(random)); };
    const ExpertExchange x{.parts = int64_t{1} << power(random),
                           .there_s = drawn(),
                           .back_s = drawn(),
                           .before_s = drawn(),
                           .experts_s = drawn(),
                           .after_s = drawn()};
    ASSERT_DOUBLE_EQ(exposed_seconds(x), simulated(x))
        << x.parts << " parts: " << x.there_s << " " << x.back_s << " " << x.before_s << " "
        << x.experts_s << " " << x.after_s;
  }
}

TEST(ExpertOverlap, TheWorkedExamples) {
  ExpertExchange x{
      .parts = 4, .there_s = 4, .back_s = 4, .before_s = 1, .experts_s = 8, .after_s = 1};
  EXPECT_DOUBLE_EQ(exposed_seconds(x), 0);
  x.experts_s = 4;
  EXPECT_DOUBLE_EQ(exposed_seconds(x), 2);
}

// The ends of a layer without shared experts are in sight, however fast the rest: one part there
// and one back. With one part that is everything.
TEST(ExpertOverlap, TheFirstAndTheLastPartNeedSomethingElseToHideBehind) {
  ExpertExchange x{.parts = 4, .there_s = 8, .back_s = 8, .experts_s = 100};
  EXPECT_DOUBLE_EQ(exposed_seconds(x), 2 + 2);
  x.parts = 1;
  EXPECT_DOUBLE_EQ(exposed_seconds(x), 16);
  x.before_s = 5;
  EXPECT_DOUBLE_EQ(exposed_seconds(x), 11);
  x.after_s = 100;
  EXPECT_DOUBLE_EQ(exposed_seconds(x), 3);
}

}  // namespace
}  // namespace dsv3::plan
