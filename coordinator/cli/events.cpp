// dsv3ctl events: the job's event log, oldest first; with --json one object a line.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownBytesMax = 60;

Json event_json(const wire::Event& event) {
  Json out = {{"seq", event.seq()},
              {"time", static_cast<double>(event.time_unix_ns()) / 1e9},
              {"job", event.job()},
              {"attempt", event.attempt()},
              {"event", event.type()}};
  const Json payload = Json::parse(event.payload_json(), nullptr, false);
  if (payload.is_object()) {
    for (const auto& [key, value] : payload.items()) {
      if (!out.contains(key)) out[key] = value;
    }
  }
  return out;
}

void print_event(const wire::Event& event) {
  const std::time_t when = event.time_unix_ns() / 1'000'000'000;
  print(fmt::format("{:>5}  {:%H:%M:%S}.{:03}  {:<20}  {}\n", event.seq(), fmt::localtime(when),
                    event.time_unix_ns() / 1'000'000 % 1000, event.type(),
                    payload_text(event.payload_json())));
}

int events(const Globals& globals, const std::string& job) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  int64_t after = 0;
  while (true) {
    wire::Envelope request, envelope;
    request.mutable_events()->set_job(job);
    request.mutable_events()->set_after_seq(after);
    if (Status status = ask(*client, request, &envelope); !status.ok())
      return fail(globals, status);
    const wire::EventsReply& reply = envelope.events_reply();
    for (const wire::Event& event : reply.events()) {
      if (globals.json) {
        print_json_line(event_json(event));
      } else {
        print_event(event);
      }
      after = event.seq();
    }
    if (!reply.more() || reply.events().empty()) return 0;
  }
}

}  // namespace

std::string payload_text(const std::string& payload_json) {
  const Json payload = Json::parse(payload_json, nullptr, false);
  std::string text;
  if (!payload.is_object()) return text;
  for (const auto& [key, value] : payload.items()) {
    if (value.is_object()) continue;  // a whole submission: --json shows it
    std::string shown = value.is_string()         ? value.get<std::string>()
                        : value.is_number_float() ? fmt::format("{:.3g}", value.get<double>())
                                                  : value.dump();
    if (shown.empty()) continue;
    // The reason is what the line is for: it stays whole.
    if (key != "reason" && shown.size() > kShownBytesMax) {
      size_t end = kShownBytesMax - 3;
      while (end > 0 && (shown[end] & 0xC0) == 0x80) --end;  // not inside a character
      shown = shown.substr(0, end) + "...";
    }
    text += (text.empty() ? "" : " ") + key + "=" + shown;
  }
  return text;
}

Verb make_events() {
  auto job = std::make_shared<std::string>();
  Verb verb;
  verb.name = "events";
  verb.group = "Look";
  verb.summary = "What happened to a job, in order";
  verb.help = "Examples:\n  dsv3ctl events demo-1\n  dsv3ctl events demo-1 --json";
  verb.options = {{"JOB", job.get(), "Job id", true, Completes::kJob, {}}};
  verb.run = [job](const Globals& globals) { return events(globals, *job); };
  return verb;
}

}  // namespace dsv3::cli
