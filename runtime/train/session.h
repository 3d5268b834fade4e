// Session: what a training run holds: device, memory, model, optimizer, data, and how far it is.
//
// Law: the state of a run is the parameters, both moments, the routers' biases and the number of
// finished steps; everything else follows from the spec. checkpointing.h saves and restores
// exactly that, so a resumed run goes on bit for bit.
#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "configs/spec/job_spec.h"
#include "runtime/comm/groups.h"
#include "runtime/data/sample_reader.h"
#include "runtime/device/device.h"
#include "runtime/model/transformer.h"
#include "runtime/optim/adamw.h"
#include "runtime/parallel/gradient_sync.h"
#include "runtime/parallel/pipeline.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

struct Session {
  spec::JobSpec spec;
  std::unique_ptr<device::Device> device;
  std::unique_ptr<tensor::Arena> arena;
  std::unique_ptr<model::Transformer> model;
  std::unique_ptr<parallel::Pipeline> pipeline;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::unique_ptr<data::SampleReader> reader;
  int64_t steps_done = 0;

  // The ranks of the layout; outlives the session.
  const comm::Groups* groups = &comm::Groups::alone();
  std::unique_ptr<parallel::GradientSync> gradient_sync;  // where gradients are summed over ranks

  std::vector<int32_t> tokens;  // host: one micro-batch, [micro_batch_size, seq_length + 1]

  // Global samples per step, and tokens that they hold.
  int64_t samples_per_step() const { return spec.training.global_batch_size; }
  int64_t tokens_per_step() const { return samples_per_step() * spec.training.seq_length; }
  // Which share of the samples this rank trains on, and how many there are.
  int64_t data_rank() const { return groups->data_rank(); }
  int64_t data_ranks() const { return groups->data_ranks(); }
  // Rank 0 of the job: it chooses what to go on from, publishes and reports.
  bool leads() const { return groups->world == nullptr || groups->world->rank() == 0; }
};

// Opens device and data and builds the model; its weights are zero until they are restored or
// drawn: params().initialise(). `groups` (null: this rank alone) outlives the session; its layout
// says how the model is cut, its schedule and its ZeRO stage. kInvalid for a layout that the job
// can't be cut in (plan::check_layout()), or bad data; kDevice for a device that is not there;
// throws Failure when memory runs out.
Result<std::unique_ptr<Session>> open_session(const spec::JobSpec& spec,
                                              const comm::Groups* groups = nullptr);

// Reads `count` samples from `first` on into session.tokens.
Status read_samples(Session& session, data::Split split, int64_t first, int64_t count);

}  // namespace dsv3::train
