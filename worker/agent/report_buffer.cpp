// A deque with a cursor; see report_buffer.h.
#include "worker/agent/report_buffer.h"

#include <algorithm>
#include <deque>

#include "base/check.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::agent {

struct ReportBuffer::State {
  struct Kept {
    wire::Report report;
    int64_t bytes;
  };
  std::deque<Kept> kept;  // in order of seq; the first `sent` were sent
  int64_t sent = 0;
  int64_t bytes = 0;
  uint64_t next_seq = 1;
};

ReportBuffer::ReportBuffer() : state_(std::make_unique<State>()) {}
ReportBuffer::~ReportBuffer() = default;

void ReportBuffer::push(wire::Report report) {
  report.set_seq(state_->next_seq++);
  const int64_t bytes = static_cast<int64_t>(report.ByteSizeLong());
  state_->bytes += bytes;
  state_->kept.push_back({std::move(report), bytes});
}

int64_t ReportBuffer::acknowledge(uint64_t seq) {
  int64_t count = 0;
  while (!state_->kept.empty() && state_->kept.front().report.seq() <= seq) {
    state_->bytes -= state_->kept.front().bytes;
    state_->kept.pop_front();
    state_->sent = std::max<int64_t>(0, state_->sent - 1);
    ++count;
  }
  return count;
}

void ReportBuffer::resend_all() {
  state_->sent = 0;
}

int64_t ReportBuffer::fill(wire::AgentReports* batch, int64_t count_max, int64_t bytes_max) const {
  int64_t count = 0;
  int64_t bytes = 0;
  const int64_t kept = static_cast<int64_t>(state_->kept.size());
  for (int64_t i = state_->sent; i < kept && count < count_max; ++i) {
    const State::Kept& next = state_->kept[static_cast<size_t>(i)];
    bytes += next.bytes;
    if (count > 0 && bytes > bytes_max) break;
    *batch->add_reports() = next.report;
    ++count;
  }
  return count;
}

void ReportBuffer::mark_sent(int64_t count) {
  state_->sent += count;
  DSV3_CHECK(state_->sent <= static_cast<int64_t>(state_->kept.size()));
}

void ReportBuffer::empty_first_unsent() {
  DSV3_CHECK(has_unsent());
  State::Kept& first = state_->kept[static_cast<size_t>(state_->sent)];
  first.report.clear_body();
  state_->bytes -= first.bytes;
  first.bytes = static_cast<int64_t>(first.report.ByteSizeLong());
  state_->bytes += first.bytes;
}

bool ReportBuffer::empty() const {
  return state_->kept.empty();
}
bool ReportBuffer::has_unsent() const {
  return state_->sent < static_cast<int64_t>(state_->kept.size());
}
bool ReportBuffer::has_sent() const {
  return state_->sent > 0;
}
int64_t ReportBuffer::kept_bytes() const {
  return state_->bytes;
}
uint64_t ReportBuffer::next_seq() const {
  return state_->next_seq;
}

}  // namespace dsv3::agent
