// The live line of `submit --wait`; see progress.h.
#include "coordinator/cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "base/text.h"
#include "coordinator/cli/job_view.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

constexpr int64_t kPlainIntervalNs = 10'000'000'000;

std::string bar(int64_t done, int64_t total) {
  constexpr int kCells = 20;
  const int full = total > 0 ? static_cast<int>(done * kCells / total) : 0;
  return "[" + std::string(static_cast<size_t>(full), '#') +
         std::string(static_cast<size_t>(kCells - full), '.') + "]";
}

std::string step_line(const wire::StepMetrics& m, int64_t max_steps) {
  const double eta_s = m.step_s() * static_cast<double>(std::max<int64_t>(0, max_steps - m.step()));
  return fmt::format("{} {:>4}/{}  loss {:.4f}  {} tok/s  eta {}", bar(m.step(), max_steps),
                     m.step(), max_steps, m.loss(),
                     with_commas(static_cast<int64_t>(m.tokens_per_s())), human_duration(eta_s));
}

}  // namespace

Progress::Progress() : terminal_(::isatty(STDERR_FILENO) != 0) {}

void Progress::print_line(const std::string& line, bool live) {
  if (line_open_) std::fputs("\r\033[K", stderr);
  std::fputs(line.c_str(), stderr);
  line_open_ = live;
  if (!live) std::fputc('\n', stderr);
  std::fflush(stderr);
}

void Progress::update(const wire::FollowReply& reply) {
  const wire::JobStatus& job = reply.job();
  if (static_cast<int>(job.state()) != shown_state_) {
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
    print_line(step_line(newest, job.max_steps()), true);
  } else if (last_print_ns_ == 0 || now_ns - last_print_ns_ >= kPlainIntervalNs ||
             newest.step() == job.max_steps()) {
    last_print_ns_ = now_ns;
    print_line(step_line(newest, job.max_steps()), false);
  }
}

void Progress::finish() {
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

}  // namespace dsv3::cli
