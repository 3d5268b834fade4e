// The loop around the steps: restore, train, validate, save, report; see trainer.h.
#include "runtime/train/trainer.h"

#include "base/log.h"
#include "configs/spec/counts.h"
#include "runtime/train/checkpointing.h"
#include "runtime/train/peak.h"
#include "runtime/train/step.h"

namespace dsv3::train {
namespace {

// What the loop carries beside the session.
struct Loop {
  Session& session;
  const TrainOptions& options;
  TrainObserver& observer;
  TrainStart start;
  TrainSummary summary;
  int64_t saved_step = -1;      // last checkpoint
  int64_t validated_step = -1;  // last validation
};

std::string compute_dtype_text(const Session& session) {
  const DType dtype = session.model->params().compute_dtype();
  if (session.spec.training.dtype == "bf16" && dtype == DType::kF32) {
    return "f32 (bf16 was asked for; f32 is faster on this processor)";
  }
  return dtype_name(dtype);
}

TrainStart describe(const Session& session) {
  const spec::FlopsPerToken flops =
      spec::flops_per_token(session.spec.model, session.spec.training.seq_length);
  TrainStart start;
  start.first_step = session.steps_done;
  start.max_steps = session.spec.training.max_steps;
  start.params_total = session.model->params().layout().parameters;
  start.device = session.device->description();
  start.compute_dtype = compute_dtype_text(session);
  start.flops_per_token = flops.total_with_mtp;
  start.peak_flops_per_s =
      measure_peak_flops_per_s(*session.arena, session.model->params().compute_dtype());
  start.unigram_entropy = session.reader->unigram_entropy();
  return start;
}

Status save(Loop& loop) {
  if (loop.options.checkpoint_dir.empty() || loop.saved_step == loop.session.steps_done) return {};
  DSV3_ASSIGN_OR_RETURN(const CheckpointReport report, save_checkpoint(loop.session, loop.options));
  loop.saved_step = loop.session.steps_done;
  loop.observer.on_checkpoint(report);
  return {};
}

Status validate(Loop& loop) {
  if (loop.validated_step == loop.session.steps_done) return {};
  DSV3_ASSIGN_OR_RETURN(const ValidationReport report, run_validation(loop.session));
  loop.validated_step = loop.session.steps_done;
  if (report.tokens == 0) return {};
  loop.summary.validation_loss = report.loss;
  loop.observer.on_validation(report);
  return {};
}

void report_memory(Loop& loop) {
  std::vector<MemoryEntry> entries;
  for (const tensor::LedgerEntry& entry : loop.session.arena->ledger().entries()) {
    entries.push_back({entry.name, entry.peak_bytes});
  }
  loop.observer.on_memory(entries);
}

void report_step(Loop& loop, StepReport report) {
  const Session& session = loop.session;
  report.memory_bytes = session.arena->ledger().peak_bytes();
  if (loop.start.peak_flops_per_s > 0) {
    report.mfu = report.tokens_per_s * loop.start.flops_per_token / loop.start.peak_flops_per_s;
  }
  if (loop.summary.steps == 0) loop.summary.first_loss = report.loss;
  ++loop.summary.steps;
  loop.summary.last_loss = report.loss;
  loop.observer.on_step(report);
  const int64_t interval = session.spec.logging.expert_stats_interval_steps;
  if (interval <= 0 || report.step % interval != 0) return;
  for (int64_t i = 0; i < session.model->num_moe_layers(); ++i) {
    loop.observer.on_expert_counts(report.step, session.model->moe_layer(i),
                                   session.model->step().host_counts(i));
  }
}

bool is_due(int64_t interval_steps, int64_t step) {
  return interval_steps > 0 && step % interval_steps == 0;
}

Status run_loop(Loop& loop) {
  Session& session = loop.session;
  const spec::JobSpec& spec = session.spec;
  while (session.steps_done < spec.training.max_steps) {
    if (loop.observer.stop_requested()) {
      loop.summary.stopped = true;
      return save(loop);
    }
    DSV3_ASSIGN_OR_RETURN(const StepReport report, run_step(session));
    if (loop.summary.steps == 0) session.arena->compact();
    report_step(loop, report);
    if (loop.summary.steps == 1) report_memory(loop);
    if (is_due(spec.training.eval_interval_steps, session.steps_done))
      DSV3_RETURN_IF_ERROR(validate(loop));
    const bool asked = loop.observer.checkpoint_requested();
    if (asked || is_due(spec.checkpoint.interval_steps, session.steps_done))
      DSV3_RETURN_IF_ERROR(save(loop));
  }
  // The checkpoint first: a fault in the validation data must not lose the run.
  DSV3_RETURN_IF_ERROR(save(loop));
  DSV3_RETURN_IF_ERROR(validate(loop));
  report_memory(loop);
  return {};
}

}  // namespace

Result<TrainSummary> train(const TrainOptions& options, TrainObserver& observer) {
  DSV3_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, open_session(options.spec));
  std::string path;
  DSV3_RETURN_IF_ERROR(restore_checkpoint(*session, options, &path));
  Loop loop{*session, options, observer, describe(*session), {}};
  if (!path.empty()) {
    log::info("resumed from {} at step {}", path, session->steps_done);
    const std::string& own = options.checkpoint_dir;
    if (!own.empty() && path.starts_with(own + "/")) loop.saved_step = session->steps_done;
  }
  observer.on_start(loop.start);
  DSV3_RETURN_IF_ERROR(run_loop(loop));
  return loop.summary;
}

}  // namespace dsv3::train
