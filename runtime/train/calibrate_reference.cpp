// Steps of a reference model beside the sum of their ops as measured alone: what ops take longer
// inside a step (caches that other ops filled, threads that slept, a machine that is never quite
// quiet), and what is outside of ops; see calibrate.h.
//
// Law: the model is this file's own and no preset; its sizes lie between the grids' lines, so that
// interpolation has its part in the comparison.
#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "configs/spec/job_spec.h"
#include "runtime/model/transformer.h"
#include "runtime/optim/adamw.h"
#include "runtime/train/calibrate_bench.h"

namespace dsv3::train {
namespace {

constexpr int kWarmup = 2, kSteps = 3;

spec::JobSpec reference_job(DType dtype, int64_t sequences, int64_t sequence) {
  spec::JobSpec job;
  spec::ModelSpec& model = job.model;
  model.vocab_size = 4096;
  model.num_layers = 4;
  model.d_model = 320;
  model.num_heads = 5;
  model.dense_intermediate_size = 960;
  model.max_context_length = 384;
  model.mla = {.kv_lora_rank = 80,
               .q_lora_rank = 160,
               .qk_nope_head_dim = 64,
               .qk_rope_head_dim = 32,
               .v_head_dim = 64};
  model.moe.num_experts = 12;
  model.moe.num_experts_per_token = 3;
  model.moe.expert_intermediate_size = 240;
  model.moe.num_shared_experts = 1;
  model.moe.first_k_dense = 1;
  model.moe.router_aux_loss_weight = 1e-4;
  job.training.global_batch_size = 2 * sequences;
  job.training.micro_batch_size = sequences;
  job.training.seq_length = sequence;
  job.training.dtype = dtype == DType::kF32 ? "fp32" : "bf16";
  job.parallel.data_parallel_size = 1;
  return job;
}

// A step of random tokens, as run_step() has it, without a data set.
class Reference {
 public:
  Reference(device::Device& device, DType dtype, int64_t sequences, int64_t sequence)
      : job_(reference_job(dtype, sequences, sequence)),
        arena_(device),
        model_(job_.model,
               {.sequence = job_.training.seq_length,
                .global_sequences = job_.training.global_batch_size,
                .compute = dtype},
               arena_),
        optimizer_(job_.training, model_.params(), arena_) {
    model_.params().initialise(1);
    const CounterRng rng(2, name_key("tokens"));
    const spec::TrainingSpec& training = job_.training;
    tokens_.resize(static_cast<size_t>(training.global_batch_size * (training.seq_length + 1)));
    for (size_t i = 0; i < tokens_.size(); ++i) {
      tokens_[i] = static_cast<int32_t>(rng.below(i, static_cast<uint64_t>(job_.model.vocab_size)));
    }
  }

  void step() {
    const spec::TrainingSpec& training = job_.training;
    const auto part = static_cast<size_t>(training.micro_batch_size * (training.seq_length + 1));
    model_.step().reset();
    model_.params().zero_grad();
    for (size_t at = 0; at < tokens_.size(); at += part)
      model_.train_micro_batch(std::span(tokens_).subspan(at, part));
    optimizer_.add_squared_norm(model_.step());
    optimizer_.update(++number_, model_.step());
    model_.update_router_bias();
    model_.step().read_back();
    if (number_ == 1) arena_.compact();
  }
  // The lower quartile of some steps, and the sum of its calls by what they take alone.
  plan::ReferenceStep measure(comm::Communicator* group, int steps,
                              const plan::CalibrationSet& set) {
    std::vector<double> times;
    const int warmup = number_ == 0 ? kWarmup : 1;
    for (int i = 0; i < warmup + steps; ++i) {
      if (group != nullptr) group->barrier("calibrate");
      const int64_t begin_ns = system_clock().steady_ns();
      step();
      if (i >= warmup)
        times.push_back(static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9);
    }
    std::nth_element(times.begin(), times.begin() + steps / 4, times.end());
    plan::ReferenceStep result{.measured_s = times[static_cast<size_t>(steps / 4)]};
    plan::Layout layout;
    layout.zero_stage = 0;
    layout.micro_batch = job_.training.micro_batch_size;
    layout.grad_accumulation = job_.training.global_batch_size / layout.micro_batch;
    const plan::Curves curves(set);
    for (const plan::StepOp& op : plan::step_ops(job_, layout)) {
      result.alone_s += op.calls * curves.seconds(op);
      result.calls += op.calls;
    }
    return result;
  }

 private:
  spec::JobSpec job_;
  tensor::Arena arena_;
  model::Transformer model_;
  optim::Optimizer optimizer_;
  std::vector<int32_t> tokens_;
  int64_t number_ = 0;
};

}  // namespace

plan::InStep measure_in_step(device::Device& device, comm::Communicator* group, DType dtype,
                             int rounds, const plan::CalibrationSet& set) {
  // Few tokens make small calls, so that what each costs can be told from what it takes. In rounds,
  // as ops are: a burst of other work would go into every prediction.
  Reference many(device, dtype, 2, 384), few(device, dtype, 1, 96);
  plan::ReferenceStep large = many.measure(group, kSteps, set);
  plan::ReferenceStep small = few.measure(group, kSteps, set);
  for (int round = 1; round < rounds; ++round) {
    large.measured_s = std::min(large.measured_s, many.measure(group, kSteps, set).measured_s);
    small.measured_s = std::min(small.measured_s, few.measure(group, kSteps, set).measured_s);
  }
  return plan::fit_in_step(large, small);
}

}  // namespace dsv3::train
