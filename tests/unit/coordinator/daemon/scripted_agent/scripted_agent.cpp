// An agent without ranks: it keeps to PROTOCOL.md and plays the part that the job's spec names, so
// that the coordinator is tested with a real process on the other side. Spec lines: "steps: N"
// (metrics sent at once), "code: N" (how rank 0 ends), "hold: true" (runs until stopped), "crash:
// true" (dies without a word after its start).
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>

#include "base/clock.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/transport/agent_link.h"

namespace {

using namespace dsv3;

constexpr int64_t kNsPerMs = 1'000'000;

struct Agent {
  std::string state_dir, job, node;
  uint32_t attempt = 0;
  transport::AgentLink link;
  std::deque<wire::Report> unacked;
  uint64_t next_seq = 1;
  bool launched = false;
  bool finished = false;
  wire::LaunchRanks launch;

  wire::Report* report(uint32_t rank) {
    wire::Report& r = unacked.emplace_back();
    r.set_seq(next_seq++);
    r.set_time_unix_ns(system_clock().wall_ns());
    r.set_rank(rank);
    return &r;
  }
  template <typename Message>
  void fill(Message* message) const {
    message->set_job(job);
    message->set_attempt(attempt);
    message->set_node(node);
  }
  void say_hello() {
    wire::Envelope m;
    fill(m.mutable_agent_hello());
    m.mutable_agent_hello()->set_pid(::getpid());
    m.mutable_agent_hello()->set_host("fake");
    m.mutable_agent_hello()->set_ranks_started(launched);
    wire::Device* device = m.mutable_agent_hello()->add_devices();
    device->set_kind("cpu");
    device->set_name("fake cpu");
    (void)link.send(m);
    send_reports();
  }
  void beat() {
    wire::Envelope m;
    fill(m.mutable_agent_heartbeat());
    (void)link.send(m);
  }
  void send_reports() {
    if (unacked.empty()) return;
    wire::Envelope m;
    fill(m.mutable_agent_reports());
    for (const wire::Report& r : unacked) *m.mutable_agent_reports()->add_reports() = r;
    (void)link.send(m);
  }
  int64_t number(const char* key, int64_t otherwise) const {
    const size_t at = launch.spec_yaml().find(key);
    return at == std::string::npos ? otherwise
                                   : std::atoll(launch.spec_yaml().c_str() + at + std::strlen(key));
  }
  bool says(const char* text) const { return launch.spec_yaml().find(text) != std::string::npos; }

  void end_ranks(int code) {
    if (finished) return;
    finished = true;
    for (const uint32_t rank : launch.ranks()) {
      wire::RankExited* exited = report(rank)->mutable_rank_exited();
      exited->set_exit_code(code);
      if (code != 0) exited->mutable_report()->set_message("as the spec said");
    }
    report(0)->mutable_agent_done()->set_exit_code(code);
    send_reports();
  }
  void start_ranks(const wire::LaunchRanks& order) {
    if (launched) return;
    launched = true;
    launch = order;
    for (const uint32_t rank : order.ranks())
      report(rank)->mutable_rank_started()->set_pid(::getpid());
    if (says("crash: true")) {
      send_reports();
      ::usleep(200'000);
      ::_exit(9);
    }
    for (int64_t step = 1; step <= number("steps: ", 0); ++step) {
      wire::StepMetrics* m = report(0)->mutable_message()->mutable_step();
      m->set_step(step);
      m->set_loss(1.0 / static_cast<double>(step));
      wire::ExpertCounts* experts = report(0)->mutable_message()->mutable_experts();
      experts->set_step(step);
      for (const uint64_t tokens : {uint64_t{1} << 40, uint64_t{3}}) {
        if (experts->layers_size() == 0) experts->add_layers()->set_layer(1);
        experts->mutable_layers(0)->add_tokens(tokens);
      }
    }
    send_reports();
    if (!says("hold: true")) end_ranks(static_cast<int>(number("code: ", 0)));
  }

  // False when there is nothing left to do.
  bool handle(const wire::Envelope& m) {
    if (m.has_launch_ranks()) start_ranks(m.launch_ranks());
    if (m.has_stop_ranks()) end_ranks(143);
    if (m.has_agent_dismiss()) return false;
    if (m.has_report_ack()) {
      while (!unacked.empty() && unacked.front().seq() <= m.report_ack().seq()) unacked.pop_front();
    }
    return !(finished && unacked.empty());
  }
};

}  // namespace

int main(int argc, char** argv) {
  std::string state_dir, job, node;
  uint32_t attempt = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--state-dir") state_dir = argv[i + 1];
    if (name == "--job") job = argv[i + 1];
    if (name == "--attempt") attempt = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    if (name == "--node") node = argv[i + 1];
  }
  // The first launch of a daemon comes just before its file appears.
  for (int i = 0; i < 500; ++i) {
    auto link = transport::AgentLink::connect(state_dir);
    if (!link.ok()) {
      ::usleep(10'000);
      continue;
    }
    Agent agent{state_dir, job, node, attempt, std::move(*link), {}, 1, false, false, {}};
    int64_t next_beat_ns = 0;
    while (true) {
      if (system_clock().steady_ns() >= next_beat_ns) {
        next_beat_ns = system_clock().steady_ns() + 100 * kNsPerMs;
        const auto moved = agent.link.refresh();
        if ((moved.ok() && *moved) || !agent.launched)
          agent.say_hello();
        else
          agent.beat();
      }
      wire::Envelope message;
      bool received = false;
      (void)agent.link.receive(&message, &received, 20);
      if (received && !agent.handle(message)) return 0;
    }
  }
  return 1;
}
