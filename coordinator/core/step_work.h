// Step: the work of one call of step(), private to this folder. Inputs are handled in
// step_requests.cpp and step_agents.cpp, what follows from them in step_consequences.cpp, what
// follows from time in step_time.cpp.
//
// Law: the state changes through emit() and offer() only, which apply() each event as they record
// it.
#pragma once

#include <string>

#include "coordinator/core/step.h"

namespace dsv3::core {

inline bool is_stopping(const Attempt& attempt) {
  return attempt.state == AttemptState::kStopping;
}

class Step {
 public:
  Step(State& state, Times& times, const Now& now, const Limits& limits)
      : state_(state), times_(times), now_(now), limits_(limits) {}

  Decision take() { return std::move(out_); }

  void operator()(const SubmitInput& in);
  void operator()(const CancelInput& in);
  void operator()(const ResumeInput& in);
  void operator()(const CheckpointNowInput& in);
  void operator()(const AgentHelloInput& in);
  void operator()(const AgentHeartbeatInput& in);
  void operator()(const RankStartedInput& in);
  void operator()(const RankExitedInput& in);
  void operator()(const AgentDoneInput& in);
  void operator()(const AgentGoneInput& in);
  void operator()(const CheckpointDoneInput& in);
  void operator()(const NoteInput& in);
  void operator()(const NodeFoundInput& in);
  void operator()(const TickInput&);
  void operator()(const StartedInput& in);
  void operator()(const StoppedInput& in);

 private:
  Event make(EventType type, const std::string& job = {}, uint32_t attempt = 0) const {
    Event event;
    event.type = type;
    event.job = job;
    event.attempt = attempt;
    event.time_ns = now_.wall_ns;
    return event;
  }
  // Applies and keeps the event; the caller has made sure that it is allowed.
  void emit(Event event);
  // As emit(), for events that repeat what came from outside: one that is refused becomes
  // input_refused. True when applied.
  bool offer(Event event);
  void emit_for_agent(EventType type, const AgentKey& key, int32_t code, const std::string& reason);
  void act(ActionType type, const AgentKey& agent, uint32_t grace_ms = 0,
           const std::string& reason = {}) {
    out_.actions.push_back({type, agent, grace_ms, reason});
  }
  const Job& job(const std::string& id) const { return state_.jobs.at(id); }
  // True when the key names an agent of a live attempt; else the sender is dismissed.
  bool is_live(const AgentKey& key);
  void hear(const AgentKey& key) { times_.heard[key] = now_.steady_ns; }
  // What the ranks of a job that is being stopped have until they are killed.
  uint32_t grace_ms(const Job& job) const {
    if (job.state != JobState::kStopping) return limits_.fail_grace_ms;
    const auto said = times_.stop_grace_ms.find(job.id);
    return said == times_.stop_grace_ms.end() ? limits_.stop_grace_ms : said->second;
  }
  void stop_agents(const Job& job, const std::string& reason);
  void conclude_attempt(const std::string& id);
  void conclude_job(const std::string& id);
  void pick_jobs();
  void launch(const std::string& id);
  void check_silence(const std::string& id);
  bool nodes_are_free(const Job& job) const;
  void lose_agent(const AgentKey& key, Code code, const std::string& reason);
  void free_node(const AgentKey& key, bool lost, const std::string& reason);

  State& state_;
  Times& times_;
  const Now& now_;
  const Limits& limits_;
  Decision out_;
};

}  // namespace dsv3::core
