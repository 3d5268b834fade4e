// The MoE block over ranks: outputs, gradients, counts, losses, drops and bytes are those of one
// rank that has every token, whatever the layout.
#include <gtest/gtest.h>

#include <functional>

#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/model/moe_world.h"

namespace dsv3::model {
namespace {

plan::Layout cut(int64_t tp, int64_t cp, int64_t ep, int64_t dp = 1, bool strips = false) {
  plan::Layout layout;
  layout.tp = tp;
  layout.cp = cp;
  layout.ep = ep;
  layout.dp = dp;
  layout.etp = strips ? tp : 1;
  return layout;
}

const MoeCase kCases[] = {
    {"Ep2", cut(1, 1, 2)},
    {"Ep4", cut(1, 1, 4)},
    {"Ep8", cut(1, 1, 8)},
    {"Ep2Dp2", cut(1, 1, 2, 2)},
    {"Cp2", cut(1, 2, 1)},
    {"Cp4", cut(1, 4, 1)},
    {"Cp2Ep2", cut(1, 2, 2)},
    {"Tp2", cut(2, 1, 1)},
    {"Tp4", cut(4, 1, 1)},
    {"Tp2Ep2", cut(2, 1, 2)},
    {"Tp2Cp2Ep2", cut(2, 2, 2)},
    {"Tp2Strips", cut(2, 1, 1, 1, true)},
    {"Tp2Ep2Strips", cut(2, 1, 2, 1, true)},
    {"Tp4Ep2Strips", cut(4, 1, 2, 1, true)},
    {"Tp2Cp2Ep2Strips", cut(2, 2, 2, 1, true)},
};

class Layouts : public testing::TestWithParam<MoeCase> {};
INSTANTIATE_TEST_SUITE_P(Moe, Layouts, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

std::vector<float> summed(const comm::Groups& groups, std::vector<float> values) {
  groups.world->all_reduce("test",
                           {values.data(), static_cast<int64_t>(values.size()), DType::kF32});
  return values;
}

// Counts, losses and drops of all ranks together are the whole's.
void expect_totals(MoeRun& mine, MoeRun& whole) {
  const ops::Vector<int64_t> counts = mine.step().all_counts();
  mine.groups().world->all_reduce("test", {counts.data, counts.size, DType::kI64});
  const ops::Vector<double> scalars = mine.step().scalars();
  mine.groups().world->all_reduce("test", {scalars.data, scalars.size, DType::kF64});
  mine.step().read_back();
  const auto a = mine.step().host_counts(0), b = whole.step().host_counts(0);
  comm::expect(std::equal(a.begin(), a.end(), b.begin()), "counts differ");
  for (const Scalar scalar : {Scalar::kAuxLoss, Scalar::kZLoss, Scalar::kDropped}) {
    const double got = mine.step().host_scalar(scalar), want = whole.step().host_scalar(scalar);
    const double slack = scalar == Scalar::kDropped ? 0 : 1e-6 * want;
    comm::expect(std::abs(got - want) <= slack,
                 "scalar " + std::to_string(static_cast<int>(scalar)) + ": " + std::to_string(got) +
                     ", not " + std::to_string(want));
  }
}

void expect_like_one_rank(const MoeCase& c) {
  // bf16: strips' sums are rounded each by itself, to 2^-9 of their size.
  const bool exact = c.compute == DType::kF32;
  const float y_tolerance = exact ? 1e-6f : 1e-2f, gradient_tolerance = exact ? 1e-5f : 2e-2f;
  with_ranks(c.layout, [&](const comm::Groups& groups) {
    MoeRun whole(c, comm::Groups::alone()), mine(c, groups);
    whole.run();
    mine.run();
    expect_near(mine.y(), rows_of(whole.y(), mine), y_tolerance, "y");
    if (c.training) {
      expect_near(mine.dx(), rows_of(whole.dx(), mine), gradient_tolerance, "dx");
      const ParamLayout& layout = whole.params().layout();
      const std::vector<float> grads = summed(groups, mine.gradients_in(layout));
      for (const ParamBlock& block : layout.blocks) {
        if (block.name.find("layers.1.mlp") == std::string::npos) continue;
        const auto part = [&](const float* all) {
          return std::vector<float>(all + block.offset, all + block.offset + block.num_elements());
        };
        expect_near(part(grads.data()), part(whole.params().grad().as<float>()), gradient_tolerance,
                    block.name);
      }
    }
    expect_totals(mine, whole);
  });
}

TEST_P(Layouts, GiveTheNumbersOfOneRank) {
  expect_like_one_rank(GetParam());
}

TEST_P(Layouts, LeaveExpertsAndRanksWithoutTokens) {
  MoeCase c = GetParam();
  c.skewed = true;
  expect_like_one_rank(c);
}

TEST_P(Layouts, DropTheSameTokens) {
  for (const double factor : {0.5, 1.0}) {
    MoeCase c = GetParam();
    c.capacity = factor;
    expect_like_one_rank(c);
  }
}

TEST_P(Layouts, EvaluateWithoutLossesAndCounts) {
  MoeCase c = GetParam();
  c.training = false;
  c.capacity = 1.0;
  expect_like_one_rank(c);
}

TEST_P(Layouts, SendTheBytesOfTheFormula) {
  for (const bool skewed : {false, true}) {
    MoeCase c = GetParam();
    c.skewed = skewed;
    c.shared = false;  // they travel over TP on their own account
    with_ranks(c.layout, [&](const comm::Groups& groups) {
      MoeRun whole(c, comm::Groups::alone()), mine(c, groups);
      whole.run();
      const auto sent = [](const comm::Communicator* group) {
        return group ? group->traffic().bytes_sent : 0;
      };
      const int64_t experts = sent(groups.experts), tensor = sent(groups.tensor),
                    sequence = sent(groups.sequence);
      mine.run();
      const MoeTraffic want = expected_traffic(mine, whole);
      const int64_t got = sent(groups.experts) - experts;
      comm::expect(
          !groups.experts || got == want.experts,
          "experts: " + std::to_string(got) + " bytes, not " + std::to_string(want.experts));
      const plan::Layout& cut = groups.layout;
      const int64_t parts = cut.cp > 1 && cut.tp == 1 ? 2 : 1;  // of a sequence, on a rank
      const int64_t counts =
          (cut.tp * cut.cp - 1) * 4 * (kSequences / groups.data_ranks()) * parts * 8;
      comm::expect(sent(groups.sequence) - sequence == counts, "router's counts");
      comm::expect(sent(groups.tensor) - tensor == want.tensor,
                   "tensor: " + std::to_string(sent(groups.tensor) - tensor) + " bytes, not " +
                       std::to_string(want.tensor));
    });
  }
}

TEST_P(Layouts, RecomputeTheSameBits) {
  MoeCase c = GetParam();
  with_ranks(c.layout, [&](const comm::Groups& groups) {
    MoeRun kept(c, groups);
    c.recompute = Recompute::kSelective;
    MoeRun selective(c, groups);
    kept.run();
    selective.run();
    comm::expect(selective.stash().hidden.empty() && !kept.stash().hidden.empty(), "what is kept");
    const ParamLayout& layout = kept.params().layout();
    comm::expect(kept.y() == selective.y() && kept.dx() == selective.dx(), "y or dx");
    comm::expect(kept.gradients_in(layout) == selective.gradients_in(layout), "gradients");
    const std::vector<float> dx = kept.dx(), grads = kept.gradients_in(layout);
    const double aux = kept.step().host_scalar(Scalar::kAuxLoss);
    kept.run(true);  // the forward made again: nothing is counted twice
    comm::expect(kept.dx() == dx && kept.gradients_in(layout) == grads, "made again");
    comm::expect(kept.step().host_scalar(Scalar::kAuxLoss) == aux && aux > 0, "aux loss twice");
    int64_t slots = 0;
    for (const int64_t count : kept.step().host_counts(0)) slots += count;
    comm::expect(slots == kept.num_tokens() * 2, "counted twice");
  });
}

// Parts of the experts one after the other, or all rows at once.
TEST_P(Layouts, OverlapChangesNoBit) {
  for (const DType compute : {DType::kF32, DType::kBf16}) {
    MoeCase c = GetParam();
    c.compute = compute;
    with_ranks(c.layout, [&](const comm::Groups& groups) {
      MoeRun parts(c, groups);
      c.overlap = false;
      MoeRun at_once(c, groups);
      parts.run();
      at_once.run();
      const int64_t here = 8 / plan::expert_ranks(groups.layout);
      const bool cut = here > 1 && plan::expert_ranks(groups.layout) > 1;
      comm::expect(parts.stash().routes.num_parts == (cut ? std::min<int64_t>(here, 4) : 1),
                   "in parts");
      comm::expect(at_once.stash().routes.num_parts == 1, "at once");
      comm::expect(parts.y() == at_once.y() && parts.dx() == at_once.dx(), "y or dx");
      const ParamLayout& layout = parts.params().layout();
      comm::expect(parts.gradients_in(layout) == at_once.gradients_in(layout), "gradients");
    });
  }
}

TEST_P(Layouts, AllocateNothingAfterTheFirstStep) {
  const MoeCase& c = GetParam();
  with_ranks(c.layout, [&](const comm::Groups& groups) {
    MoeRun mine(c, groups);
    mine.run();
    mine.arena().compact();
    const int64_t allocations = mine.arena().num_allocations();
    mine.run();
    comm::expect(mine.arena().num_allocations() == allocations, "it allocated");
  });
}

TEST(MoeParallel, AloneNothingIsGatheredAndRecomputingGivesTheSameBits) {
  MoeCase c;
  MoeRun kept(c, comm::Groups::alone());
  c.recompute = Recompute::kSelective;
  MoeRun selective(c, comm::Groups::alone());
  kept.run();
  selective.run();
  EXPECT_TRUE(kept.stash().routes.parts[0].arrival_of_row.empty());
  EXPECT_EQ(kept.arena().ledger().peak_bytes("transient/moe/exchange"), 0);
  EXPECT_TRUE(selective.stash().hidden.empty());
  EXPECT_EQ(kept.y(), selective.y());
  EXPECT_EQ(kept.dx(), selective.dx());
  const ParamLayout& layout = kept.params().layout();
  EXPECT_EQ(kept.gradients_in(layout), selective.gradients_in(layout));
}

TEST(MoeParallel, Bf16RowsTravel) {
  for (const bool strips : {false, true}) {
    MoeCase c{"", cut(2, 1, 2, 1, strips)};
    c.compute = DType::kBf16;
    expect_like_one_rank(c);
  }
}

// By hand: 16 tokens that all want experts 0 and 1 of 8; ceil(1.0 · 16 · 2 / 8) = 4 rows each.
TEST(MoeParallel, ACapacityKeepsTheFirstPositionsOfEverySequence) {
  MoeCase c{"", cut(1, 2, 1)};
  c.skewed = true;
  c.capacity = 1.0;
  with_ranks(c.layout, [&](const comm::Groups& groups) {
    MoeRun mine(c, groups);
    mine.run();
    for (size_t r = 0; r < mine.rows().size(); ++r) {
      for (size_t k = 0; k < 2; ++k) {
        const bool kept = mine.stash().row_of_slot.as<int32_t>()[2 * r + k] >= 0;
        comm::expect(kept == (mine.rows()[r] % kSequence < 4), "what a capacity keeps");
      }
    }
    // 8 sequences · (32 − 8) slots, half of them on each rank? Positions 0 … 3 are rank 0's.
    const double dropped = mine.step().host_scalar(Scalar::kDropped);
    comm::expect(dropped == (groups.position.cp_rank == 0 ? 8 * 8 : 8 * 16), "dropped");
  });
}

}  // namespace
}  // namespace dsv3::model
