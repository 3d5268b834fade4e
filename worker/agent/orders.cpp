// What the coordinator says to the agent, and what becomes of the ranks. See agent.h.
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <span>

#include "base/file.h"
#include "base/log.h"
#include "cluster/inventory/inventory.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "worker/agent/agent.h"

namespace dsv3::agent {
namespace {

constexpr size_t kTokenBytes = 16;
constexpr size_t kNonceBytes = 4;

// As hexadecimal digits; "" when the system gives none.
std::string random_hex(size_t num_bytes) {
  std::array<unsigned char, kTokenBytes> bytes{};
  if (::getrandom(bytes.data(), num_bytes, 0) != static_cast<ssize_t>(num_bytes)) return {};
  std::string text;
  for (const unsigned char byte : std::span(bytes).first(num_bytes))
    text += fmt::format("{:02x}", byte);
  return text;
}

// The step that a message speaks of; 0 when of none.
int64_t step_of(const wire::RankMessage& message) {
  if (message.has_step()) return message.step().step();
  if (message.has_progress()) return message.progress().step();
  if (message.has_start()) return message.start().first_step();
  return message.exit_report().step();
}

}  // namespace

void Agent::drain_link() {
  while (true) {
    wire::Envelope message;
    bool received = false;
    const Status status = link_.receive(&message, &received, 0);
    if (!status.ok()) {
      log::warning("a message from the coordinator was dropped: {}", status.to_string());
      if (status.code() != Code::kInvalid) return;
      continue;
    }
    if (!received) return;
    last_heard_ns_ = clock_.steady_ns();
    on_message(message);
  }
}

void Agent::on_message(const wire::Envelope& message) {
  const auto mine = [this](const auto& order) {
    const bool match = order.job() == options_.job && order.attempt() == options_.attempt;
    if (!match) log::warning("an order for {} attempt {} is ignored", order.job(), order.attempt());
    return match;
  };
  switch (message.body_case()) {
    case wire::Envelope::kLaunchRanks:
      greeted_ = true;
      if (mine(message.launch_ranks())) launch(message.launch_ranks());
      return;
    case wire::Envelope::kStopRanks: {
      greeted_ = true;
      const wire::StopRanks& order = message.stop_ranks();
      if (!mine(order)) return;
      launched_ = true;  // never start them after this
      begin_stop(order.grace_ms(), order.checkpoint(), order.reason());
      return;
    }
    case wire::Envelope::kAgentCheckpointNow:
      if (!mine(message.agent_checkpoint_now())) return;
      for (RankProcess& rank : ranks_) rank.ask_for_checkpoint();
      return;
    case wire::Envelope::kHeartbeatAck:
      greeted_ = true;
      // A restarted coordinator on the old port: the connection came back by itself.
      if (const std::string& instance = message.heartbeat_ack().instance(); instance != instance_) {
        if (!instance_.empty()) greet_again("another coordinator answers");
        instance_ = instance;
      }
      if (const uint32_t ms = message.heartbeat_ack().heartbeat_ms())
        heartbeat_ns_ = ms * 1'000'000LL;
      if (const uint32_t ms = message.heartbeat_ack().silence_ms()) silence_ns_ = ms * 1'000'000LL;
      return;
    case wire::Envelope::kReportAck:
      on_report_ack(message.report_ack().seq());
      return;
    case wire::Envelope::kAgentDismiss:
      log::info("dismissed: {}", message.agent_dismiss().reason());
      kill_all();
      dismissed_ = true;  // what is left dies with this process
      return;
    case wire::Envelope::kError:
      log::warning("the coordinator says: {}", message.error().message());
      return;
    default:
      log::warning("a message of kind {} is not for an agent",
                   static_cast<int>(message.body_case()));
  }
}

// An acknowledgement of nothing new, while reports are on their way: one of them was lost and the
// coordinator waits for it.
void Agent::on_report_ack(uint64_t seq) {
  constexpr int64_t kResendNs = 500'000'000;
  const int64_t now_ns = clock_.steady_ns();
  if (reports_.acknowledge(seq) > 0) {
    last_progress_ns_ = now_ns;
  } else if (reports_.has_sent() && now_ns - last_resend_ns_ > kResendNs) {
    last_resend_ns_ = now_ns;
    reports_.resend_all();
  }
}

void Agent::launch(const wire::LaunchRanks& order) {
  if (launched_) return;  // sent again: they run
  launched_ = true;
  if (order.heartbeat_ms() > 0) heartbeat_ns_ = order.heartbeat_ms() * 1'000'000LL;
  if (order.silence_ms() > 0) silence_ns_ = order.silence_ms() * 1'000'000LL;
  const std::string run_dir = order.job_dir() + "/run";
  const std::string spec_path = fmt::format("{}/attempt-{}.yaml", run_dir, order.attempt());
  const std::string plan_path = fmt::format("{}/attempt-{}.plan.json", run_dir, order.attempt());
  Status status = make_dirs(run_dir, 0700);
  if (status.ok()) status = make_dirs(order.job_dir() + "/logs");
  if (status.ok()) status = write_file(spec_path, order.spec_yaml(), 0600);
  if (status.ok()) status = write_file(plan_path, order.plan_json(), 0600);
  if (status.ok()) status = prepare_gang(order);
  for (const uint32_t rank : order.ranks()) {
    if (status.ok()) status = start_rank(order, rank, spec_path, plan_path);
  }
  if (status.ok()) return;
  log::error("cannot start the ranks: {}", status.to_string());
  exit_code_ = static_cast<int>(status.code());
  exit_reason_ = status.to_string();
  begin_stop(0, false, exit_reason_);
}

// Where this attempt's ranks meet, under a name that no other attempt has, and the secret by which
// they know each other. One node only today, so one agent draws both.
Status Agent::prepare_gang(const wire::LaunchRanks& order) {
  if (order.world_size() <= 1) return {};
  token_ = random_hex(kTokenBytes);
  const std::string nonce = random_hex(kNonceBytes);
  if (token_.empty() || nonce.empty())
    return Status(Code::kFailed, "the system gives no random numbers");
  rendezvous_ = fmt::format("local:{}/{}@{}", order.job(), order.attempt(), nonce);
  return {};
}

Status Agent::start_rank(const wire::LaunchRanks& order, uint32_t rank,
                         const std::string& spec_path, const std::string& plan_path) {
  RankLaunch launch{.rank = rank};
  launch.argv = {options_.worker, "train",
                 "--spec",        spec_path,
                 "--plan",        plan_path,
                 "--rank",        std::to_string(rank),
                 "--world",       std::to_string(order.world_size()),
                 "--job",         order.job(),
                 "--attempt",     std::to_string(order.attempt()),
                 "--job-dir",     order.job_dir()};
  if (order.saved_step() > 0) {
    launch.argv.insert(launch.argv.end(), {"--saved-step", std::to_string(order.saved_step())});
  }
  if (!order.submission().empty()) {
    launch.argv.insert(launch.argv.end(), {"--submission", order.submission()});
  }
  launch.env.assign(order.env().begin(), order.env().end());
  if (!rendezvous_.empty()) {
    launch.argv.insert(launch.argv.end(), {"--rendezvous", rendezvous_});
    launch.env.emplace_back("DSV3_JOB_TOKEN", token_);
  }
  // Ranks that share cores must not each take them all: threads that wait for a core stall the
  // others.
  const bool chosen =
      ::getenv("OMP_NUM_THREADS") != nullptr || order.env().contains("OMP_NUM_THREADS");
  if (order.ranks_size() > 1 && !chosen) {
    const int cores = inventory::probe_machine().cores;
    launch.env.emplace_back("OMP_NUM_THREADS",
                            std::to_string(std::max(1, cores / order.ranks_size())));
  }
  launch.working_dir = order.working_dir();
  launch.log_path = fmt::format("{}/logs/rank-{}.log", order.job_dir(), rank);
  DSV3_ASSIGN_OR_RETURN(RankProcess process, RankProcess::start(launch));
  log::info("rank {} is process {}", rank, process.pid());
  wire::Report report;
  report.set_time_unix_ns(clock_.wall_ns());
  report.set_rank(rank);
  report.mutable_rank_started()->set_pid(process.pid());
  reports_.push(std::move(report));
  ranks_.push_back(std::move(process));
  exit_reports_.emplace_back();
  return {};
}

void Agent::on_rank_message(uint32_t rank, wire::RankMessage message) {
  last_step_ = std::max(last_step_, step_of(message));
  if (message.has_exit_report()) {  // told with the rank's end
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (ranks_[i].rank() == rank) exit_reports_[i] = message.exit_report().SerializeAsString();
    }
  }
  wire::Report report;
  report.set_time_unix_ns(message.time_unix_ns());
  report.set_rank(rank);
  *report.mutable_message() = std::move(message);
  reports_.push(std::move(report));
}

