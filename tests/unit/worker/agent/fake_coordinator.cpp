// See fake_coordinator.h.
#include "tests/unit/worker/agent/fake_coordinator.h"

#include <unistd.h>

#include <chrono>

#include "base/check.h"
#include "coordinator/transport/coordinator_file.h"
#include "coordinator/transport/keys.h"

namespace dsv3::agent::testing {

FakeCoordinator::FakeCoordinator(std::string state_dir) : state_dir_(std::move(state_dir)) {
  DSV3_CHECK(transport::ensure_keys(state_dir_).ok());
  restart();
}

void FakeCoordinator::restart(bool same_port) {
  server_.reset();
  agent_.reset();
  auto server = transport::Server::bind(state_dir_, same_port ? endpoint_ : "");
  DSV3_CHECK(server.ok());
  server_.emplace(std::move(server).value());
  DSV3_CHECK(!same_port || server_->endpoint() == endpoint_);
  endpoint_ = server_->endpoint();
  transport::CoordinatorFile file;
  file.endpoint = server_->endpoint();
  file.server_public_key = server_->public_key();
  file.pid = ::getpid();
  file.instance = "instance-" + std::to_string(++instance_);
  DSV3_CHECK(transport::write_coordinator_file(state_dir_, file).ok());
}

void FakeCoordinator::die() {
  server_.reset();
  agent_.reset();
  ::unlink(transport::coordinator_file_path(state_dir_).c_str());
}

bool FakeCoordinator::pump(const std::function<bool()>& done) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    if (!server_) {
      ::usleep(2000);
      continue;
    }
    (void)server_->wait(-1, 10);
    while (true) {
      transport::Peer peer;
      wire::Envelope message;
      bool received = false;
      if (!server_->receive(&peer, &message, &received).ok() || !received) break;
      on_message(peer, message);
    }
  }
  return true;
}

void FakeCoordinator::send(const wire::Envelope& message) {
  DSV3_CHECK(agent_.has_value());
  (void)server_->send(*agent_, message);
}

void FakeCoordinator::on_message(const transport::Peer& peer, const wire::Envelope& message) {
  agent_ = peer;
  if (mute) {
    num_lost += message.agent_reports().reports_size();
    return;
  }
  wire::Envelope answer;
  if (message.has_agent_hello()) {
    hellos.push_back(message.agent_hello());
    if (message.agent_hello().ranks_started()) {
      answer.mutable_heartbeat_ack()->set_heartbeat_ms(20);
      answer.mutable_heartbeat_ack()->set_instance("instance-" + std::to_string(instance_));
    } else {
      *answer.mutable_launch_ranks() = launch;
    }
  } else if (message.has_agent_heartbeat()) {
    ++num_heartbeats;
    answer.mutable_heartbeat_ack()->set_heartbeat_ms(20);
    answer.mutable_heartbeat_ack()->set_silence_ms(100);
    answer.mutable_heartbeat_ack()->set_instance("instance-" + std::to_string(instance_));
  } else if (message.has_agent_reports()) {
    if (deaf) {
      num_lost += message.agent_reports().reports_size();
      return;
    }
    uint64_t last = reports.empty() ? 0 : reports.back().seq();
    for (const wire::Report& report : message.agent_reports().reports()) {
      if (report.seq() != last + 1) continue;
      reports.push_back(report);
      last = report.seq();
    }
    answer.mutable_report_ack()->set_seq(last);
  } else {
    return;
  }
  send(answer);
}

std::vector<wire::RankMessage> FakeCoordinator::messages(wire::RankMessage::BodyCase kind) const {
  std::vector<wire::RankMessage> found;
  for (const wire::Report& report : reports) {
    if (report.has_message() && report.message().body_case() == kind)
      found.push_back(report.message());
  }
  return found;
}

std::optional<wire::RankExited> FakeCoordinator::exited(uint32_t rank) const {
  for (const wire::Report& report : reports) {
    if (report.has_rank_exited() && report.rank() == rank) return report.rank_exited();
  }
  return std::nullopt;
}

std::optional<wire::AgentDone> FakeCoordinator::done() const {
  for (const wire::Report& report : reports) {
    if (report.has_agent_done()) return report.agent_done();
  }
  return std::nullopt;
}

pid_t FakeCoordinator::rank_pid(uint32_t rank) const {
  for (const wire::Report& report : reports) {
    if (report.has_rank_started() && report.rank() == rank) {
      return static_cast<pid_t>(report.rank_started().pid());
    }
  }
  return 0;
}

}  // namespace dsv3::agent::testing
