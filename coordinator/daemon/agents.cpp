// What agents say. A batch of reports is one transaction: what it tells, and the mark that it was
// taken. See daemon.h.
#include <fmt/format.h>

#include "base/log.h"
#include "coordinator/daemon/convert.h"
#include "coordinator/daemon/daemon.h"

namespace dsv3::daemon {

Status Daemon::handle_agent(const transport::Peer& peer, const wire::Envelope& message) {
  switch (message.body_case()) {
    case wire::Envelope::kAgentHello: {
      const core::AgentHelloInput hello = to_hello(message.agent_hello());
      // A second process under the same key must not turn away the messages of the first.
      const core::Attempt* attempt =
          core::find_live_attempt(state_, hello.key.job, hello.key.attempt);
      const bool known = attempt != nullptr && attempt->agents.contains(hello.key.node);
      const int64_t pid = known ? attempt->agents.at(hello.key.node).pid : 0;
      if (known && (pid == 0 || pid == hello.pid)) peers_[hello.key] = peer;
      return process(hello, &peer).status();
    }
    case wire::Envelope::kAgentHeartbeat: {
      const core::AgentKey key = agent_key(message.agent_heartbeat());
      // Its connection may have been made anew, or we were: the address of the last sign of life is
      // the right one. (A second process under this key says hello first, and is dismissed.)
      if (core::agent_is_live(state_, key.job, key.attempt, key.node)) peers_[key] = peer;
      return process(core::AgentHeartbeatInput{key}, &peer).status();
    }
    case wire::Envelope::kAgentReports:
      return take_reports(peer, message.agent_reports());
    default:
      return Status(Code::kNotAuthorised, "an agent's key can't ask this", "use the client's key");
  }
}

Result<uint64_t> Daemon::last_report(const store::ReportKey& key) {
  const auto cached = taken_reports_.find(key);
  if (cached != taken_reports_.end()) return cached->second;
  DSV3_ASSIGN_OR_RETURN(const uint64_t last, writer_.last_report(key));
  taken_reports_[key] = last;
  return last;
}

Status Daemon::take_reports(const transport::Peer& peer, const wire::AgentReports& reports) {
  const core::AgentKey key = agent_key(reports);
  const store::ReportKey report_key{key.job, key.attempt, key.node};
  DSV3_ASSIGN_OR_RETURN(uint64_t last, last_report(report_key));
  Pending pending;
  for (const wire::Report& report : reports.reports()) {
    if (report.seq() <= last) continue;
    if (report.seq() != last + 1) {
      log::debug("{}: report {} of {} came before report {}: the agent will send both again",
                 key.job, report.seq(), key.node, last + 1);
      break;
    }
    if (!core::agent_is_live(state_, key.job, key.attempt, key.node)) {
      pending.actions.push_back({core::ActionType::kDismissAgent, key, 0, "this attempt is over"});
      break;
    }
    take_report(key, report, &pending);
    last = report.seq();
  }
  if (last != taken_reports_[report_key]) {
    pending.batch.taken_reports.emplace_back(report_key, last);
    DSV3_RETURN_IF_ERROR(commit(&pending));
    taken_reports_[report_key] = last;
  }
  if (core::agent_is_live(state_, key.job, key.attempt, key.node))
    times_.heard[key] = clock_.steady_ns();
  wire::Envelope ack;
  ack.mutable_report_ack()->set_seq(last);
  (void)server_.send(peer, ack);
  act(pending.actions, &peer);
  return {};
}

void Daemon::take_report(const core::AgentKey& key, const wire::Report& report, Pending* pending) {
  core::Decision decision;
  switch (report.body_case()) {
    case wire::Report::kRankStarted:
      decision =
          decide(core::RankStartedInput{key, report.rank(), report.rank_started().pid()}, pending);
      break;
    case wire::Report::kRankExited:
      decision = decide(to_rank_exited(key, report.rank(), report.rank_exited()), pending);
      break;
    case wire::Report::kAgentDone:
      decision = decide(
          core::AgentDoneInput{key, report.agent_done().exit_code(), report.agent_done().reason()},
          pending);
      break;
    case wire::Report::kMessage: {
      const wire::RankMessage& message = report.message();
      if (message.has_checkpoint_done()) {
        decision = decide(to_checkpoint_done(key, message.checkpoint_done()), pending);
      } else if (message.has_note()) {
        decision = decide(core::NoteInput{key, report.rank(), message.note().text()}, pending);
      } else {
        const uint32_t number = core::find_job(state_, key.job)->number;
        const int64_t time_ns =
            message.time_unix_ns() != 0 ? message.time_unix_ns() : report.time_unix_ns();
        pending->batch.samples.push_back({number, key.attempt, report.rank(), time_ns, &message});
        pending->changed.insert(key.job);
      }
      break;
    }
    case wire::Report::BODY_NOT_SET:
      log::warning("{}: report {} of {} is empty", key.job, report.seq(), key.node);
  }
  if (!decision.status.ok()) log::warning("{}: {}", key.job, decision.status.message());
}

}  // namespace dsv3::daemon