void Agent::on_rank_end(size_t idx, const RankEnd& end) {
  const uint32_t rank = ranks_[idx].rank();
  log::info("rank {} ended: {}", rank,
            end.signal != 0 ? fmt::format("signal {}", end.signal)
                            : fmt::format("code {}", end.exit_code));
  wire::Report report;
  report.set_time_unix_ns(clock_.wall_ns());
  report.set_rank(rank);
  wire::RankExited* exited = report.mutable_rank_exited();
  exited->set_exit_code(end.exit_code);
  exited->set_signal(end.signal);
  exited->set_killed_by_agent(end.by_agent);
  if (!exit_reports_[idx].empty()) exited->mutable_report()->ParseFromString(exit_reports_[idx]);
  // One that was killed could not say how far it was; the gang steps together.
  if (exited->report().step() == 0) exited->mutable_report()->set_step(last_step_);
  const std::string said = exited->report().message();
  reports_.push(std::move(report));
  if (end.exit_code == 0 || exit_code_ != 0) return;
  exit_code_ = end.exit_code;
  exit_reason_ = end.signal != 0 ? fmt::format("rank {} was killed by signal {}", rank, end.signal)
                                 : fmt::format("rank {} ended with code {}{}{}", rank,
                                               end.exit_code, said.empty() ? "" : ": ", said);
  if (num_alive() > 0) begin_stop(options_.fail_grace_ms, false, exit_reason_);
}

void Agent::finish() {
  done_ = true;
  done_ns_ = clock_.steady_ns();
  wire::Report report;
  report.set_time_unix_ns(clock_.wall_ns());
  report.mutable_agent_done()->set_exit_code(exit_code_);
  report.mutable_agent_done()->set_reason(exit_reason_.empty() ? "all ranks have ended"
                                                               : exit_reason_);
  reports_.push(std::move(report));
}

}  // namespace dsv3::agent
