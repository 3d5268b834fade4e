// Running a module alone and on ranks; see module_run.h.
#include "tests/unit/runtime/model/module_run.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/device/device.h"
#include "runtime/model/rope_tables.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/comm/shared_floats.h"

namespace dsv3::model {
namespace {

constexpr size_t kScalars = 5;

std::vector<float> flatten(const Outcome& o) {
  std::vector<float> all{static_cast<float>(o.loss), static_cast<float>(o.tensor_forward),
                         static_cast<float>(o.tensor_backward),
                         static_cast<float>(o.context_forward),
                         static_cast<float>(o.context_backward)};
  for (const auto* part : {&o.y, &o.dx, &o.grads})
    all.insert(all.end(), part->begin(), part->end());
  return all;
}

void add(std::vector<float>& to, const float* from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

plan::Layout layout_of(const ModuleCase& c) {
  plan::Layout layout;
  layout.tp = c.tp, layout.cp = c.cp;
  return layout;
}

}  // namespace

std::string name_of(const ModuleCase& c) {
  return fmt::format("TP{} CP{}, {} × {}{}{}{}", c.tp, c.cp, c.sequences, c.sequence,
                     c.dtype == DType::kBf16 ? ", bf16" : "",
                     c.direct_query ? ", direct query" : "",
                     c.recompute == Recompute::kSelective ? ", selective" : "");
}

spec::ModelSpec ModuleRun::model_of(const ModuleCase& c) {
  spec::ModelSpec model;
  model.vocab_size = 60;
  model.num_layers = 1;
  model.d_model = 48;
  model.num_heads = 12;
  model.dense_intermediate_size = 36;
  model.max_context_length = 64;
  model.mtp_layers = 1;
  model.init_std = 0.3;
  model.mla = {.kv_lora_rank = 16,
               .q_lora_rank = 24,
               .qk_nope_head_dim = 8,
               .qk_rope_head_dim = 4,
               .v_head_dim = 8};
  if (c.direct_query) model.mla.q_lora_rank.reset();
  model.moe.num_experts = 0;
  return model;
}

ModuleRun::ModuleRun(const ModuleCase& c, const comm::Groups& groups)
    : case_(c), groups_(groups), model_(model_of(c)) {
  auto device = device::open_device("cpu");
  DSV3_CHECK(device.ok());
  device_ = std::move(device).value();
  arena_ = std::make_unique<tensor::Arena>(*device_);
  params_ = std::make_unique<ParamStore>(
      model_, *arena_,
      StoreOptions{.compute = c.dtype, .cut = groups.layout, .position = groups.position});
  params_->initialise(7);
  pass_ = std::make_unique<Pass>(Pass{.arena = *arena_,
                                      .ctx = arena_->context(),
                                      .act = c.dtype,
                                      .sequences = c.sequences,
                                      .sequence = c.sequence,
                                      .groups = &groups,
                                      .recompute = c.recompute});
  positions_ = token_positions(c.sequence, pass_->cp(), groups.position.cp_rank);
  const RopeTables tables = rope_tables(model_.mla, c.sequence);
  const int64_t half = model_.mla.qk_rope_head_dim / 2;
  cos_ = arena_->persistent("test", DType::kF32, {pass_->gathered_sequence() * half});
  sin_ = arena_->persistent("test", DType::kF32, {pass_->gathered_sequence() * half});
  for (size_t i = 0; i < positions_.size(); ++i) {
    std::copy_n(tables.cos.data() + positions_[i] * half, half,
                cos_.as<float>() + static_cast<int64_t>(i) * half);
    std::copy_n(tables.sin.data() + positions_[i] * half, half,
                sin_.as<float>() + static_cast<int64_t>(i) * half);
  }
  loss_ = arena_->persistent("test", DType::kF64, {1});
}

int64_t ModuleRun::row_of(int64_t sequence, int64_t gathered) const {
  return sequence * case_.sequence + positions_[static_cast<size_t>(gathered)];
}

tensor::Tensor ModuleRun::rows(uint64_t seed, int64_t cols, double scale) {
  const tensor::Tensor t = pass_->push("test", cols);
  const CounterRng rng(seed, 1);
  const int64_t local = pass_->local_sequence(), first = groups_.position.tp_rank * local;
  for (int64_t r = 0; r < t.shape[0]; ++r) {
    const int64_t row = row_of(r / local, first + r % local);
    for (int64_t c = 0; c < cols; ++c) {
      const float value =
          rng.normal(static_cast<uint64_t>(row * cols + c)) * static_cast<float>(scale);
      if (case_.dtype == DType::kF32) {
        t.as<float>()[r * cols + c] = value;
      } else {
        t.as<Bf16>()[r * cols + c] = Bf16(value);
      }
    }
  }
  return t;
}

ops::Vector<const int32_t> ModuleRun::ids(uint64_t seed, int64_t bound, bool gaps) {
  const tensor::Tensor t = pass_->push_i32("test", {pass_->gathered_tokens()});
  const CounterRng rng(seed, 2);
  const int64_t gathered = pass_->gathered_sequence();
  for (int64_t i = 0; i < t.num_elements(); ++i) {
    const int64_t row = row_of(i / gathered, i % gathered);
    const auto drawn = rng.below(static_cast<uint64_t>(row), static_cast<uint64_t>(bound));
    t.as<int32_t>()[i] = gaps && row % 7 == 3 ? -1 : static_cast<int32_t>(drawn);
  }
  return t.vector<const int32_t>();
}

std::vector<float> ModuleRun::spread(const tensor::Tensor& rows) const {
  const int64_t cols = rows.shape[1], local = pass_->local_sequence();
  const int64_t first = groups_.position.tp_rank * local;
  std::vector<float> whole(static_cast<size_t>(case_.sequences * case_.sequence * cols));
  for (int64_t r = 0; r < rows.shape[0]; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      whole[static_cast<size_t>(row_of(r / local, first + r % local) * cols + c)] =
          rows.dtype == DType::kF32 ? rows.as<float>()[r * cols + c]
                                    : static_cast<float>(rows.as<Bf16>()[r * cols + c]);
    }
  }
  return whole;
}

void ModuleRun::forward_done() {
  if (groups_.tensor) outcome_.tensor_forward = groups_.tensor->traffic().bytes_sent;
  if (groups_.context) outcome_.context_forward = groups_.context->traffic().bytes_sent;
}

Outcome ModuleRun::finish() {
  const ParamLayout whole = param_layout(model_);
  outcome_.grads.assign(static_cast<size_t>(whole.elements), 0.0f);
  for (const ParamSlice& slice : params_->layout().slices) {
    const auto at = std::find_if(whole.slices.begin(), whole.slices.end(),
                                 [&](const auto& s) { return s.info.name == slice.info.name; });
    const float* from = params_->grad().as<float>() + slice.offset;
    for (int64_t r = 0; r < slice.box.rows; ++r) {
      std::copy_n(
          from + r * slice.box.cols, slice.box.cols,
          outcome_.grads.begin() + at->offset + (slice.box.row + r) * at->box.cols + slice.box.col);
    }
  }
  outcome_.loss = *loss();
  if (groups_.tensor)
    outcome_.tensor_backward = groups_.tensor->traffic().bytes_sent - outcome_.tensor_forward;
  if (groups_.context)
    outcome_.context_backward = groups_.context->traffic().bytes_sent - outcome_.context_forward;
  return std::move(outcome_);
}

Outcome run_alone(const ModuleCase& c, const ModuleBody& body) {
  omp_set_num_threads(1);
  ModuleRun run(c, comm::Groups::alone());
  body(run);
  return run.finish();
}

Outcome run_on_ranks(const ModuleCase& c, const ModuleBody& body) {
  const int world = static_cast<int>(c.tp * c.cp);
  Outcome sum = run_alone(c, body);  // for the sizes; zeroed
  for (auto* part : {&sum.y, &sum.dx, &sum.grads}) std::fill(part->begin(), part->end(), 0.0f);
  sum.loss = 0;
  const size_t count = kScalars + sum.y.size() + sum.dx.size() + sum.grads.size();
  comm::SharedFloats shared(count * static_cast<size_t>(world));
  const std::string rendezvous = comm::unique_rendezvous();
  comm::all_ranks(world, [&](int rank) {
    const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
    const comm::RankGroups groups(*mesh, layout_of(c), false);
    ModuleRun run(c, groups.groups());
    body(run);
    const std::vector<float> flat = flatten(run.finish());
    comm::expect(flat.size() == count, "a rank left another number of values");
    std::copy(flat.begin(), flat.end(), shared.data() + static_cast<size_t>(rank) * count);
  });
  for (int rank = 0; rank < world; ++rank) {
    const float* from = shared.data() + static_cast<size_t>(rank) * count;
    sum.loss += static_cast<double>(from[0]);
    int64_t* bytes[] = {&sum.tensor_forward, &sum.tensor_backward, &sum.context_forward,
                        &sum.context_backward};
    for (size_t i = 0; i < 4; ++i)
      *bytes[i] = std::max(*bytes[i], static_cast<int64_t>(from[1 + i]));
    from += kScalars;
    for (auto* part : {&sum.y, &sum.dx, &sum.grads}) {
      add(*part, from);
      from += part->size();
    }
  }
  return sum;
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected,
                 double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0, worst = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(double{value}));
  for (size_t i = 0; i < actual.size(); ++i) {
    const double off = std::abs(double{actual[i]} - double{expected[i]});
    worst = std::isnan(off) ? INFINITY : std::max(worst, off);
  }
  EXPECT_LE(worst, tolerance * largest) << what << ", largest " << largest;
  EXPECT_TRUE(expected.empty() || largest > 0) << what << " is zero";
}

}  // namespace dsv3::model
