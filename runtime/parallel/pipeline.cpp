// The schedule's executor; see pipeline.h.
#include "runtime/parallel/pipeline.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace dsv3::parallel {
namespace {

using plan::Action;
using plan::ActionKind;

bool is_forward(const Action& action) {
  return action.kind == ActionKind::kForward;
}
// Whether it gives the stage before its gradient.
bool is_backward(const Action& action) {
  return action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardInput;
}

std::string name_of(const Action& action) {
  const char* what = is_forward(action)    ? "forward"
                     : is_backward(action) ? "backward"
                                           : "weight gradients";
  return fmt::format("{} of micro-batch {}, chunk {}", what, action.micro_batch, action.chunk);
}

plan::PipelineShape shape_of(const plan::Layout& layout, int64_t chunks) {
  plan::PipelineShape shape{.stages = layout.pp, .chunks = chunks};
  // With one stage there is no bubble to fill: every schedule is one micro-batch after the other.
  if (layout.pp == 1) return shape;
  const auto kind = plan::schedule_kind(layout.schedule);
  DSV3_CHECK(kind.has_value(), layout.schedule);
  shape.schedule = *kind;
  return shape;
}

comm::Buffer buffer_of(const tensor::Tensor& t) {
  return {t.data, t.num_elements(), t.dtype};
}

}  // namespace

Pipeline::Pipeline(model::Transformer& model)
    : model_(model),
      groups_(model.groups()),
      shape_(shape_of(groups_.layout, model.stage().num_chunks())),
      stage_(groups_.position.pp_stage) {
  shape_.micro_batches = 0;  // nothing is planned yet
}

std::vector<Action> Pipeline::actions(int64_t micro_batches) const {
  plan::PipelineShape shape = shape_;
  shape.micro_batches = micro_batches;
  return plan::stage_actions(shape, stage_);
}

bool Pipeline::receives(const Action& action) const {
  if (is_forward(action)) return !model_.stage().is_first(action.chunk);
  return is_backward(action) && !model_.stage().is_last(action.chunk);
}
bool Pipeline::sends(const Action& action) const {
  if (is_forward(action)) return !model_.stage().is_last(action.chunk);
  return is_backward(action) && !model_.stage().is_first(action.chunk);
}

int Pipeline::peer(int64_t step) const {
  return static_cast<int>((stage_ + step + shape_.stages) % shape_.stages);
}

void Pipeline::plan_for(int64_t micro_batches) {
  if (shape_.micro_batches == micro_batches) return;
  planned_.clear();
  for (const Action& action : actions(micro_batches)) {
    planned_.push_back({.action = action,
                        .name = name_of(action),
                        .last = action.micro_batch + 1 == micro_batches});
  }
  plan_slots();
  plan_arrivals();
  shape_.micro_batches = micro_batches;
}

// A micro-batch on a chunk takes the lowest free slot from its forward to the last of its backward.
void Pipeline::plan_slots() {
  std::map<std::pair<int32_t, int32_t>, size_t> slot_of, ends;
  for (size_t i = 0; i < planned_.size(); ++i)
    ends[{planned_[i].action.micro_batch, planned_[i].action.chunk}] = i;
  std::vector<bool> taken;
  for (size_t i = 0; i < planned_.size(); ++i) {
    Planned& planned = planned_[i];
    const std::pair key{planned.action.micro_batch, planned.action.chunk};
    if (is_forward(planned.action)) {
      const auto free = std::find(taken.begin(), taken.end(), false);
      slot_of[key] = static_cast<size_t>(free - taken.begin());
      if (free == taken.end()) taken.push_back(true);
      taken[slot_of[key]] = true;
    }
    planned.slot = slot_of.at(key);
    if (ends.at(key) == i) taken[planned.slot] = false;
  }
  while (slots_.size() < taken.size()) {
    slots_.push_back(model_.stage().make_micro_batch());
    slots_.back().stack = tensor::Arena::kMain + slots_.size() - 1;
  }
}

