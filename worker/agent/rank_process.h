// RankProcess: one rank as a child of the agent: started, listened to, asked to end, made to end,
// reaped.
//
// Law: a rank leads its own session, dies with its agent, and is reaped exactly once; what it said
// before it ended is read to the last byte before its end is reported. A signal of ours is told
// from one of somebody else's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"
#include "worker/link/channel.h"

namespace dsv3::agent {

struct RankLaunch {
  uint32_t rank = 0;
  std::vector<std::string> argv;  // without --link-fd
  std::vector<std::pair<std::string, std::string>> env;
  std::string working_dir;
  std::string log_path;  // stdout and stderr
};

struct RankEnd {
  int exit_code = 0;      // 128 + signal when killed
  int signal = 0;         // 0: it exited
  bool by_agent = false;  // the signal was kill()'s
};

class RankProcess {
 public:
  static Result<RankProcess> start(const RankLaunch& launch);

  uint32_t rank() const { return rank_; }
  pid_t pid() const { return pid_; }
  bool alive() const { return !end_.has_value(); }
  link::Channel& channel() { return channel_; }

  // Reads every whole message there is. A malformed stream is logged and closed; the rank goes on.
  void read(const std::function<void(wire::RankMessage)>& on_message);
  // RankStop by the link, or SIGTERM where the link is closed.
  void ask_to_end(bool checkpoint, const std::string& reason);
  void ask_for_checkpoint();
  // SIGKILL to its whole process group.
  void kill();
  // The end, once, when it has ended and was not reaped before.
  std::optional<RankEnd> reap();

 private:
  uint32_t rank_ = 0;
  pid_t pid_ = 0;
  link::Channel channel_;
  bool killed_ = false;
  std::optional<RankEnd> end_;
};

// Processes that ranks had started and that outlived them: they are this process's children once it
// is their reaper (become_reaper). Kills and reaps; true when none is left. To be called when every
// rank has been reaped.
bool end_orphans();
Status become_reaper();

}  // namespace dsv3::agent
