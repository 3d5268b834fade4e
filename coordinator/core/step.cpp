// The frame of a step: events are applied as they are recorded. See step.h.
#include "coordinator/core/step.h"

#include <fmt/format.h>

#include <algorithm>

#include "coordinator/core/step_work.h"

namespace dsv3::core {
namespace {

constexpr size_t kJobNameMax = 40;

}  // namespace

void Step::emit(Event event) {
  event.seq = state_.last_seq + 1;
  const Status status = apply(state_, event);
  DSV3_CHECK(status.ok(), status.message());
  out_.events.push_back(std::move(event));
}

bool Step::offer(Event event) {
  event.seq = state_.last_seq + 1;
  const Status status = apply(state_, event);
  if (status.ok()) {
    out_.events.push_back(std::move(event));
    return true;
  }
  Event refused = make(EventType::kInputRefused, event.job, event.attempt);
  refused.node = event.node;
  refused.reason = status.message();
  emit(std::move(refused));
  out_.status = status;
  return false;
}

void Step::emit_for_agent(EventType type, const AgentKey& key, int32_t code,
                          const std::string& reason) {
  Event event = make(type, key.job, key.attempt);
  event.node = key.node;
  event.code = code;
  event.reason = reason;
  emit(std::move(event));
}

bool Step::is_live(const AgentKey& key) {
  if (agent_is_live(state_, key.job, key.attempt, key.node)) return true;
  const std::string reason =
      fmt::format("attempt {} of '{}' on '{}' is over or unknown", key.attempt, key.job, key.node);
  out_.status = Status(Code::kConflict, reason);
  act(ActionType::kDismissAgent, key, 0, reason);
  return false;
}

Decision step(State& state, Times& times, const Input& input, const Now& now,
              const Limits& limits) {
  Step one(state, times, now, limits);
  std::visit(one, input);
  return one.take();
}

bool is_plain_name(const std::string& name) {
  if (name.empty() || name.size() > 128 || name[0] == '-' || name[0] == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

std::string make_job_id(const std::string& name, uint32_t number) {
  std::string id;
  for (const char c : name.substr(0, kJobNameMax)) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    const bool capital = c >= 'A' && c <= 'Z';
    const char plain = letter ? c : capital ? static_cast<char>(c - 'A' + 'a') : '-';
    if (plain != '-' || (!id.empty() && id.back() != '-')) id.push_back(plain);
  }
  while (!id.empty() && id.back() == '-') id.pop_back();
  return fmt::format("{}-{}", id.empty() ? "job" : id, number);
}

}  // namespace dsv3::core
