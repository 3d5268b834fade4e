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
#include "runtime/comm/communicator.h"
#include "runtime/data/sample_reader.h"
#include "runtime/device/device.h"
#include "runtime/model/transformer.h"
#include "runtime/optim/adamw.h"
#include "runtime/parallel/gradient_sync.h"
#include "runtime/train/trainer.h"

namespace dsv3::train {

struct Session {
  spec::JobSpec spec;
  std::unique_ptr<device::Device> device;
  std::unique_ptr<tensor::Arena> arena;
  std::unique_ptr<model::Transformer> model;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::unique_ptr<data::SampleReader> reader;
  int64_t steps_done = 0;

  // The ranks that train the same parameters on other samples; null: this one alone.
  comm::Communicator* data_group = nullptr;
  std::unique_ptr<parallel::GradientSync> gradient_sync;  // with a data_group
  // Spent waiting for other ranks, ever.
  int64_t comm_wait_ns() const {
    return data_group ? data_group->traffic().wait_ns + gradient_sync->wait_ns() : 0;
  }

  std::vector<int32_t> tokens;  // host: one micro-batch, [micro_batch_size, seq_length + 1]

  // Global samples per step, and tokens that they hold.
  int64_t samples_per_step() const { return spec.training.global_batch_size; }
  int64_t tokens_per_step() const { return samples_per_step() * spec.training.seq_length; }
  // This rank among those of data_group, and their number.
  int64_t data_rank() const { return data_group ? data_group->rank() : 0; }
  int64_t data_ranks() const { return data_group ? data_group->size() : 1; }
};

// Opens device and data and builds the model; its weights are zero until they are restored or
// drawn: params().initialise(). `group` outlives the session. kInvalid for a
// batch that its ranks can't share evenly, or bad data; kDevice for a device that is not there;
// throws Failure when memory runs out.
Result<std::unique_ptr<Session>> open_session(const spec::JobSpec& spec,
                                              const DataGroup& group = {});

// Reads `count` samples from `first` on into session.tokens.
Status read_samples(Session& session, data::Split split, int64_t first, int64_t count);

}  // namespace dsv3::train
