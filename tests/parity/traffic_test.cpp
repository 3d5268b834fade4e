// Bytes that a step's communicators count are those of the planner's equations
// (cluster/plan/comm_volume.h), axis by axis, exactly.
//
// Law: summed over the ranks of the job, because the pieces of an exchange needn't be equal; with
// every token at every expert, so that what the experts exchange is known.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <fstream>
#include <map>

#include "cluster/plan/comm_volume.h"
#include "runtime/comm/cpu/operation.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/device/device.h"
#include "runtime/train/step.h"
#include "tests/parity/run.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::parity {
namespace {

// Communicators that the equations tell apart, where they are apart.
struct Part {
  const char* name;
  double plan::StepVolume::*expected;
  comm::Lanes lanes;
};

std::vector<Part> parts_of(const comm::Groups& g) {
  using V = plan::StepVolume;
  const auto one = [](comm::Communicator* c) { return c ? comm::Lanes{c} : comm::Lanes{}; };
  return {{"tensor", &V::tensor, one(g.tensor)},
          {"context", &V::context, one(g.context)},
          {"sequence", &V::sequence, one(g.sequence)},
          {"experts", &V::experts, one(g.experts)},
          {"forward", &V::forward, one(g.forward)},
          {"backward", &V::backward, one(g.backward)},
          {"embedding", &V::embedding, one(g.embedding)},
          {"world", &V::world, one(g.world)},
          {"gradients", &V::dense, g.dense},
          {"replicated gradients", &V::replicated, g.replicated},
          {"expert gradients", &V::expert, g.expert}};
}

int64_t sent(const comm::Lanes& lanes) {
  int64_t bytes = 0;
  for (const comm::Communicator* lane : lanes) bytes += lane->traffic().bytes_sent;
  return bytes;
}

// Each token of this rank goes to every expert that another member of the group holds, and as many
// come.
plan::ExpertRows rows_of(const spec::JobSpec& job, const plan::Layout& layout) {
  const int64_t members = layout.etp > 1 ? layout.ep : layout.ep * layout.tp;
  const int64_t tokens = layout.micro_batch * job.training.seq_length / (layout.cp * layout.tp);
  const int64_t experts = job.model.moe.num_experts;
  const auto rows = static_cast<double>(tokens * (experts - experts / members));
  return {.leave = rows, .arrive = rows};
}

// In a rank: bytes sent in the second step, and those expected, by part; parts that share their
// communicators are one, under the first name.
std::string measure(const Case& c, const std::string& folder, const std::string& rendezvous,
                    int rank) {
  const auto peers = meet(c, rendezvous, rank);
  const spec::JobSpec job = parity_job(c, folder + "/data");
  const auto session = skewed_session(job, peers->groups);
  const std::vector<Part> parts = parts_of(peers->groups);
  const plan::StepVolume volume =
      plan::step_volume(job, c.layout, peers->groups.position, rows_of(job, c.layout));
  std::vector<int64_t> before;
  for (int step = 0; step < 2; ++step) {
    before.clear();
    for (const Part& part : parts) before.push_back(sent(part.lanes));
    const auto done = train::run_step(*session);
    comm::expect(done.ok(), done.status().to_string());
  }
  std::map<comm::Lanes, size_t> first;
  std::vector<double> expected(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    const size_t at =
        parts[i].lanes.empty() ? i : first.try_emplace(parts[i].lanes, i).first->second;
    expected[at] += volume.*parts[i].expected;
  }
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool counted = !parts[i].lanes.empty() && first.at(parts[i].lanes) == i;
    const int64_t bytes = counted ? sent(parts[i].lanes) - before[i] : 0;
    text += std::to_string(bytes) + " " + std::to_string(expected[i]) + "\n";
  }
  return text;
}

