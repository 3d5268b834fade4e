// Thousands of random inputs, most of them nonsense at that moment. The oracle is a relation
// written here by hand from what the states mean (not from transitions.cpp), and the law that
// replaying the log gives the live state.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "base/rng.h"
#include "tests/unit/coordinator/core/world.h"

namespace dsv3::core {
namespace {

using Pair = std::pair<std::string, std::string>;

// Which state may follow which, as a user would tell it. "" is: no such job yet.
const std::set<Pair> kMayFollow = {{"", "QUEUED"},
                                   {"QUEUED", "PLANNING"},
                                   {"QUEUED", "CANCELLED"},
                                   {"PLANNING", "LAUNCHING"},
                                   {"PLANNING", "CANCELLED"},
                                   {"LAUNCHING", "RUNNING"},
                                   {"LAUNCHING", "STOPPING"},
                                   {"LAUNCHING", "RESTARTING"},
                                   {"LAUNCHING", "FAILED"},
                                   {"RUNNING", "COMPLETED"},
                                   {"RUNNING", "STOPPING"},
                                   {"RUNNING", "RESTARTING"},
                                   {"RUNNING", "FAILED"},
                                   {"STOPPING", "CANCELLED"},
                                   {"RESTARTING", "PLANNING"},
                                   {"RESTARTING", "CANCELLED"},
                                   {"FAILED", "QUEUED"},
                                   {"CANCELLED", "QUEUED"}};

class Walk {
 public:
  explicit Walk(uint64_t seed) : rng_(seed, name_key("walk")), friendly_(seed % 2 == 0) {}

  void take_step() {
    const size_t known = world.log.size();
    const State before = world.state;
    world.give(random_input());
    check_log(before, known);
    check_state();
    check_actions();
  }

  World world;
  std::map<std::string, int> visits;

 private:
  uint64_t below(uint64_t bound) { return rng_.below(next_++, bound); }
  std::string random_job() { return "demo-" + std::to_string(1 + below(4)); }
  AgentKey random_key() {
    // Mostly of a live attempt, so that the walk gets somewhere.
    const std::string id = random_job();
    const Job* job = find_job(world.state, id);
    const uint32_t attempt = job != nullptr && job->attempt && below(10) != 0
                                 ? job->attempt->number
                                 : 1 + static_cast<uint32_t>(below(3));
    return {id, attempt, "n" + std::to_string(1 + below(2))};
  }
  // An agent that keeps to the protocol says that it is done after its ranks' ends.
  bool has_exited(const AgentKey& key) const {
    const Attempt* attempt = find_live_attempt(world.state, key.job, key.attempt);
    if (attempt == nullptr || !attempt->agents.contains(key.node)) return true;
    for (const auto& [number, rank] : attempt->agents.at(key.node).ranks) {
      if (rank.state != RankState::kExited) return false;
    }
    return true;
  }
  bool is_done(const AgentKey& key) const {
    const Attempt* attempt = find_live_attempt(world.state, key.job, key.attempt);
    return attempt != nullptr && attempt->agents.contains(key.node) &&
           attempt->agents.at(key.node).state >= AgentState::kDone;
  }
  uint32_t random_rank(const AgentKey& key) {
    const uint32_t first = key.node == "n1" ? 0 : 2;
    return first + static_cast<uint32_t>(below(below(8) == 0 ? 4 : 2));
  }
  // Half of the walks are friendly: nothing fails in them by itself, so that some job gets to its
  // end.
  int32_t random_code() {
    if (friendly_) return 0;
    constexpr std::array<int32_t, 8> kCodes = {0, 0, 0, 137, 75, 11, 13, 143};
    return kCodes[below(kCodes.size())];
  }

