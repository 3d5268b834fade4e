// The coordinator's process: poll → core::step → PERSIST → act.
//
// Law: nothing is answered or done before the events that it follows from are on the disk. What a
// full disk refuses is undone in memory and told to whoever asked; any other failure to persist
// ends the process, and the next start replays. Ranks and agents never die because the coordinator
// does. One thread does everything here, so the order of inputs is the order of the log.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "cluster/launch/launcher.h"
#include "cluster/plan/cluster_spec.h"
#include "coordinator/core/state.h"
#include "coordinator/core/step.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/store/reader.h"
#include "coordinator/store/writer.h"
#include "coordinator/transport/server.h"

namespace dsv3::daemon {

inline constexpr int kTickMs = 250;
// Between two ticks while the disk is full.
inline constexpr int kFullTickMs = 1'000;
// Between two looks at agents that are about to end: the next attempt waits for them.
inline constexpr int kEndingTickMs = 10;
inline constexpr uint32_t kHeartbeatMs = 1'000;
// After this long without a HeartbeatAck an agent looks for the coordinator again.
inline constexpr uint32_t kAgentPatienceMs = 3'000;
inline constexpr int kSqlTimeLimitMs = 5'000;
inline constexpr int64_t kLogBytesMax = int64_t{16} << 20;  // of dsv3d.log, and of dsv3d.log.1

struct Options {
  std::string state_dir;      // made absolute by create()
  std::string agent_program;  // "": dsv3-agent beside this executable
  std::string version;
  core::Limits limits;
};

class Daemon {
 public:
  // Takes the state directory, replays the log, binds, publishes coordinator.json. kConflict when
  // another coordinator has it.
  static Result<std::unique_ptr<Daemon>> create(Options options);
  // Serves until a signal arrives on signal_fd (a signalfd of SIGINT and SIGTERM) or a Shutdown
  // request is done.
  Status run(int signal_fd);

 private:
  // A Follow request that waits for something to tell.
  struct Follower {
    transport::Peer peer;
    uint64_t request_id = 0;
    wire::FollowRequest request;
    int64_t deadline_ns = 0;  // steady
  };
  // What is to be persisted before the next action.
  struct Pending {
    store::Batch batch;
    std::vector<core::Action> actions;
    std::set<std::string> changed;
    std::optional<core::Times> times_before;  // its first decision
  };

  Daemon(Options options, store::Writer writer, store::Reader reader, transport::Server server);

  Status replay(const std::vector<core::Event>& log);
  Status publish();
  // Tells the core what this machine has.
  Status find_local_node();
  core::Now now() const { return {clock_.wall_ns(), clock_.steady_ns()}; }

  // decide.cpp: inputs, persistence, actions.
  core::Decision decide(const core::Input& input, Pending* pending);
  Status commit(Pending* pending);
  // After a commit that a full disk refused: the state is the log's again.
  Status undo(const Pending& pending, const Status& refused);
  // decide + commit + act; the decision's own status is for the requester.
  Result<core::Decision> process(const core::Input& input, const transport::Peer* sender = nullptr);
  void act(const std::vector<core::Action>& actions, const transport::Peer* sender);
  void act_on_agent(const core::Action& action, const core::Job& job,
                    const transport::Peer* sender);
  void start_agent(const core::Action& action, const core::Job& job);
  void send_launch(const core::AgentKey& key, const core::Job& job);
  launch::AgentSpec agent_spec(const core::AgentKey& key) const;
  launch::Launcher* find_launcher(const std::string& name);
  Status process_gone();
  Status tick();
  // True while an agent is DONE or LOST whose processes are not known to have ended.
  bool waits_for_agents() const;
  void poll_agents();

  // agents.cpp: what agents say.
  Status handle_agent(const transport::Peer& peer, const wire::Envelope& message);
  Status take_reports(const transport::Peer& peer, const wire::AgentReports& reports);
  void take_report(const core::AgentKey& key, const wire::Report& report, Pending* pending);
  Result<uint64_t> last_report(const store::ReportKey& key);

  // requests.cpp: what users ask. The reply is filled in; a Status that is not ok becomes an Error
  // reply.
  Status handle_message(const transport::Peer& peer, const wire::Envelope& message);
  Status handle_request(const transport::Peer& peer, const wire::Envelope& request,
                        wire::Envelope* reply, bool* deferred);
  Status submit(const wire::SubmitRequest& request, wire::SubmitReply* reply);
  Status submit_auto(const wire::SubmitAutoRequest& request, wire::SubmitAutoReply* reply);
  Status change_job(const core::Input& input, const std::string& job, wire::JobReply* reply);
  Status shutdown(const wire::ShutdownRequest& request, wire::ShutdownReply* reply);

  // answers.cpp: what users read.
  Status answer_question(const wire::Envelope& request, wire::Envelope* reply);
  void fill_info(wire::CoordinatorInfo* info) const;
  Status fill_job(const core::Job& job, wire::JobStatus* status);
  Status status_of(const std::string& job, wire::StatusReply* reply);
  Status logs(const wire::LogsRequest& request, wire::LogsReply* reply) const;
  void nodes(wire::NodesReply* reply) const;
  Result<const core::Job*> need_job(const std::string& id) const;
  // Fills the reply; true when there is something to tell now.
  Result<bool> follow(const wire::FollowRequest& request, wire::FollowReply* reply);
  void serve_followers();
  void reply_to(const transport::Peer& peer, uint64_t request_id, const Status& status,
                wire::Envelope* reply);

  Options options_;
  const Clock& clock_ = system_clock();
  store::Writer writer_;
  store::Reader reader_;
  transport::Server server_;
  std::map<std::string, std::unique_ptr<launch::Launcher>> launchers_;

  plan::ClusterSpec local_cluster_;  // this machine, as it was found at the start
  core::State state_;
  core::Times times_;
  std::map<core::AgentKey, transport::Peer> peers_;  // where each agent was heard last
  std::set<core::AgentKey> watched_;  // agents whose processes the launcher is asked about
  std::map<store::ReportKey, uint64_t> taken_reports_;  // cache of the store's
  std::deque<core::AgentGoneInput> gone_;               // found while acting; processed after
  std::vector<Follower> followers_;
  std::set<std::string> dirty_jobs_;  // changed since the followers were served
  std::string instance_;
  int64_t started_steady_ns_ = 0;
  int64_t next_tick_ns_ = 0;
  bool disk_full_ = false;  // the last commit was refused for it
  bool draining_ = false;   // no new jobs; ends when none is active
  bool stop_ = false;
  std::string stop_reason_;
  Status fatal_;  // a commit that failed
};

}  // namespace dsv3::daemon