// Which buffer each action has, and from when on what it needs may be asked for.
void Pipeline::plan_arrivals() {
  hidden_arrivals_.list.clear();
  gradient_arrivals_.list.clear();
  std::vector<size_t> received, backwards;  // actions
  size_t produced = 0;
  for (size_t i = 0; i < planned_.size(); ++i) {
    Planned& planned = planned_[i];
    Arrival arrival{.micro_batch = planned.action.micro_batch, .name = planned.name};
    // Not before its neighbour can be near: its deadline runs from when it is asked for.
    arrival.earliest = i > 0 ? i - 1 : 0;
    if (is_forward(planned.action)) {
      if (sends(planned.action)) planned.hidden = produced++ % kHiddenBuffers;
      if (!receives(planned.action)) continue;
      const size_t k = received.size();
      arrival.buffer = k % kHiddenBuffers;
      if (k >= kHiddenBuffers)
        arrival.earliest = std::max(arrival.earliest, received[k - kHiddenBuffers] + 1);
      hidden_arrivals_.list.push_back(std::move(arrival));
      received.push_back(i);
    } else if (is_backward(planned.action)) {
      const size_t k = backwards.size();
      planned.gradient = arrival.buffer = k % kGradientBuffers;
      // Not as soon as the buffer's last gradient is made: that is on its way for an action more.
      if (k + 1 >= kGradientBuffers)
        arrival.earliest = std::max(arrival.earliest, backwards[k + 1 - kGradientBuffers] + 1);
      backwards.push_back(i);
      if (receives(planned.action)) gradient_arrivals_.list.push_back(std::move(arrival));
    }
  }
}

tensor::Tensor Pipeline::rows(const Buffer& buffer, int64_t micro_batch,
                              MicroBatchSource& source) const {
  tensor::Tensor part = buffer.data;
  const int64_t tokens = model_.make_pass(source.sequences(micro_batch), true).tokens();
  DSV3_CHECK(tokens <= part.shape[0], "micro-batch 0 is the largest");
  part.shape = {tokens, part.shape[1]};
  return part;
}

void Pipeline::push_buffers(int64_t sequences) {
  const model::Pass pass = model_.make_pass(sequences, true);
  const auto push = [&](std::span<Buffer> buffers, const char* name) {
    for (Buffer& buffer : buffers) buffer = {pass.push(name, model_.d_model())};
  };
  if (shape_.stages == 1) {
    push(std::span(gradients_).first(1), "transient/residual");
    for (Buffer& buffer : gradients_) buffer = gradients_[0];
    return;
  }
  push(received_, "transient/pipeline");
  push(produced_, "transient/pipeline");
  push(gradients_, "transient/pipeline");
}

void Pipeline::ask(size_t action, MicroBatchSource& source) {
  ask(groups_.forward, &hidden_arrivals_, received_, peer(-1), action, source);
  ask(groups_.backward, &gradient_arrivals_, gradients_, peer(1), action, source);
}

void Pipeline::ask(comm::Communicator* group, Arrivals* arrivals, std::span<Buffer> buffers,
                   int peer, size_t action, MicroBatchSource& source) {
  while (arrivals->asked < arrivals->list.size()) {
    Arrival& next = arrivals->list[arrivals->asked];
    if (next.earliest > action) return;
    Buffer& buffer = buffers[next.buffer];
    group->wait(buffer.sent);
    next.ticket =
        group->start_receive(next.name, buffer_of(rows(buffer, next.micro_batch, source)), peer);
    ++arrivals->asked;
  }
}

void Pipeline::arrive(comm::Communicator* group, Arrivals* arrivals) {
  group->wait(arrivals->list[arrivals->used++].ticket);
}

void Pipeline::send(comm::Communicator* group, const Planned& planned, Buffer* buffer,
                    const tensor::Tensor& data, int64_t step) {
  buffer->sent = group->start_send(planned.name, buffer_of(data), peer(step));
}

Status Pipeline::run_forward(const Planned& planned, MicroBatchSource& source) {
  const auto [kind, micro_batch, chunk] = planned.action;
  model::MicroBatch& slot = slots_[planned.slot];
  std::span<const int32_t> tokens;
  if (model_.stage().reads_tokens(chunk)) {
    DSV3_ASSIGN_OR_RETURN(tokens, source.read(micro_batch));
  }
  tensor::Tensor x, y;
  if (receives(planned.action)) {
    const Arrival& arrival = hidden_arrivals_.list[hidden_arrivals_.used];
    x = rows(received_[arrival.buffer], micro_batch, source);
    arrive(groups_.forward, &hidden_arrivals_);
  }
  Buffer& produced = produced_[planned.hidden];
  if (sends(planned.action)) {
    groups_.forward->wait(produced.sent);
    y = rows(produced, micro_batch, source);
  }
  ready_ns_ = times_ ? system_clock().steady_ns() : 0;
  const model::Pass pass = model_.make_pass(source.sequences(micro_batch), true);
  const tensor::OnStack stack(pass.arena, slot.stack);
  model_.stage().forward(pass, chunk, tokens, x, y, slot);
  if (sends(planned.action)) send(groups_.forward, planned, &produced, y, 1);
  return {};
}

