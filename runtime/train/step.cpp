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

// This rank's share of some samples, in micro-batches; what is behind the last sample is nothing
// (tokens of −1), so that ranks which compute together have as many micro-batches.
class Samples final : public parallel::MicroBatchSource {
 public:
  struct Range {
    data::Split split = data::Split::kTrain;
    int64_t first = 0;   // of micro-batch 0
    int64_t stride = 0;  // from one micro-batch's first sample to the next one's
    int64_t end = 0;
    int64_t micro_batches = 0;
  };
  Samples(Session& session, const Range& range) : session_(session), range_(range) {}

  int64_t num_micro_batches() const override { return range_.micro_batches; }
  int64_t sequences(int64_t micro_batch) const override {
    return std::max<int64_t>(1, here(micro_batch));
  }
  Result<std::span<const int32_t>> read(int64_t micro_batch) override {
    if (here(micro_batch) < 1) {
      session_.tokens.assign(static_cast<size_t>(session_.spec.training.seq_length + 1), -1);
    } else {
      const int64_t first = range_.first + micro_batch * range_.stride;
      DSV3_RETURN_IF_ERROR(read_samples(session_, range_.split, first, here(micro_batch)));
    }
    return std::span<const int32_t>(session_.tokens);
  }

 private:
  int64_t here(int64_t micro_batch) const {
    return std::min(session_.spec.training.micro_batch_size,
                    range_.end - range_.first - micro_batch * range_.stride);
  }

  Session& session_;
  Range range_;
};

// Forward and backward of this rank's share of the step's samples; the gradients are summed over
// the ranks that have the same parameters. Micro-batches are counted in the global order of
// samples: data rank r has samples [r, r + 1) · batch / ranks of the step, whatever the layout.
Status accumulate_gradients(Session& session) {
  const spec::TrainingSpec& training = session.spec.training;
  const int64_t share = training.global_batch_size / session.data_ranks();
  const int64_t size = training.micro_batch_size;
  const int64_t first =
      session.steps_done * training.global_batch_size + session.data_rank() * share;
  Samples samples(session, {.split = data::Split::kTrain,
                            .first = first,
                            .stride = size,
                            .end = first + share,
                            .micro_batches = (share + size - 1) / size});
  DSV3_RETURN_IF_ERROR(session.pipeline->train(samples, session.gradient_sync.get()));
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
  session.optimizer->add_squared_norm(model.step());
  sum_step_state(session);
  StepReport report;
  report.step = session.steps_done + 1;
  report.lr = session.optimizer->update(report.step, model.step());
  if (session.gradient_sync) session.gradient_sync->gather_parameters();
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
  report.dropped = std::llround(state.host_scalar(Scalar::kDropped));
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
  // The data ranks take the micro-batches in turn, all as many.
  const int64_t size = training.micro_batch_size, stride = size * session.data_ranks();
  Samples source(session, {.split = data::Split::kValidation,
                           .first = session.data_rank() * size,
                           .stride = stride,
                           .end = samples,
                           .micro_batches = (samples + stride - 1) / stride});
  DSV3_RETURN_IF_ERROR(
      session.pipeline->evaluate(source, 1.0 / static_cast<double>(report.tokens)));
  sum_step_state(session);
  model.step().read_back();
  report.loss = model.step().host_scalar(Scalar::kLmLoss);
  return report;
}

}  // namespace dsv3::train
