// Pipeline: runs a step's micro-batches through this rank's stage of the model in the order of its
// schedule, and passes activations and their gradients between the stages.
//
// Laws: (1) what happens, and in which order, is plan::stage_actions() and nothing else: the
// planner times the list that runs here. (2) What a stage needs is asked for before it is needed:
// a receive is posted an action ahead, and a send is waited for only when its buffer is next
// written. (3) A micro-batch's memory is a stack of its own (tensor/arena.h): as many as the
// schedule has in flight, made once. A model of one stage takes the same way, one micro-batch
// after the other.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/plan/schedule.h"
#include "runtime/comm/groups.h"
#include "runtime/model/transformer.h"
#include "runtime/parallel/gradient_sync.h"

namespace dsv3::parallel {

// Where micro-batches come from; the same on all stages.
class MicroBatchSource {
 public:
  virtual ~MicroBatchSource() = default;
  virtual int64_t num_micro_batches() const = 0;
  // At most those of micro-batch 0.
  virtual int64_t sequences(int64_t micro_batch) const = 0;
  // Samples [sequences, sequence + 1], valid until the next call. Asked for only where ids or
  // labels are read.
  virtual Result<std::span<const int32_t>> read(int64_t micro_batch) = 0;
};

// When an action was begun, had what it needed, and was done (steady clock).
struct ActionTime {
  plan::Action action;
  int64_t begin_ns = 0;
  int64_t ready_ns = 0;
  int64_t end_ns = 0;
};

class Pipeline {
 public:
  // The schedule is groups' layout's. What it is given outlives it.
  explicit Pipeline(model::Transformer& model);

  // Forward and backward of all micro-batches: adds to gradients, losses and counts. `sync` (may be
  // null) hears which layers' gradients are final, and is not finished here. Collective over the
  // stages. Throws Failure.
  Status train(MicroBatchSource& source, GradientSync* sync);
  // Adds lm_loss · scale of all micro-batches to the step's kLmLoss, on the last stage; touches
  // nothing else. Collective over the stages, and over all ranks that compute a micro-batch
  // together. Throws Failure.
  Status evaluate(MicroBatchSource& source, double scale);

  // Notes the times of train()'s actions, from its next call on (cleared each time); null: nothing.
  void record_into(std::vector<ActionTime>* times) { times_ = times; }
  const plan::PipelineShape& shape() const { return shape_; }
  // What this stage does for so many micro-batches.
  std::vector<plan::Action> actions(int64_t micro_batches) const;

 private:
  static constexpr size_t kHiddenBuffers = 2;    // one in use, one on its way
  static constexpr size_t kGradientBuffers = 3;  // one coming, one in use, one going

  // A [tokens, d_model] act buffer, and what was last sent from it.
  struct Buffer {
    tensor::Tensor data;
    comm::Ticket sent = 0;
  };
  // Something that a neighbour sends, in the order in which it is needed.
  struct Arrival {
    int32_t micro_batch = 0;
    size_t buffer = 0;
    // The action before which it may not be asked for: it is not needed soon, or the buffer is in
    // use.
    size_t earliest = 0;
    comm::Ticket ticket = 0;
    std::string name;
  };
  struct Arrivals {
    std::vector<Arrival> list;
    size_t asked = 0;
    size_t used = 0;
  };
  // An action with what is known of it beforehand.
  struct Planned {
    plan::Action action;
    std::string name;
    size_t slot = 0;
    size_t hidden = 0, gradient = 0;  // its buffers
    bool last = false;                // of its chunk: its gradients are final after it
  };

  void plan_for(int64_t micro_batches);
  void plan_slots();
  void plan_arrivals();
  bool receives(const plan::Action& action) const;
  bool sends(const plan::Action& action) const;
  tensor::Tensor rows(const Buffer& buffer, int64_t micro_batch, MicroBatchSource& source) const;
  void push_buffers(int64_t sequences);
  void ask(size_t action, MicroBatchSource& source);
  void ask(comm::Communicator* group, Arrivals* arrivals, std::span<Buffer> buffers, int peer,
           size_t action, MicroBatchSource& source);
  void arrive(comm::Communicator* group, Arrivals* arrivals);
  void send(comm::Communicator* group, const Planned& planned, Buffer* buffer,
            const tensor::Tensor& data, int64_t step);
  Status run(size_t index, MicroBatchSource& source, GradientSync* sync);
  Status run_forward(const Planned& planned, MicroBatchSource& source);
  void run_backward(const Planned& planned, MicroBatchSource& source, GradientSync* sync);
  void run_weight(const Planned& planned, MicroBatchSource& source, GradientSync* sync);
  int peer(int64_t step) const;
  void wait_for_sends();

  model::Transformer& model_;
  const comm::Groups& groups_;
  plan::PipelineShape shape_;
  int64_t stage_ = 0;
  std::vector<Planned> planned_;  // of shape_.micro_batches
  Arrivals hidden_arrivals_, gradient_arrivals_;
  std::vector<model::MicroBatch> slots_;
  std::array<Buffer, kHiddenBuffers> received_, produced_;
  std::array<Buffer, kGradientBuffers> gradients_;
  std::vector<ActionTime>* times_ = nullptr;
  int64_t ready_ns_ = 0;
};

}  // namespace dsv3::parallel
