// Building a run's parts; see session.h.
#include "runtime/train/session.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "cluster/plan/layout.h"

namespace dsv3::train {

namespace {

// Whether the job can be cut like this. With one stage the last micro-batch of a step may be
// smaller than the others; stages agree on one size.
Status check_cut(const spec::JobSpec& spec, const comm::Groups& groups) {
  const spec::TrainingSpec& training = spec.training;
  const int64_t ranks = groups.data_ranks();
  if (training.global_batch_size % ranks != 0) {
    return Status(Code::kInvalid,
                  fmt::format("training.global_batch_size {} can't be shared by {} data ranks",
                              training.global_batch_size, ranks),
                  "make it a multiple of them");
  }
  plan::Layout layout = groups.layout;
  layout.micro_batch = layout.pp > 1 ? training.micro_batch_size : 1;
  layout.grad_accumulation = training.global_batch_size / (ranks * layout.micro_batch);
  const std::string fault = plan::check_layout(spec, layout, 0);
  if (!fault.empty()) return Status(Code::kInvalid, fault);
  if (groups.world && (layout.zero_stage > 2 || (layout.zero_stage == 2 && layout.pp > 1))) {
    return Status(Code::kInvalid,
                  fmt::format("ZeRO stage {} is not run{}", layout.zero_stage,
                              layout.zero_stage == 2 ? " with a pipeline: its micro-batches overlap"
                                                     : ": weights are not cut over the data ranks"),
                  "set parallel.zero_stage to 1");
  }
  return {};
}

model::Recompute recompute_of(const spec::JobSpec& spec, const plan::Layout& layout) {
  switch (std::max(plan::recompute_level(layout.recompute),
                   plan::recompute_level(spec.parallel.recompute))) {
    case 2:
      return model::Recompute::kFull;
    case 1:
      return model::Recompute::kSelective;
    default:
      return model::Recompute::kNone;
  }
}

}  // namespace

Result<std::unique_ptr<Session>> open_session(const spec::JobSpec& spec,
                                              const comm::Groups* groups) {
  auto session = std::make_unique<Session>();
  session->spec = spec;
  if (groups) session->groups = groups;
  DSV3_RETURN_IF_ERROR(check_cut(spec, *session->groups));
  const spec::TrainingSpec& training = spec.training;
  DSV3_ASSIGN_OR_RETURN(data::SampleReader reader,
                        data::SampleReader::open(spec.data, training.seq_length, training.seed,
                                                 spec.model.vocab_size));
  session->reader = std::make_unique<data::SampleReader>(std::move(reader));
  DSV3_ASSIGN_OR_RETURN(session->device, device::open_device(spec.cluster.devices));
  session->arena = std::make_unique<tensor::Arena>(*session->device);
  const plan::Layout& layout = session->groups->layout;
  const parallel::SyncOptions sync{.num_layers = spec.model.num_layers + spec.model.mtp_layers,
                                   .overlap = spec.parallel.overlap_grad_reduce,
                                   .zero_stage = layout.zero_stage};
  model::TransformerOptions options{.sequence = training.seq_length,
                                    .global_sequences = training.global_batch_size,
                                    .compute = model::compute_dtype(training, *session->device),
                                    .groups = session->groups,
                                    .recompute = recompute_of(spec, layout),
                                    .overlap_experts = spec.parallel.overlap_expert_exchange};
  options.master = parallel::master_of(spec.model, *session->groups, sync, options.compute);
  session->model = std::make_unique<model::Transformer>(spec.model, options, *session->arena);
  session->pipeline = std::make_unique<parallel::Pipeline>(*session->model);
  model::ParamStore& params = session->model->params();
  if (session->groups->world) {
    session->gradient_sync =
        std::make_unique<parallel::GradientSync>(params, *session->groups, sync);
  }
  const parallel::Ownership ownership = session->gradient_sync
                                            ? session->gradient_sync->ownership()
                                            : parallel::Ownership::whole(params.layout());
  session->optimizer =
      std::make_unique<optim::Optimizer>(training, params, ownership, *session->arena);
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
