// What the agent says to the coordinator: hello, heartbeats, reports. See agent.h.
#include <unistd.h>

#include "base/log.h"
#include "cluster/inventory/inventory.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "worker/agent/agent.h"

namespace dsv3::agent {
namespace {

constexpr int64_t kHelloAgainNs = 2'000'000'000;
constexpr int64_t kReportAgainNs = 3'000'000'000;
constexpr int64_t kBatchMaxBytes = int64_t{4} << 20;
constexpr int kBatchesPerRound = 16;

}  // namespace

void Agent::talk() {
  const int64_t now_ns = clock_.steady_ns();
  if (!greeted_) {
    if (last_hello_ns_ == 0 || now_ns - last_hello_ns_ > kHelloAgainNs) {
      if (send_hello()) last_hello_ns_ = now_ns;
    }
    return;  // nothing else is expected before the hello is answered
  }
  send_heartbeat(now_ns);
  send_reports(now_ns);
}

bool Agent::send_hello() {
  // Probed once: a driver may take a second to answer.
  static const plan::ClusterSpec cluster = inventory::local_cluster();
  wire::Envelope message;
  wire::AgentHello* hello = message.mutable_agent_hello();
  hello->set_node(options_.node);
  hello->set_pid(::getpid());
  hello->set_job(options_.job);
  hello->set_attempt(options_.attempt);
  hello->set_ranks_started(launched_);
  hello->set_next_report_seq(reports_.next_seq());
  hello->set_host(cluster.nodes.front().name);
  for (const plan::Device& device : cluster.nodes.front().devices) {
    wire::Device* item = hello->add_devices();
    item->set_kind(plan::device_kind_name(device.kind));
    item->set_name(device.name);
    item->set_uuid(device.uuid);
    item->set_memory_bytes(device.memory_bytes);
  }
  return link_.send(message).ok();
}

void Agent::send_heartbeat(int64_t now_ns) {
  if (now_ns - last_heartbeat_ns_ < heartbeat_ns_) return;
  wire::Envelope message;
  wire::AgentHeartbeat* heartbeat = message.mutable_agent_heartbeat();
  heartbeat->set_node(options_.node);
  heartbeat->set_job(options_.job);
  heartbeat->set_attempt(options_.attempt);
  heartbeat->set_ranks_alive(static_cast<uint32_t>(num_alive()));
  if (link_.send(message).ok()) last_heartbeat_ns_ = now_ns;
}

void Agent::send_reports(int64_t now_ns) {
  // Nobody answers: what is queued now would pile up in the socket, once more with every
  // repetition.
  if (silent_ns(now_ns) > silence_ns_) return;
  // Sent but unanswered for long: it was lost on the way.
  if (!reports_.has_sent()) last_progress_ns_ = now_ns;
  if (now_ns - last_progress_ns_ > kReportAgainNs) {
    last_progress_ns_ = now_ns;
    reports_.resend_all();
  }
  for (int round = 0; round < kBatchesPerRound && reports_.has_unsent(); ++round) {
    wire::Envelope message;
    wire::AgentReports* batch = message.mutable_agent_reports();
    batch->set_node(options_.node);
    batch->set_job(options_.job);
    batch->set_attempt(options_.attempt);
    const int64_t count = reports_.fill(batch, protocol::kReportsPerMessageMax, kBatchMaxBytes);
    const Status status = link_.send(message);
    if (status.code() == Code::kInvalid) {
      log::warning("a report can't be sent, so its number goes alone: {}", status.to_string());
      reports_.empty_first_unsent();
      continue;
    }
    if (!status.ok()) return;  // full or away: again next round
    reports_.mark_sent(count);
  }
}

}  // namespace dsv3::agent
