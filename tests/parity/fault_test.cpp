// A rank killed inside any collective of a step ends every other rank with a Failure that names
// what it was in and who is lost; none hangs.
//
// Law: every operation that the step has is tried, by its name (numbers in names aside), so a new
// one is tried without an edit here.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <ctime>
#include <fstream>
#include <map>
#include <set>

#include "base/failure.h"
#include "runtime/comm/cpu/mesh.h"
#include "runtime/train/step.h"
#include "tests/parity/run.h"
#include "tests/parity/watched_groups.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::parity {
namespace {

// Far below the operations' deadline (options_for(): 20 s): who is left hears of it at once.
constexpr int64_t kSoonNs = 10'000'000'000;

int64_t steady_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

// "tp: forward of micro-batch 3" → "tp: forward of micro-batch #"; lanes of a group are one.
std::string without_numbers(const std::string& group, std::string_view op) {
  std::string name;
  for (const char letter : group + ": " + std::string(op)) {
    const bool digit = std::isdigit(static_cast<unsigned char>(letter)) != 0;
    if (!digit) name += letter;
    if (digit && (name.empty() || name.back() != '#')) name += '#';
  }
  return name;
}

// Operations of the second step (in the first, memory grows), by the ranks that start them.
std::map<std::string, std::vector<int>> operations(const Case& c, const std::string& folder) {
  const std::string rendezvous = comm::unique_rendezvous();
  const auto world = static_cast<int>(c.layout.world_size());
  const auto results = comm::run_ranks(world, [&](int rank) {
    std::set<std::string> names;
    const auto peers = meet(c, rendezvous, rank);
    WatchedGroups watched(peers->groups, [&](const std::string& group, std::string_view op) {
      names.insert(without_numbers(group, op));
    });
    const auto session = skewed_session(parity_job(c, folder + "/data"), watched.groups());
    for (int step = 0; step < 2; ++step) {
      names.clear();
      const auto done = train::run_step(*session);
      comm::expect(done.ok(), done.status().to_string());
    }
    std::string lines;
    for (const std::string& name : names) lines += name + "\n";
    return lines;
  });
  std::map<std::string, std::vector<int>> ranks;
  for (int rank = 0; rank < world; ++rank) {
    const comm::RankResult& result = results[static_cast<size_t>(rank)];
    EXPECT_FALSE(result.failed) << to_string(c) << ", rank " << rank << ": " << result.text;
    for (size_t begin = 0, end = 0; begin < result.text.size(); begin = end + 1) {
      end = result.text.find('\n', begin);
      ranks[result.text.substr(begin, end - begin)].push_back(rank);
    }
  }
  return ranks;
}

// In a rank: trains until it falls at an operation after its first step (the victim, armed then) or
// a Failure ends it, which may be in the first step of a rank that is behind. "" or what is wrong
// with that.
std::string train_until_failure(train::Session& session, comm::Shared& shared,
                                const std::string& lost, bool victim, bool* armed) {
  try {
    for (int step = 0; step < 4; ++step) {
      const auto done = train::run_step(session);
      if (!done.ok()) return done.status().to_string();
      *armed = victim;
    }
  } catch (const Failure& failure) {
    const int64_t late = steady_ns() - shared.time_ns[0];
    const std::string text = failure.what();
    if (failure.code() != Code::kPeerLost) return "not as a lost peer: " + text;
    if (failure.operation().empty()) return "without an operation: " + text;
    if (text.find(lost) == std::string::npos) return "without the rank that is lost: " + text;
    if (late > kSoonNs) return "after " + std::to_string(late / 1'000'000) + " ms: " + text;
    return "";
  }
  return "not at all";
}

void kill_in(const Case& c, const std::string& folder, const std::string& operation, int victim) {
  const std::string rendezvous = comm::unique_rendezvous();
  const auto world = static_cast<int>(c.layout.world_size());
  comm::Shared& shared = comm::shared_memory();
  const auto results = comm::run_ranks(world, [&](int rank) -> std::string {
    bool armed = false;
    const auto peers = meet(c, rendezvous, rank);
    WatchedGroups watched(peers->groups, [&](const std::string& group, std::string_view op) {
      if (!armed || without_numbers(group, op) != operation) return;
      shared.time_ns[0] = steady_ns();
      ::raise(SIGKILL);
    });
    const auto session = skewed_session(parity_job(c, folder + "/data"), watched.groups());
    return train_until_failure(*session, shared, "rank " + std::to_string(victim), rank == victim,
                               &armed);
  });
  for (int rank = 0; rank < world; ++rank) {
    const comm::RankResult& result = results[static_cast<size_t>(rank)];
    const std::string who = to_string(c) + ", rank " + std::to_string(victim) + " killed in '" +
                            operation + "': rank " + std::to_string(rank);
    if (rank == victim) {
      EXPECT_EQ(result.signal, SIGKILL) << who << " was not killed: " << result.text;
    } else {
      EXPECT_FALSE(result.failed) << who << " ended otherwise: " << result.text;
      EXPECT_EQ(result.text, "") << who << " failed " << result.text;
    }
  }
}

// `part` of `parts` of them: a test must not take long.
void kill_in_each(const Case& c, size_t operations_min, size_t part = 0, size_t parts = 1) {
  const TemporaryFolder folder;
  write_text(folder / "data");
  const auto all = operations(c, folder.path());
  EXPECT_GE(all.size(), operations_min);
  size_t turn = 0;
  for (const auto& [operation, ranks] : all) {
    if (turn % parts == part) kill_in(c, folder.path(), operation, ranks[turn % ranks.size()]);
    ++turn;
  }
}

Case fault_case(plan::Layout layout) {
  return {.variant = {}, .layout = completed(layout)};
}

TEST(ParityFaults, AKilledRankIsNamedInEveryCollectiveOfDataParallelism) {
  kill_in_each(fault_case({.dp = 2, .zero_stage = 0}), 3);
}
class ParityFaultsOfTpPpEp : public testing::TestWithParam<size_t> {};
TEST_P(ParityFaultsOfTpPpEp, AKilledRankIsNamedInEveryCollective) {
  kill_in_each(fault_case({.tp = 2, .pp = 2, .ep = 2, .zero_stage = 1}), 15, GetParam(), 3);
}
INSTANTIATE_TEST_SUITE_P(Part, ParityFaultsOfTpPpEp, testing::Values(0, 1, 2));
TEST(ParityFaults, AKilledRankIsNamedInEveryCollectiveOfCp) {
  kill_in_each(fault_case({.cp = 2, .dp = 2, .zero_stage = 1}), 6);
}
TEST(ParityFaults, AKilledRankIsNamedInEveryCollectiveOfExpertsCutByWidth) {
  kill_in_each(fault_case({.tp = 2, .ep = 2, .etp = 2, .zero_stage = 0}), 8);
}

}  // namespace
}  // namespace dsv3::parity
