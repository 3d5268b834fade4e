// The loop around the steps: restore, train, validate, save, report; see trainer.h.
#include "runtime/train/trainer.h"

#include <malloc.h>

#include <fmt/core.h>

#include "base/log.h"
#include "configs/spec/counts.h"
#include "runtime/train/agreement.h"
#include "runtime/train/checkpoint_writer.h"
#include "runtime/train/checkpointing.h"
#include "runtime/train/peak.h"
#include "runtime/train/rank_text.h"
#include "runtime/train/step.h"

namespace dsv3::train {
namespace {

// What the loop carries beside the session.
struct Loop {
  Session& session;
  const TrainOptions& options;
  TrainObserver& observer;
  CheckpointWriter& writer;
  TrainStart start;
  TrainSummary summary;
  int64_t validated_step = -1;  // last validation
};

std::string compute_dtype_text(const Session& session) {
  const DType dtype = session.model->params().compute_dtype();
  if (session.spec.training.dtype == "bf16" && dtype == DType::kF32) {
    return "f32 (bf16 was asked for; f32 is faster on this processor)";
  }
  return dtype_name(dtype);
}

TrainStart describe(Session& session) {
  const spec::FlopsPerToken flops =
      spec::flops_per_token(session.spec.model, session.spec.training.seq_length);
  TrainStart start;
  start.first_step = session.steps_done;
  start.max_steps = session.spec.training.max_steps;
  const spec::ParamCounts counts = spec::count_params(session.spec.model);
  start.params_total = counts.total + counts.mtp;
  start.device = session.device->description();
  if (session.groups->world) {
    start.device += fmt::format(" on {} ranks", session.groups->world->size());
  }
  start.compute_dtype = compute_dtype_text(session);
  start.flops_per_token = flops.total_with_mtp;
  // All ranks measure at once, because they share cores when they train too.
  start.peak_flops_per_s = sum_over_ranks(
      session, measure_peak_flops_per_s(*session.arena, session.model->params().compute_dtype()));
  start.unigram_entropy = session.reader->unigram_entropy();
  return start;
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
    Requests asked{.stop = loop.observer.stop_requested()};
    // Before the first step there is nothing to save; the request stays.
    if (session.steps_done > 0) asked.checkpoint = loop.observer.checkpoint_requested();
    asked = agree_on_requests(session, asked);
    if (asked.stop) {
      loop.summary.stopped = true;
      return loop.writer.finish();
    }
    if (asked.checkpoint) DSV3_RETURN_IF_ERROR(loop.writer.save());
    DSV3_ASSIGN_OR_RETURN(const StepReport report, run_step(session));
    session.arena->compact();  // nothing to do but where a step was higher than all before
    report_step(loop, report);
    if (loop.summary.steps == 1) report_memory(loop);
    if (is_due(spec.training.eval_interval_steps, session.steps_done))
      DSV3_RETURN_IF_ERROR(validate(loop));
    DSV3_RETURN_IF_ERROR(loop.writer.collect());
    if (is_due(spec.checkpoint.interval_steps, session.steps_done))
      DSV3_RETURN_IF_ERROR(loop.writer.save());
  }
  // The checkpoint first: a fault in the validation data must not lose the run.
  DSV3_RETURN_IF_ERROR(loop.writer.finish());
  DSV3_RETURN_IF_ERROR(validate(loop));
  report_memory(loop);
  return {};
}

// Chooses and restores a checkpoint, or draws the weights; gives the checkpoint's path, or "". What
// fails on one rank fails on all.
Result<std::string> begin_state(Session& session, const TrainOptions& options,
                                TrainObserver& observer) {
  comm::Communicator* world = session.groups->world;
  Result<std::string> chosen = std::string();
  if (session.leads()) chosen = choose_checkpoint(session, options, observer);
  Status status = chosen.ok() ? Status() : chosen.status();
  if (world) status = broadcast_status(*world, "choosing a checkpoint", status);
  DSV3_RETURN_IF_ERROR(status);
  std::string path = share_text(session, *chosen);
  if (path.empty()) {
    session.model->params().initialise(session.spec.training.seed);
    return path;
  }
  status = restore_from(session, path);
  if (world) status = agree(*world, "reading a checkpoint", status);
  DSV3_RETURN_IF_ERROR(status);
  log::info("resumed from {} at step {}", path, session.steps_done);
  return path;
}

}  // namespace

Result<TrainSummary> train(const TrainOptions& options, TrainObserver& observer) {
  DSV3_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                        open_session(options.spec, options.groups));
  DSV3_ASSIGN_OR_RETURN(const std::string path, begin_state(*session, options, observer));
  ::malloc_trim(0);  // what weights were drawn or read through: as much as the largest of them
  wait_for_rank_0(*session, "reading a checkpoint");  // each reads at its disk's pace
  const std::string& own = options.checkpoint_dir;
  const bool is_own = !path.empty() && !own.empty() && path.starts_with(own + "/");
  CheckpointWriter writer(*session, options, observer, is_own ? session->steps_done : -1);
  Loop loop{*session, options, observer, writer, describe(*session), {}};
  observer.on_start(loop.start);
  const Status status = run_loop(loop);
  writer.settle();
  DSV3_RETURN_IF_ERROR(status);
  return loop.summary;
}

}  // namespace dsv3::train
