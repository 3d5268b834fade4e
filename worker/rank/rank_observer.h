// RankObserver: what the training loop says → lines on stdout and reports on the link; what the
// agent or a signal asks → the loop.
//
// Law: no call waits. Only global rank 0 speaks for the job (metrics, expert counts, validation);
// every rank reports its own memory. Without a link (standalone) the lines are all there is.
#pragma once

#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "cluster/plan/plan.h"
#include "coordinator/protocol/wire_fwd.h"
#include "runtime/train/trainer.h"
#include "worker/link/reporter.h"
#include "worker/rank/step_line.h"

namespace dsv3::rank {

struct ObserverOptions {
  int64_t rank = 0;
  int64_t log_interval_steps = 1;
  int64_t attempt = 1;
  std::string metrics_path;                 // rank 0 appends a JSON object a step; "": none
  int64_t num_moe_layers = 0;               // layers whose counts make one step's report
  std::vector<plan::LedgerLine> predicted;  // of the plan, for the memory report; may be empty
};

class RankObserver final : public train::TrainObserver {
 public:
  // `reporter` may be null (standalone); it and `stop_signal` (0 until a signal came) outlive the
  // observer.
  RankObserver(ObserverOptions options, link::Reporter* reporter,
               const volatile std::sig_atomic_t* stop_signal);
  ~RankObserver() override;

  void on_start(const train::TrainStart& start) override;
  void on_step(const train::StepReport& report) override;
  void on_validation(const train::ValidationReport& report) override;
  void on_expert_counts(int64_t step, int64_t layer, std::span<const int64_t> counts) override;
  void on_checkpoint(const train::CheckpointReport& report) override;
  void on_note(const std::string& text) override;
  void on_memory(const std::vector<train::MemoryEntry>& entries) override;
  bool stop_requested() override;
  bool checkpoint_requested() override;

  int64_t last_step() const { return last_step_; }

 private:
  bool speaks() const { return reporter_ != nullptr && options_.rank == 0; }
  // A log that can't be written (a full disk) costs lines, never the training; it is said once.
  void print(const std::string& line);
  void flush_counts();
  void append_metrics(const train::StepReport& report);

  ObserverOptions options_;
  link::Reporter* reporter_;
  const volatile std::sig_atomic_t* stop_signal_;
  StepLines lines_;
  bool log_cut_ = false;   // the last line went in part
  bool log_lost_ = false;  // a line was lost, and it was said
  bool metrics_lost_ = false;
  int64_t last_step_ = 0;
  int64_t arena_peak_bytes_ = 0;
  std::unique_ptr<wire::ExpertCounts> counts_;  // of the step being collected
};

// Joins the arena's names with the plan's lines by their first part ("activations/attention/q"
// counts to "activations"): measured and predicted bytes of each, predicted first; 0 where one side
// doesn't know the name. Names under "transient" take turns, so the sum of their peaks says
// nothing: with arena_peak_bytes known, "transient" is what the other names leave of it, and the
// measured bytes sum to the arena's peak.
struct MemoryLine {
  std::string name;
  int64_t predicted_bytes = 0;
  int64_t measured_bytes = 0;
  bool operator==(const MemoryLine&) const = default;
};
std::vector<MemoryLine> join_memory(const std::vector<plan::LedgerLine>& predicted,
                                    const std::vector<train::MemoryEntry>& measured,
                                    int64_t arena_peak_bytes = 0);

}  // namespace dsv3::rank
