// A coordinator without a machine: state, time and the log that step() wrote, for the tests of the
// core.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "coordinator/core/step.h"

namespace dsv3::core {

struct World {
  State state;
  Times times;
  Now now{1'700'000'000'000'000'000, 5'000'000'000};
  Limits limits;
  std::vector<Event> log;
  Decision last;

  const Decision& give(const Input& input) {
    last = step(state, times, input, now, limits);
    log.insert(log.end(), last.events.begin(), last.events.end());
    return last;
  }
  // The agent's last report, then the launcher's word that nothing of it is left.
  const Decision& end_agent(const AgentKey& key, int32_t code) {
    give(AgentDoneInput{key, code, ""});
    return give(AgentGoneInput{key, code, "its process ended"});
  }
  void pass(int64_t ns) {
    now.wall_ns += ns;
    now.steady_ns += ns;
  }
  const Job& job(const std::string& id) const { return state.jobs.at(id); }
  bool wrote(EventType type) const {
    return std::any_of(last.events.begin(), last.events.end(),
                       [&](const Event& e) { return e.type == type; });
  }
  int count(ActionType type) const {
    return static_cast<int>(std::count_if(last.actions.begin(), last.actions.end(),
                                          [&](const Action& a) { return a.type == type; }));
  }
  State replayed() const {
    State fresh;
    for (const Event& event : log) {
      const Status status = apply(fresh, event);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    return fresh;
  }
};

// Ranks 0 … per_node·nodes−1 on n1, n2 …
inline Submission submission(int nodes = 1, uint32_t per_node = 1, const std::string& key = "") {
  Submission s;
  s.name = "demo";
  s.spec_yaml = "model: {}\n";
  s.plan_json = "{}";
  s.launcher = "local";
  s.request_key = key;
  s.max_steps = 10;
  uint32_t rank = 0;
  for (int n = 1; n <= nodes; ++n) {
    Placement p{"n" + std::to_string(n), {}};
    for (uint32_t i = 0; i < per_node; ++i) p.ranks.push_back(rank++);
    s.nodes.push_back(p);
  }
  return s;
}

inline AgentHelloInput hello(const AgentKey& key, bool started = false, int64_t pid = 100) {
  return {key, "host", pid, started, {}};
}

}  // namespace dsv3::core
