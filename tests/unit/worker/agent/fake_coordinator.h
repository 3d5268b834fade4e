// A coordinator for the agent's tests: the real transport, answers of the test's choosing.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/transport/server.h"

namespace dsv3::agent::testing {

class FakeCoordinator {
 public:
  explicit FakeCoordinator(std::string state_dir);

  // Binds anew under another instance's name, as a restarted coordinator does: on another port, or
  // on the same. Whoever was connected is forgotten; the number of the last report taken is not.
  void restart(bool same_port = false);
  // Gone: nothing answers, and coordinator.json has no living process.
  void die();

  // Receives and answers until `done` or 20 s; false when they have passed. Heartbeats are always
  // answered; the hello with `launch` (or an ack when ranks run), reports with an ack of the last
  // one taken; a report that comes before its predecessor is left for later.
  bool pump(const std::function<bool()>& done);
  void send(const wire::Envelope& message);

  wire::LaunchRanks launch;
  bool deaf = false;  // reports get lost before they are taken
  bool mute = false;  // deaf, and answers nothing at all

  std::vector<wire::AgentHello> hellos;
  std::vector<wire::Report> reports;  // taken: in order, each seq once
  int64_t num_heartbeats = 0;
  int64_t num_lost = 0;  // while deaf

  // Messages of ranks among the reports, of one kind.
  std::vector<wire::RankMessage> messages(wire::RankMessage::BodyCase kind) const;
  std::optional<wire::RankExited> exited(uint32_t rank) const;
  std::optional<wire::AgentDone> done() const;
  // Of a rank that has started; 0 before.
  pid_t rank_pid(uint32_t rank) const;

 private:
  void on_message(const transport::Peer& peer, const wire::Envelope& message);

  std::string state_dir_;
  std::optional<transport::Server> server_;
  std::optional<transport::Peer> agent_;
  std::string endpoint_;
  int instance_ = 0;
};

}  // namespace dsv3::agent::testing
