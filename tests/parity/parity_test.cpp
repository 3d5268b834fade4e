// The layout never changes the mathematics: losses of three steps, the first step's gradients and
// tokens per expert are those of one process, on every layout chosen (layouts.h). Here too: what is
// chosen covers what layouts.h says, and the model really is as hostile as job.h says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "configs/spec/model_tensors.h"
#include "tests/parity/layouts.h"
#include "tests/parity/run.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::parity {
namespace {

// One process's run of a variant, once for all tests of this process.
const Outcome& reference(const Case& c, const std::string& folder) {
  static std::map<std::string, Outcome> outcomes;
  const std::string key = to_string(reference_of(c));
  if (!outcomes.contains(key)) outcomes[key] = run_case(reference_of(c), folder);
  return outcomes[key];
}

class ParityOfLayout : public testing::TestWithParam<Case> {};

TEST_P(ParityOfLayout, GivesTheMathematicsOfOneProcess) {
  const TemporaryFolder folder;
  write_text(folder / "data");
  const Outcome& one = reference(GetParam(), folder.path());
  const std::string off = difference(GetParam(), one, run_case(GetParam(), folder.path()));
  EXPECT_TRUE(off.empty()) << off;
}

INSTANTIATE_TEST_SUITE_P(Chosen, ParityOfLayout, testing::ValuesIn(chosen_cases()),
                         [](const auto& test) { return test_name(test.param); });

std::vector<int64_t> factoring(const Case& c) {
  const plan::Layout& l = c.layout;
  return {l.tp, l.cp, l.pp, l.ep, l.dp};
}

// Every 61st of all cases, and the first of each factoring that these lack.
std::vector<Case> more_cases() {
  const std::vector<Case> all = all_cases();
  std::vector<Case> cases;
  std::set<std::vector<int64_t>> seen;
  for (size_t i = 0; i < all.size(); i += 61) {
    cases.push_back(all[i]);
    seen.insert(factoring(all[i]));
  }
  for (const Case& c : all) {
    if (seen.insert(factoring(c)).second) cases.push_back(c);
  }
  return cases;
}

// Some minutes, so by hand, with --gtest_also_run_disabled_tests; the layouts above are what each
// test run takes.
TEST(ParityOfMoreLayouts, DISABLED_GiveTheMathematicsOfOneProcess) {
  const TemporaryFolder folder;
  write_text(folder / "data");
  for (const Case& c : more_cases()) {
    const Outcome& one = reference(c, folder.path());
    const std::string off = difference(c, one, run_case(c, folder.path()));
    EXPECT_TRUE(off.empty()) << off;
  }
}

class Parity : public testing::Test {
 protected:
  Parity() { write_text(folder_ / "data"); }
  TemporaryFolder folder_;
};

TEST_F(Parity, TheReferenceStarvesExpertsAndHasEveryGradient) {
  const Case c;
  const Outcome one = run_case(reference_of(c), folder_.path());
  ASSERT_EQ(one.fault, "");
  ASSERT_EQ(one.steps.size(), static_cast<size_t>(kSteps));
  const spec::ModelSpec model = parity_job(c, "").model;
  const auto experts = static_cast<size_t>(model.moe.num_experts);
  ASSERT_EQ(one.counts.size(), experts * 8);  // seven layers and the MTP module's
  const std::set<size_t> starved(std::begin(kStarvedExperts), std::end(kStarvedExperts));
  for (size_t i = 0; i < one.counts.size(); ++i) {
    EXPECT_EQ(one.counts[i] == 0, starved.contains(i % experts)) << i;
  }
  EXPECT_GT(one.steps[0].aux_loss, 0);
  EXPECT_GT(one.steps[0].z_loss, 0);
  EXPECT_GT(one.steps[0].mtp_loss, 0);
  const auto tensors = spec::model_tensors(model);
  for (size_t t = 0; t < tensors.size(); ++t) {
    const bool zero = std::all_of(one.gradients[t].begin(), one.gradients[t].end(),
                                  [](float value) { return value == 0; });
    const auto expert = static_cast<size_t>(tensors[t].expert);
    EXPECT_EQ(zero, tensors[t].expert >= 0 && starved.contains(expert)) << tensors[t].name;
  }
}

TEST_F(Parity, ACapacityDropsTokens) {
  const Case with{.variant = {.capacity_factor = 1.0}};
  const Outcome dropless = run_case(reference_of({}), folder_.path());
  const Outcome dropping = run_case(reference_of(with), folder_.path());
  ASSERT_EQ(dropless.fault + dropping.fault, "");
  const double off = dropping.steps[0].lm_loss / dropless.steps[0].lm_loss - 1;
  EXPECT_GT(std::abs(off), 1e-4);  // ten times what layouts may differ by
}

TEST_F(Parity, OverlapChangesNoBit) {
  for (const plan::Layout& layout : {plan::Layout{.ep = 2, .zero_stage = 0},
                                     plan::Layout{.tp = 2, .ep = 2, .etp = 2, .zero_stage = 0}}) {
    Case c{.layout = completed(layout)};
    const Outcome with = run_case(c, folder_.path());
    c.overlap = false;
    const Outcome without = run_case(c, folder_.path());
    ASSERT_EQ(with.fault + without.fault, "");
    EXPECT_EQ(with.steps, without.steps) << to_string(c);
    EXPECT_EQ(with.gradients, without.gradients) << to_string(c);
  }
}

TEST_F(Parity, ADifferenceIsSeenAndNamed) {
  const Case c;
  Outcome one = run_case(reference_of(c), folder_.path());
  ASSERT_EQ(difference(c, one, one), "");
  Outcome other = one;
  const auto tensors = spec::model_tensors(parity_job(c, "").model);
  size_t t = 0;
  while (tensors[t].name != "model.layers.3.mlp.gate.weight") ++t;
  other.gradients[t][37] += 1;
  EXPECT_NE(difference(c, one, other).find("model.layers.3.mlp.gate.weight[1, 5]"),
            std::string::npos)
      << difference(c, one, other);
  other = one;
  other.steps[2].loss *= 1 + 2e-5;
  EXPECT_NE(difference(c, one, other).find("step 3 loss"), std::string::npos);
  other = one;
  other.gradients[t][37] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(difference(c, one, other), "");
}

TEST(ParityLayouts, MoreOfThemHaveEveryFactoring) {
  std::set<std::vector<int64_t>> factorings;
  for (const Case& c : more_cases()) factorings.insert(factoring(c));
  EXPECT_EQ(factorings.size(), 55u);  // of 2, 4 and 8 over five axes: 5, 5 + 10, 5 + 20 + 10
}

TEST(ParityLayouts, CoverEveryTwoAxesAndEveryChoice) {
  const std::vector<Case> cases = chosen_cases();
  EXPECT_GE(cases.size(), 24u);
  std::set<std::pair<int, int>> axes;
  std::set<std::string> names, schedules, recomputes;
  std::set<int64_t> zero, worlds;
  for (const Case& c : cases) {
    const plan::Layout& l = c.layout;
    const std::vector<int64_t> sizes = {l.tp, l.cp, l.pp, l.ep, l.dp};
    for (int a = 0; a < 5; ++a)
      for (int b = 0; b <= a; ++b)
        if (sizes[static_cast<size_t>(a)] > 1 && sizes[static_cast<size_t>(b)] > 1)
          axes.emplace(a, b);
    EXPECT_TRUE(names.insert(test_name(c)).second) << test_name(c);
    if (l.pp > 1) schedules.insert(l.schedule);
    recomputes.insert(l.recompute);
    zero.insert(l.zero_stage);
    worlds.insert(l.world_size());
  }
  EXPECT_EQ(axes.size(), 15u);
  EXPECT_EQ(schedules.size(), 4u);
  EXPECT_EQ(recomputes.size(), 3u);
  EXPECT_EQ(zero, (std::set<int64_t>{0, 1, 2}));
  EXPECT_EQ(worlds, (std::set<int64_t>{2, 4, 8}));
}

}  // namespace
}  // namespace dsv3::parity