  Input random_input() {
    const AgentKey key = random_key();
    switch (below(24)) {
      case 0:
        if (world.state.jobs.size() < 4)
          return SubmitInput{submission(1 + static_cast<int>(below(2)), 2)};
        return TickInput{};
      case 1:
        return below(6) == 0 ? Input(CancelInput{key.job, "enough"}) : Input(ResumeInput{key.job});
      case 2:
        return CheckpointNowInput{key.job};
      case 3:
      case 4:
      case 5:
        return hello(key, below(2) == 0, below(12) == 0 ? 999 : 100);
      case 6:
      case 7:
        return AgentHeartbeatInput{key};
      case 8:
      case 9:
      case 10:
      case 11:
      case 12:
        return RankStartedInput{key, random_rank(key), 11};
      case 13:
      case 14:
      case 15:
        return RankExitedInput{key, random_rank(key), random_code(), 0, "op", "why", 3};
      case 16:
      case 17:
        return below(10) == 0 || has_exited(key) ? Input(AgentDoneInput{key, random_code(), "done"})
                                                 : Input(AgentHeartbeatInput{key});
      case 18:
        return below(5) == 0 || is_done(key) ? Input(AgentGoneInput{key, random_code(), "gone"})
                                             : Input(NoteInput{key, 0, "note"});
      case 19:
        return CheckpointDoneInput{key, {static_cast<int64_t>(below(60)), "/c", 1, 0.5}};
      case 20:
        return below(10) == 0 ? Input(StartedInput{"i" + std::to_string(below(100)), 1})
                              : Input(TickInput{});
      case 21:
      case 22:
        return is_done(key) ? Input(AgentGoneInput{key, 0, "gone"}) : Input(TickInput{});
      default:
        world.pass(static_cast<int64_t>(below(4'000'000'000)));
        return TickInput{};
    }
  }

  static std::string name_of(const State& state, const std::string& id) {
    const Job* job = find_job(state, id);
    return job == nullptr ? "" : std::string(protocol::job_state_name(job->state));
  }

  void check_log(State before, size_t known) {
    for (size_t i = known; i < world.log.size(); ++i) {
      const Event& event = world.log[i];
      ASSERT_EQ(event.seq, static_cast<int64_t>(i) + 1);
      const std::string from = name_of(before, event.job);
      ASSERT_TRUE(apply(before, event).ok());
      const std::string to = name_of(before, event.job);
      ++visits[to];
      ASSERT_TRUE(from == to || kMayFollow.contains({from, to}))
          << from << " → " << to << " by " << event_name(event.type);
    }
    ASSERT_EQ(before, world.state) << "the returned events are not the whole change";
  }

  void check_state() {
    std::set<std::string> busy;
    for (const auto& [id, job] : world.state.jobs) {
      const bool live = job.attempt && job.attempt->state != AttemptState::kEnded;
      const bool active = job.state == JobState::kLaunching || job.state == JobState::kRunning ||
                          job.state == JobState::kStopping;
      ASSERT_EQ(live, active) << id << " is " << name_of(world.state, id);
      ASSERT_EQ(job.ended_ns != 0, protocol::is_terminal(job.state));
      ASSERT_FALSE(job.reason.empty());
      ASSERT_FALSE(job.state == JobState::kRestarting && job.idle_attempts >= 3) << id;
      if (!live) continue;
      size_t gone = 0;
      for (const auto& [node, agent] : job.attempt->agents) {
        ASSERT_TRUE(busy.insert(node).second) << "two attempts on " << node;
        gone += agent.state == AgentState::kGone;
        for (const auto& [number, rank] : agent.ranks) {
          ASSERT_FALSE(job.state == JobState::kRunning && rank.state == RankState::kPending)
              << number;
        }
      }
      ASSERT_LT(gone, job.attempt->agents.size()) << "nobody is left, and the attempt lives";
    }
  }

  void check_actions() {
    for (const Action& action : world.last.actions) {
      if (action.type != ActionType::kSendLaunch && action.type != ActionType::kStartAgent)
        continue;
      const Attempt* attempt =
          find_live_attempt(world.state, action.agent.job, action.agent.attempt);
      ASSERT_NE(attempt, nullptr) << "an action for an attempt that is over";
      ASSERT_TRUE(attempt->agents.contains(action.agent.node));
    }
  }

  CounterRng rng_;
  bool friendly_;
  uint64_t next_ = 0;
};

TEST(RandomWalk, KeepsToTheRelationAndReplaysToTheSameState) {
  std::map<std::string, int> visits;
  for (uint64_t seed = 1; seed <= 80; ++seed) {
    Walk walk(seed);
    walk.world.give(StartedInput{"first", 1});
    for (int i = 0; i < 900; ++i) {
      walk.take_step();
      if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << ", step " << i;
    }
    ASSERT_EQ(walk.world.replayed(), walk.world.state) << "seed " << seed;
    for (const auto& [name, count] : walk.visits) visits[name] += count;
  }
  // The walk went everywhere, or it proves little.
  for (const char* name : {"QUEUED", "PLANNING", "LAUNCHING", "RUNNING", "STOPPING", "RESTARTING",
                           "COMPLETED", "FAILED", "CANCELLED"}) {
    EXPECT_GT(visits[name], 10) << name;
  }
}

}  // namespace
}  // namespace dsv3::core