void Pipeline::run_backward(const Planned& planned, MicroBatchSource& source, GradientSync* sync) {
  const auto [kind, micro_batch, chunk] = planned.action;
  model::MicroBatch& slot = slots_[planned.slot];
  Buffer& gradient = gradients_[planned.gradient];
  if (receives(planned.action)) {
    arrive(groups_.backward, &gradient_arrivals_);
  } else if (groups_.backward) {
    groups_.backward->wait(gradient.sent);
  }
  ready_ns_ = times_ ? system_clock().steady_ns() : 0;
  if (sync) sync->begin_micro_batch(planned.last);
  model::Pass pass = model_.make_pass(source.sequences(micro_batch), true);
  pass.observer = sync;
  const tensor::Tensor dh = rows(gradient, micro_batch, source);
  const tensor::OnStack stack(pass.arena, slot.stack);
  model_.stage().backward(
      pass, chunk, dh,
      kind == ActionKind::kBackward ? model::WeightGrad::kNow : model::WeightGrad::kLater, slot);
  if (!slot.deferred) model_.stage().release(pass, slot);
  if (sends(planned.action)) send(groups_.backward, planned, &gradient, dh, -1);
}

void Pipeline::run_weight(const Planned& planned, MicroBatchSource& source, GradientSync* sync) {
  model::MicroBatch& slot = slots_[planned.slot];
  ready_ns_ = times_ ? system_clock().steady_ns() : 0;
  if (!slot.deferred) return;
  if (sync) sync->begin_micro_batch(planned.last);
  model::Pass pass = model_.make_pass(source.sequences(planned.action.micro_batch), true);
  pass.observer = sync;
  const tensor::OnStack stack(pass.arena, slot.stack);
  model_.stage().backward_weight(pass, planned.action.chunk, slot);
  model_.stage().release(pass, slot);
}

Status Pipeline::run(size_t index, MicroBatchSource& source, GradientSync* sync) {
  const Planned& planned = planned_[index];
  const int64_t begin_ns = times_ ? system_clock().steady_ns() : 0;
  if (shape_.stages > 1) ask(index, source);
  if (is_forward(planned.action)) {
    DSV3_RETURN_IF_ERROR(run_forward(planned, source));
  } else if (is_backward(planned.action)) {
    run_backward(planned, source, sync);
  } else {
    run_weight(planned, source, sync);
  }
  if (times_) {
    times_->push_back({planned.action, begin_ns, ready_ns_, system_clock().steady_ns()});
  }
  return {};
}

void Pipeline::wait_for_sends() {
  if (shape_.stages == 1) return;
  groups_.forward->wait_all();
  groups_.backward->wait_all();
}

Status Pipeline::train(MicroBatchSource& source, GradientSync* sync) {
  plan_for(source.num_micro_batches());
  const tensor::Scope scope(model_.arena());
  push_buffers(source.sequences(0));
  for (Arrivals* arrivals : {&hidden_arrivals_, &gradient_arrivals_})
    arrivals->asked = arrivals->used = 0;
  if (times_) times_->clear();
  for (size_t i = 0; i < planned_.size(); ++i) DSV3_RETURN_IF_ERROR(run(i, source, sync));
  wait_for_sends();
  return {};
}

// One micro-batch after the other through all chunks: nothing has to be quick here.
Status Pipeline::evaluate(MicroBatchSource& source, double scale) {
  const tensor::Scope scope(model_.arena());
  if (slots_.empty()) slots_.push_back(model_.stage().make_micro_batch());
  if (shape_.stages > 1) push_buffers(source.sequences(0));
  for (int64_t m = 0; m < source.num_micro_batches(); ++m) {
    for (int32_t chunk = 0; chunk < shape_.chunks; ++chunk) {
      const Action action{ActionKind::kForward, static_cast<int32_t>(m), chunk};
      const tensor::Scope one(model_.arena());
      const model::Pass pass = model_.make_pass(source.sequences(m), false);
      std::span<const int32_t> tokens;
      if (model_.stage().reads_tokens(chunk)) {
        DSV3_ASSIGN_OR_RETURN(tokens, source.read(m));
      }
      model_.stage().begin(pass, chunk, tokens, slots_[0]);
      tensor::Tensor x, y;
      if (receives(action)) {
        x = rows(received_[0], m, source);
        groups_.forward->receive("hidden states of validation", buffer_of(x), peer(-1));
      }
      const tensor::Tensor out = model_.stage().forward_only(pass, chunk, x, slots_[0]);
      if (!sends(action)) {
        model_.stage().add_lm_loss(pass, out, scale, slots_[0]);
        continue;
      }
      Buffer& buffer = produced_[0];
      groups_.forward->wait(buffer.sent);
      y = rows(buffer, m, source);
      ops::cast(pass.ctx, {.x = out, .y = y});
      buffer.sent =
          groups_.forward->start_send("hidden states of validation", buffer_of(y), peer(1));
    }
  }
  wait_for_sends();
  return {};
}

}  // namespace dsv3::parallel
