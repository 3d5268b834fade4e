// Agent: one node's part of one attempt: takes orders from the coordinator, runs the ranks, tells
// what became of them.
//
// Law: no rank outlives its agent, and no rank dies because the coordinator is away: it keeps
// running, its reports are kept, and the coordinator is looked for until orphan_ms have passed. The
// first failure of a rank ends the others (a gang lives or dies together). It has not ended before
// everything that its ranks had started has. One thread; every wait is one poll() with a deadline.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"
#include "coordinator/transport/agent_link.h"
#include "worker/agent/options.h"
#include "worker/agent/rank_process.h"
#include "worker/agent/report_buffer.h"

namespace dsv3::wire {
class LaunchRanks;
class StopRanks;
}  // namespace dsv3::wire

namespace dsv3::agent {

class Agent {
 public:
  // Blocks SIGCHLD, SIGTERM, SIGINT and SIGHUP in this thread (before ZeroMQ starts its own) and
  // connects. kNoCoordinator when nothing says where a coordinator is.
  static Result<std::unique_ptr<Agent>> create(const Options& options,
                                               const Clock& clock = system_clock());
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Until the attempt's part here is over. The exit code: 0, the first failed rank's code (128 +
  // signal when one killed it), or 75 when no coordinator was heard for too long or a signal ended
  // it.
  int run();

 private:
  Agent(const Options& options, const Clock& clock, transport::AgentLink link, int signal_fd);

  // One round of the loop, in this order.
  void drain_link();
  void talk();
  void wait();
  void handle_signals();
  void reap_ranks();
  void keep_deadlines();

  void on_message(const wire::Envelope& message);
  void launch(const wire::LaunchRanks& order);
  Status prepare_gang(const wire::LaunchRanks& order);
  Status start_rank(const wire::LaunchRanks& order, uint32_t rank, const std::string& spec_path,
                    const std::string& plan_path);
  void begin_stop(int64_t grace_ms, bool checkpoint, const std::string& reason);
  void kill_all();
  void on_rank_message(uint32_t rank, wire::RankMessage message);
  void on_rank_end(size_t idx, const RankEnd& end);
  void finish();  // all ranks have ended: AgentDone
  void look_for_coordinator(int64_t now_ns);
  void greet_again(const char* why);
  void on_report_ack(uint64_t seq);

  bool send_hello();
  void send_heartbeat(int64_t now_ns);
  void send_reports(int64_t now_ns);
  size_t num_alive() const;
  int64_t silent_ns(int64_t now_ns) const { return now_ns - last_heard_ns_; }

  const Options options_;
  const Clock& clock_;
  transport::AgentLink link_;
  int signal_fd_;
  ReportBuffer reports_;
  std::vector<RankProcess> ranks_;
  std::vector<std::string>
      exit_reports_;        // serialised, by index of ranks_; "" until a rank sent one
  int64_t last_step_ = 0;   // the furthest that a rank spoke of
  std::string rendezvous_;  // of this attempt's ranks; "": one rank meets nobody
  std::string token_;       // their shared secret

  std::string instance_;   // of the coordinator that acknowledged heartbeats last; "" before
  bool greeted_ = false;   // the coordinator of this connection has answered the hello
  bool launched_ = false;  // ranks were started (or could not be)
  bool done_ = false;      // AgentDone is among the reports
  bool dismissed_ = false;
  bool told_to_end_ = false;  // by a signal: don't wait long for acknowledgements
  int exit_code_ = 0;
  std::string exit_reason_;
  std::optional<int64_t> kill_at_ns_;

  int64_t heartbeat_ns_ = 1'000'000'000;
  int64_t silence_ns_ = 5'000'000'000;
  int64_t started_ns_;
  int64_t last_heard_ns_;
  int64_t last_hello_ns_ = 0;
  int64_t last_heartbeat_ns_ = 0;
  int64_t last_search_ns_ = 0;
  int64_t last_progress_ns_ =
      0;  // an acknowledgement covered something new, or the first unacknowledged was sent
  int64_t last_resend_ns_ = 0;
  int64_t done_ns_ = 0;
};

}  // namespace dsv3::agent
