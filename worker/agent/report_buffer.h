// ReportBuffer: the agent's reports in order, kept until the coordinator has acknowledged that they
// are stored.
//
// Law: nothing is lost while the coordinator is away, and nothing is told twice as something new:
// every report has a number from 1, an acknowledgement covers all up to its number, and what is not
// covered is sent again after a reconnect.
#pragma once

#include <cstdint>
#include <memory>

#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::wire {
class AgentReports;
class Report;
}  // namespace dsv3::wire

namespace dsv3::agent {

class ReportBuffer {
 public:
  ReportBuffer();
  ~ReportBuffer();
  ReportBuffer(const ReportBuffer&) = delete;
  ReportBuffer& operator=(const ReportBuffer&) = delete;

  // Numbers the report and keeps it.
  void push(wire::Report report);
  // Forgets every report up to and including `seq`; returns how many those were.
  int64_t acknowledge(uint64_t seq);
  // The coordinator may have lost what was sent: everything kept is unsent again.
  void resend_all();
  // Appends unsent reports in order to `batch`: at most count_max, and bytes_max together unless
  // the first alone is larger. Returns how many; they stay unsent until mark_sent().
  int64_t fill(wire::AgentReports* batch, int64_t count_max, int64_t bytes_max) const;
  void mark_sent(int64_t count);
  // Takes the body from the first unsent report, which can't be sent with it. Its number stays: the
  // coordinator takes no report after a gap.
  void empty_first_unsent();

  bool empty() const;  // everything is acknowledged
  bool has_unsent() const;
  bool has_sent() const;  // something was sent and is not acknowledged
  int64_t kept_bytes() const;
  uint64_t next_seq() const;  // of the next push()

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dsv3::agent
