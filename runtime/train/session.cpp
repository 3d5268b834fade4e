// Building a run's parts; see session.h.
#include "runtime/train/session.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "cluster/plan/capability.h"

namespace dsv3::train {

Result<std::unique_ptr<Session>> open_session(const spec::JobSpec& spec,
                                              const comm::Groups* groups) {
  DSV3_RETURN_IF_ERROR(plan::check_runnable(spec));
  auto session = std::make_unique<Session>();
  session->spec = spec;
  if (groups) session->groups = groups;
  if (const int64_t ranks = session->data_ranks(); spec.training.global_batch_size % ranks != 0) {
    return Status(Code::kInvalid,
                  fmt::format("training.global_batch_size {} can't be shared by {} data ranks",
                              spec.training.global_batch_size, ranks),
                  "make it a multiple of them");
  }
  const spec::TrainingSpec& training = spec.training;
  DSV3_ASSIGN_OR_RETURN(data::SampleReader reader,
                        data::SampleReader::open(spec.data, training.seq_length, training.seed,
                                                 spec.model.vocab_size));
  session->reader = std::make_unique<data::SampleReader>(std::move(reader));
  DSV3_ASSIGN_OR_RETURN(session->device, device::open_device(spec.cluster.devices));
  session->arena = std::make_unique<tensor::Arena>(*session->device);
  const model::TransformerOptions options{
      .sequence = training.seq_length,
      .global_sequences = training.global_batch_size,
      .compute = model::compute_dtype(training, *session->device)};
  session->model = std::make_unique<model::Transformer>(spec.model, options, *session->arena);
  session->optimizer =
      std::make_unique<optim::Optimizer>(training, session->model->params(), *session->arena);
  if (session->groups->world) {
    session->gradient_sync = std::make_unique<parallel::GradientSync>(
        session->model->params(), *session->groups,
        parallel::SyncOptions{.num_layers = spec.model.num_layers + spec.model.mtp_layers,
                              .overlap = spec.parallel.overlap_grad_reduce});
  }
  return session;
}

Status read_samples(Session& session, data::Split split, int64_t first, int64_t count) {
  const int64_t row = session.spec.training.seq_length + 1;
  session.tokens.resize(static_cast<size_t>(count * row));
  for (int64_t i = 0; i < count; ++i) {
    const std::span<int32_t> sample(session.tokens.data() + i * row, static_cast<size_t>(row));
    DSV3_RETURN_IF_ERROR(session.reader->read(split, first + i, sample));
  }
  return {};
}

}  // namespace dsv3::train
