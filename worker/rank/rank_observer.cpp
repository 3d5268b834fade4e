// See rank_observer.h.
#include "worker/rank/rank_observer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::rank {

RankObserver::RankObserver(ObserverOptions options, link::Reporter* reporter,
                           const volatile std::sig_atomic_t* stop_signal)
    : options_(std::move(options)),
      reporter_(reporter),
      stop_signal_(stop_signal),
      counts_(std::make_unique<wire::ExpertCounts>()) {}

RankObserver::~RankObserver() {
  flush_counts();
}

void RankObserver::print(const std::string& line) {
  if (options_.rank != 0) return;
  // A line that was cut off is ended first.
  const std::string text = (log_cut_ ? "\n" : "") + line + "\n";
  size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (done > 0) log_cut_ = error != 0;
  if (error == 0 || std::exchange(log_lost_, true)) return;
  on_note(
      fmt::format("the log of rank 0 can't be written: {}; training goes on, its steps are in "
                  "`dsv3ctl metrics`",
                  std::strerror(error)));
}

void RankObserver::on_start(const train::TrainStart& start) {
  last_step_ = start.first_step;
  print(lines_.start(start));
  if (reporter_ == nullptr) return;
  reporter_->set_progress(start.first_step, "training");
  if (!speaks()) return;
  wire::RankMessage message;
  wire::TrainStart* said = message.mutable_start();
  said->set_first_step(start.first_step);
  said->set_max_steps(start.max_steps);
  said->set_params_total(start.params_total);
  said->set_device(start.device);
  said->set_compute_dtype(start.compute_dtype);
  said->set_flops_per_token(start.flops_per_token);
  said->set_peak_flops_per_s(start.peak_flops_per_s);
  said->set_unigram_entropy(start.unigram_entropy);
  reporter_->send(std::move(message));
}

void RankObserver::on_step(const train::StepReport& report) {
  flush_counts();
  last_step_ = report.step;
  arena_peak_bytes_ = report.memory_bytes;
  const std::string line = lines_.step(report);
  append_metrics(report);
  const int64_t interval = options_.log_interval_steps;
  if (interval > 0 && report.step % interval == 0) print(line);
  if (reporter_ == nullptr) return;
  reporter_->set_progress(report.step, "training");
  if (!speaks()) return;
  wire::RankMessage message;
  wire::StepMetrics* step = message.mutable_step();
  step->set_step(report.step);
  step->set_loss(report.loss);
  step->set_lm_loss(report.lm_loss);
  step->set_mtp_loss(report.mtp_loss);
  step->set_aux_loss(report.aux_loss);
  step->set_z_loss(report.z_loss);
  step->set_grad_norm(report.grad_norm);
  step->set_lr(report.lr);
  step->set_tokens(report.tokens);
  step->set_step_s(report.step_s);
  step->set_tokens_per_s(report.tokens_per_s);
  step->set_mfu(report.mfu);
  step->set_memory_bytes(report.memory_bytes);
  step->set_dropped(report.dropped);
  reporter_->send(std::move(message));
}

// A file that can't be written costs its lines, as the log does.
void RankObserver::append_metrics(const train::StepReport& report) {
  if (options_.metrics_path.empty() || options_.rank != 0) return;
  std::ofstream file(options_.metrics_path, std::ios::app);
  file << metrics_line(options_.attempt, report) << "\n";
  file.close();
  if (file || std::exchange(metrics_lost_, true)) return;
  log::warning("{} can't be written; training goes on", options_.metrics_path);
}

void RankObserver::on_validation(const train::ValidationReport& report) {
  print(lines_.validation(report));
  if (!speaks()) return;
  wire::RankMessage message;
  message.mutable_validation()->set_step(report.step);
  message.mutable_validation()->set_loss(report.loss);
  message.mutable_validation()->set_tokens(report.tokens);
  reporter_->send(std::move(message));
}

void RankObserver::on_expert_counts(int64_t step, int64_t layer, std::span<const int64_t> counts) {
  if (!speaks()) return;
  if (counts_->step() != step) flush_counts();
  counts_->set_step(step);
  wire::LayerCounts* item = counts_->add_layers();
  item->set_layer(static_cast<int32_t>(layer));
  item->mutable_tokens()->Reserve(static_cast<int>(counts.size()));
  for (const int64_t count : counts) item->add_tokens(static_cast<uint64_t>(count));
  if (counts_->layers_size() == options_.num_moe_layers) flush_counts();
}

void RankObserver::flush_counts() {
  if (!speaks() || counts_->layers_size() == 0) return;
  wire::RankMessage message;
  message.mutable_experts()->Swap(counts_.get());
  counts_->Clear();
  reporter_->send(std::move(message));
}

void RankObserver::on_checkpoint(const train::CheckpointReport& report) {
  print(StepLines::checkpoint(report));
  if (!speaks()) return;
  wire::RankMessage message;
  wire::Checkpoint* done = message.mutable_checkpoint_done();
  done->set_step(report.step);
  done->set_path(report.path);
  done->set_bytes(report.bytes);
  done->set_seconds(report.seconds);
  reporter_->send(std::move(message));
}

void RankObserver::on_note(const std::string& text) {
  if (!speaks()) return;
  wire::RankMessage message;
  message.mutable_note()->set_text(text);
  message.mutable_note()->set_warning(true);
  reporter_->send(std::move(message));
}

void RankObserver::on_memory(const std::vector<train::MemoryEntry>& entries) {
  if (reporter_ == nullptr) return;
  wire::RankMessage message;
  for (const MemoryLine& line : join_memory(options_.predicted, entries, arena_peak_bytes_)) {
    wire::MemoryEntry* entry = message.mutable_memory()->add_entries();
    entry->set_name(line.name);
    entry->set_predicted_bytes(line.predicted_bytes);
    entry->set_measured_bytes(line.measured_bytes);
  }
  if (message.has_memory()) reporter_->send(std::move(message));
}

bool RankObserver::stop_requested() {
  if (*stop_signal_ != 0) return true;
  return reporter_ != nullptr && reporter_->stop_requested();
}

bool RankObserver::checkpoint_requested() {
  return reporter_ != nullptr && reporter_->take_checkpoint_request();
}

std::vector<MemoryLine> join_memory(const std::vector<plan::LedgerLine>& predicted,
                                    const std::vector<train::MemoryEntry>& measured,
                                    int64_t arena_peak_bytes) {
  std::vector<MemoryLine> lines;
  const auto line_of = [&lines](const std::string& name) -> MemoryLine& {
    for (MemoryLine& line : lines) {
      if (line.name == name) return line;
    }
    lines.push_back({name});
    return lines.back();
  };
  for (const plan::LedgerLine& entry : predicted)
    line_of(entry.name).predicted_bytes += entry.bytes;
  for (const train::MemoryEntry& entry : measured) {
    line_of(entry.name.substr(0, entry.name.find('/'))).measured_bytes += entry.peak_bytes;
  }
  if (arena_peak_bytes > 0) {
    int64_t others = 0;
    for (const MemoryLine& line : lines)
      others += line.name == "transient" ? 0 : line.measured_bytes;
    line_of("transient").measured_bytes = std::max<int64_t>(0, arena_peak_bytes - others);
  }
  return lines;
}

}  // namespace dsv3::rank
