// Events as JSON text and back: one place per field, so that writing and reading can't differ. See
// event.h.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>

#include "coordinator/core/event.h"

namespace dsv3::core {
namespace {

using nlohmann::json;

// Calls visit(field, member) for each field of the type. Event is `Event` or `const Event`.
template <typename EventT, typename Visit>
void visit_fields(EventT& event, uint32_t fields, Visit&& visit) {
  const auto each = [&](Field field, auto& member) {
    if ((fields & field) != 0) visit(field_name(field), member);
  };
  each(kFieldNode, event.node);
  each(kFieldHost, event.host);
  each(kFieldReason, event.reason);
  each(kFieldOperation, event.operation);
  each(kFieldPath, event.path);
  each(kFieldInstance, event.instance);
  each(kFieldRank, event.rank);
  each(kFieldCode, event.code);
  each(kFieldSignal, event.signal);
  each(kFieldPid, event.pid);
  each(kFieldStep, event.step);
  each(kFieldBytes, event.bytes);
  each(kFieldSeconds, event.seconds);
  each(kFieldNotBefore, event.not_before_ns);
  each(kFieldPlacement, event.placement);
  each(kFieldDevices, event.devices);
  each(kFieldSubmission, event.submission);
}

template <typename T>
void to_value(json& out, const T& value) {
  out = value;
}
void to_value(json& out, const Placement& p) {
  out = {{"node", p.node}, {"ranks", p.ranks}};
}
void to_value(json& out, const Device& d) {
  out = {{"kind", d.kind}, {"name", d.name}, {"uuid", d.uuid}, {"memory_bytes", d.memory_bytes}};
}
template <typename T>
void to_value(json& out, const std::vector<T>& values) {
  out = json::array();
  for (const T& value : values) to_value(out.emplace_back(), value);
}
void to_value(json& out, const std::optional<Submission>& submission) {
  if (!submission) return;
  const Submission& s = *submission;
  out = {{"name", s.name},           {"launcher", s.launcher},       {"request_key", s.request_key},
         {"max_steps", s.max_steps}, {"working_dir", s.working_dir}, {"layout_json", s.layout_json},
         {"spec_yaml", s.spec_yaml}, {"plan_json", s.plan_json}};
  to_value(out["nodes"], s.nodes);
}

// Every read throws nlohmann's exception on an absent key, a wrong type or a number that does not
// fit; parse_event catches it.
template <typename T>
void from_value(const json& in, T& value) {
  if constexpr (std::is_floating_point_v<T>) {
    // JSON has no NaN and no infinity: they are written as null. The log must stay readable.
    value = in.is_null() ? 0 : in.get<T>();
  } else if constexpr (std::is_integral_v<T>) {
    if (!in.is_number_integer()) throw std::invalid_argument("not an integer");
    const int64_t wide = in.get<int64_t>();
    value = static_cast<T>(wide);
    if (static_cast<int64_t>(value) != wide) throw std::invalid_argument("out of range");
  } else {
    value = in.get<T>();
  }
}
void from_value(const json& in, Placement& p) {
  p.node = in.at("node").get<std::string>();
  p.ranks = in.at("ranks").get<std::vector<uint32_t>>();
}
void from_value(const json& in, Device& d) {
  d.kind = in.at("kind").get<std::string>();
  d.name = in.at("name").get<std::string>();
  d.uuid = in.at("uuid").get<std::string>();
  from_value(in.at("memory_bytes"), d.memory_bytes);
}
template <typename T>
void from_value(const json& in, std::vector<T>& values) {
  if (!in.is_array()) throw std::invalid_argument("not an array");
  values.clear();
  for (const json& item : in) from_value(item, values.emplace_back());
}
void from_value(const json& in, std::optional<Submission>& submission) {
  Submission s;
  s.name = in.at("name").get<std::string>();
  s.launcher = in.at("launcher").get<std::string>();
  s.request_key = in.at("request_key").get<std::string>();
  from_value(in.at("max_steps"), s.max_steps);
  s.working_dir = in.at("working_dir").get<std::string>();
  s.layout_json = in.at("layout_json").get<std::string>();
  s.spec_yaml = in.at("spec_yaml").get<std::string>();
  s.plan_json = in.at("plan_json").get<std::string>();
  from_value(in.at("nodes"), s.nodes);
  submission = std::move(s);
}

const EventEntry* find_entry(std::string_view name) {
  for (const EventEntry& entry : event_dictionary()) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

std::string payload_json(const Event& event) {
  const EventEntry* entry = find_entry(event_name(event.type));
  DSV3_CHECK(entry != nullptr);
  json out = json::object();
  visit_fields(event, entry->fields, [&](std::string_view name, const auto& member) {
    to_value(out[std::string(name)], member);
  });
  // Text from outside may hold bytes that are no UTF-8: they are replaced, never a failure.
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<Event> parse_event(int64_t seq, int64_t time_ns, const std::string& job, uint32_t attempt,
                          std::string_view type, const std::string& payload) {
  const EventEntry* entry = find_entry(type);
  if (entry == nullptr) {
    return Status(Code::kInvalid,
                  fmt::format("event {} has the type '{}', unknown to this release", seq, type),
                  "use the release that wrote this state directory, or a newer one");
  }
  Event event;
  event.seq = seq;
  event.time_ns = time_ns;
  event.type = entry->type;
  event.job = job;
  event.attempt = attempt;
  std::string_view reading;
  try {
    const json in = json::parse(payload);
    visit_fields(event, entry->fields, [&](std::string_view name, auto& member) {
      reading = name;
      from_value(in.at(std::string(name)), member);
    });
  } catch (const std::exception& error) {
    return Status(Code::kInvalid,
                  fmt::format("event {} ({}): field '{}': {}", seq, type, reading, error.what()));
  }
  return event;
}

}  // namespace dsv3::core
