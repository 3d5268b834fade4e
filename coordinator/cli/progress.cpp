// The live line of `submit --wait`; see progress.h.
#include "coordinator/cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/clock.h"
#include "base/text.h"
#include "coordinator/cli/job_view.h"
#include "coordinator/cli/output.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

constexpr int64_t kPlainIntervalNs = 10'000'000'000;

constexpr int kCells = 20;

std::string bar(int64_t done, int64_t total, int cells) {
  const int full = total > 0 ? static_cast<int>(done * cells / total) : 0;
  return "[" + std::string(static_cast<size_t>(full), '#') +
         std::string(static_cast<size_t>(cells - full), '.') + "] ";
}

// At most `columns` wide (0: no limit), or it could not be drawn over: the bar gives way first.
std::string step_line(const wire::StepMetrics& m, int64_t max_steps, int columns) {
  const double eta_s = m.step_s() * static_cast<double>(std::max<int64_t>(0, max_steps - m.step()));
  const std::string text =
      fmt::format("{:>4}/{}  loss {:.4f}  {} tok/s  eta {}", m.step(), max_steps, m.loss(),
                  with_commas(static_cast<int64_t>(m.tokens_per_s())), human_duration(eta_s));
  if (columns <= 0) return bar(m.step(), max_steps, kCells) + text;
  const int left = columns - 1 - static_cast<int>(text.size()) - 3;
  if (left >= 4) return bar(m.step(), max_steps, std::min(left, kCells)) + text;
  return text.substr(0, static_cast<size_t>(columns - 1));
}

bool can_redraw() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) != 0 && (term == nullptr || std::string_view(term) != "dumb");
}

}  // namespace

Progress::Progress() : terminal_(can_redraw()) {}

void Progress::print_line(const std::string& line, bool live) {
  if (line_open_) std::fputs("\r\033[K", stderr);
  std::fputs(line.c_str(), stderr);
  line_open_ = live;
  if (!live) std::fputc('\n', stderr);
  std::fflush(stderr);
}

void Progress::update(const wire::FollowReply& reply) {
  const wire::JobStatus& job = reply.job();
  // The end is the summary's to tell.
  if (static_cast<int>(job.state()) != shown_state_ &&
      !protocol::is_terminal(static_cast<protocol::JobState>(job.state()))) {
    shown_state_ = static_cast<int>(job.state());
    print_line(fmt::format("{} {}{}", job.id(), state_name(job),
                           job.reason().empty() ? "" : ": " + job.reason()),
               false);
  }
  for (const wire::ValidationRow& row : reply.validations()) {
    print_line(fmt::format("validation at step {}: loss {:.4f}", row.validation().step(),
                           row.validation().loss()),
               false);
  }
  if (reply.metrics().empty()) return;
  const wire::StepMetrics& newest = reply.metrics(reply.metrics_size() - 1).metrics();
  const int64_t now_ns = system_clock().steady_ns();
  if (terminal_) {
    print_line(step_line(newest, job.max_steps(), terminal_columns(STDERR_FILENO)), true);
  } else if (last_print_ns_ == 0 || now_ns - last_print_ns_ >= kPlainIntervalNs ||
             newest.step() == job.max_steps()) {
    last_print_ns_ = now_ns;
    print_line(step_line(newest, job.max_steps(), 0), false);
  }
}

void Progress::finish() {
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

}  // namespace dsv3::cli