void expect_volumes(const Case& c) {
  const TemporaryFolder folder;
  write_text(folder / "data");
  const std::string rendezvous = comm::unique_rendezvous();
  const auto world = static_cast<int>(c.layout.world_size());
  const auto results =
      comm::run_ranks(world, [&](int rank) { return measure(c, folder.path(), rendezvous, rank); });
  const std::vector<Part> parts = parts_of({});
  std::vector<double> counted(parts.size()), expected(parts.size());
  double total = 0;
  for (const comm::RankResult& result : results) {
    ASSERT_FALSE(result.failed) << to_string(c) << ": " << result.text;
    std::istringstream lines(result.text);
    for (size_t i = 0; i < parts.size(); ++i) {
      double bytes = 0, formula = 0;
      lines >> bytes >> formula;
      counted[i] += bytes;
      expected[i] += formula;
      total += bytes;
    }
    ASSERT_TRUE(lines) << result.text;
  }
  EXPECT_GT(total, 0);
  for (size_t i = 0; i < parts.size(); ++i) {
    // Printed with six decimals; counts are whole.
    EXPECT_NEAR(counted[i], expected[i], 0.5)
        << to_string(c) << ", " << parts[i].name << ": counted " << counted[i] << ", equation "
        << expected[i];
  }
}

void expect_volumes(const plan::Layout& layout, bool bf16 = false) {
  expect_volumes(Case{.variant = {.regular = true, .bf16 = bf16}, .layout = completed(layout)});
}

static_assert(plan::kOneRoundBytesMax == comm::kSmallAllReduceBytes);

TEST(ParityOfTraffic, TensorParallelism) {
  expect_volumes({.tp = 2, .zero_stage = 0});
  expect_volumes({.tp = 2, .etp = 2, .zero_stage = 0});
  expect_volumes({.tp = 2, .cp = 2, .zero_stage = 0});
}
TEST(ParityOfTraffic, ContextParallelism) {
  expect_volumes({.cp = 2, .zero_stage = 0});
}
TEST(ParityOfTraffic, PipelineParallelism) {
  expect_volumes({.pp = 2, .zero_stage = 0});
  expect_volumes({.pp = 2, .zero_stage = 0, .schedule = "interleaved", .virtual_stages = 2});
}
TEST(ParityOfTraffic, ExpertParallelism) {
  expect_volumes({.ep = 2, .zero_stage = 0});
  expect_volumes({.ep = 4, .zero_stage = 0});
}
TEST(ParityOfTraffic, DataParallelism) {
  expect_volumes({.dp = 2, .zero_stage = 0});
  expect_volumes({.dp = 4, .zero_stage = 0});
  expect_volumes({.dp = 4, .zero_stage = 1});
}
TEST(ParityOfTraffic, GradientsInPieces) {
  expect_volumes({.dp = 4, .zero_stage = 2});
  expect_volumes({.ep = 2, .dp = 2, .zero_stage = 2});
  expect_volumes({.tp = 2, .dp = 2, .zero_stage = 2});
}
TEST(ParityOfTraffic, Recomputation) {
  expect_volumes({.tp = 2, .cp = 2, .zero_stage = 1, .recompute = "full"});
  expect_volumes({.tp = 2, .ep = 2, .zero_stage = 1, .recompute = "selective"});
}
TEST(ParityOfTraffic, AllAxesAtOnce) {
  expect_volumes({.tp = 2, .cp = 2, .pp = 2, .ep = 2, .zero_stage = 0});
  expect_volumes({.tp = 2, .cp = 2, .pp = 2, .ep = 2, .dp = 2, .zero_stage = 1});
}
TEST(ParityOfTraffic, Bf16GathersHalfTheBytes) {
  auto device = device::open_device("cpu");
  ASSERT_TRUE(device.ok());
  if ((*device)->backend().matmul_dtype() != DType::kBf16)
    GTEST_SKIP() << "this processor multiplies in f32";
  expect_volumes({.dp = 4, .zero_stage = 1}, true);
  expect_volumes({.ep = 2, .dp = 2, .zero_stage = 2}, true);
  expect_volumes({.tp = 2, .cp = 2, .pp = 2, .ep = 2, .zero_stage = 1}, true);
}

}  // namespace
}  // namespace dsv3::parity
