// Live progress of one job on stderr: one line redrawn on a terminal, else a line now and then.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::cli {

class Progress {
 public:
  Progress();
  // Takes one follow reply: new steps, validations, a new state.
  void update(const wire::FollowReply& reply);
  // Ends the live line.
  void finish();

 private:
  void print_line(const std::string& line, bool live);

  bool terminal_;
  bool line_open_ = false;
  int shown_state_ = 0;
  int64_t last_print_ns_ = 0;
};

}  // namespace dsv3::cli
