// A step and a validation; see step.h.
#include "runtime/train/step.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/clock.h"

namespace dsv3::train {
namespace {

using model::Scalar;

Status check_finite(const StepReport& report) {
  const char* what = !std::isfinite(report.loss)        ? "loss"
                     : !std::isfinite(report.grad_norm) ? "gradient norm"
                                                        : nullptr;
  if (!what) return {};
  return Status(Code::kLossNotFinite,
                fmt::format("the {} of step {} is not finite (loss {}, gradient norm {})", what,
                            report.step, report.loss, report.grad_norm),
                "lower training.learning_rate or resume from an earlier checkpoint");
}

// Forward and backward of this rank's share of the step's samples; the gradients are summed over
// the data ranks. Micro-batches are counted in the global order of samples: rank r has samples [r,
// r + 1) · batch / ranks of the step.
Status accumulate_gradients(Session& session) {
  const spec::TrainingSpec& training = session.spec.training;
  const int64_t share = training.global_batch_size / session.data_ranks();
  const int64_t first =
      session.steps_done * training.global_batch_size + session.data_rank() * share;
  for (int64_t done = 0; done < share; done += training.micro_batch_size) {
    const int64_t count = std::min(training.micro_batch_size, share - done);
    DSV3_RETURN_IF_ERROR(read_samples(session, data::Split::kTrain, first + done, count));
    const bool last = done + count == share;
    session.model->train_micro_batch(session.tokens, last ? session.gradient_sync.get() : nullptr);
  }
  if (session.gradient_sync) session.gradient_sync->finish();
  return {};
}

// Losses and counts of the whole batch, on every rank.
void sum_step_state(Session& session) {
  if (!session.groups->world) return;
  model::StepState& step = session.model->step();
  const ops::Vector<double> scalars = step.scalars();
  const ops::Vector<int64_t> counts = step.all_counts();
  session.groups->world->start_all_reduce("losses", {scalars.data, scalars.size, DType::kF64},
                                          comm::Reduce::kSum);
  session.groups->world->start_all_reduce("expert counts", {counts.data, counts.size, DType::kI64},
                                          comm::Reduce::kSum);
  session.groups->world->wait_all();
}

}  // namespace

Result<StepReport> run_step(Session& session) {
  const int64_t begin_ns = system_clock().steady_ns();
  const int64_t waited_ns = session.groups->wait_ns();
  model::Transformer& model = *session.model;
  model.step().reset();
  model.params().zero_grad();
  DSV3_RETURN_IF_ERROR(accumulate_gradients(session));
  sum_step_state(session);
  StepReport report;
  report.step = session.steps_done + 1;
  report.lr = session.optimizer->update(report.step, model.step());
  model.update_router_bias();
  model.step().read_back();

  const model::StepState& state = model.step();
  report.lm_loss = state.host_scalar(Scalar::kLmLoss);
  report.mtp_loss = state.host_scalar(Scalar::kMtpLoss);
  report.aux_loss = state.host_scalar(Scalar::kAuxLoss);
  report.z_loss = state.host_scalar(Scalar::kZLoss);
  report.grad_norm = state.host_scalar(Scalar::kGradNorm);
  report.loss = report.lm_loss + session.spec.model.mtp_loss_weight * report.mtp_loss +
                report.aux_loss + report.z_loss;
  report.tokens = session.tokens_per_step();
  report.step_s = static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9;
  report.exposed_comm_s = static_cast<double>(session.groups->wait_ns() - waited_ns) * 1e-9;
  report.tokens_per_s = static_cast<double>(report.tokens) / std::max(report.step_s, 1e-9);
  DSV3_RETURN_IF_ERROR(check_finite(report));
  session.steps_done = report.step;
  return report;
}

Result<ValidationReport> run_validation(Session& session) {
  const spec::TrainingSpec& training = session.spec.training;
  model::Transformer& model = *session.model;
  const int64_t wanted = training.eval_batches * training.global_batch_size;
  const int64_t samples = std::min(wanted, session.reader->num_samples(data::Split::kValidation));
  ValidationReport report{.step = session.steps_done,
                          .loss = std::numeric_limits<double>::quiet_NaN(),
                          .tokens = samples * training.seq_length};
  if (samples == 0) return report;
  model.step().reset();
  // The ranks take the micro-batches in turn.
  const int64_t stride = training.micro_batch_size * session.data_ranks();
  for (int64_t done = session.data_rank() * training.micro_batch_size; done < samples;
       done += stride) {
    const int64_t count = std::min(training.micro_batch_size, samples - done);
    DSV3_RETURN_IF_ERROR(read_samples(session, data::Split::kValidation, done, count));
    model.evaluate(session.tokens, 1.0 / static_cast<double>(report.tokens));
  }
  sum_step_state(session);
  model.step().read_back();
  report.loss = model.step().host_scalar(Scalar::kLmLoss);
  return report;
}

}  // namespace dsv3::train
