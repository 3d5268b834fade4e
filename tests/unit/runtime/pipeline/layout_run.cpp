// See layout_run.h.
#include "tests/unit/runtime/pipeline/layout_run.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/parallel/gradient_sync.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::parallel::testing_support {
namespace {

using dsv3::testing_support::cpu_device;
using dsv3::testing_support::random_tokens;
using dsv3::testing_support::tiny_job;
using dsv3::testing_support::to_host;

constexpr size_t kNumbers = 4096;  // doubles of a rank beside its gradients

// Doubles that ranks write and the parent reads.
class SharedDoubles {
 public:
  explicit SharedDoubles(size_t count) : bytes_(count * sizeof(double)) {
    data_ = static_cast<double*>(
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~SharedDoubles() { ::munmap(data_, bytes_); }
  SharedDoubles(const SharedDoubles&) = delete;
  SharedDoubles& operator=(const SharedDoubles&) = delete;
  double* data() { return data_; }

 private:
  size_t bytes_;
  double* data_;
};

// The rank's gradients where one process has them.
std::vector<float> in_place(const spec::ModelSpec& model, const model::ParamLayout& layout,
                            const std::vector<float>& own) {
  const model::ParamLayout whole = model::param_layout(model);
  std::vector<float> result(static_cast<size_t>(whole.elements),
                            std::numeric_limits<float>::quiet_NaN());
  for (const model::ParamSlice& slice : layout.slices) {
    const auto found =
        std::find_if(whole.slices.begin(), whole.slices.end(),
                     [&](const auto& other) { return other.info.name == slice.info.name; });
    const int64_t cols = slice.info.shape.back();
    for (int64_t i = 0; i < slice.box.num_elements(); ++i) {
      const int64_t row = slice.box.row + i / slice.box.cols;
      const int64_t col = slice.box.col + i % slice.box.cols;
      result[static_cast<size_t>(found->offset + row * cols + col)] =
          own[static_cast<size_t>(slice.offset + i)];
    }
  }
  return result;
}

// The sums of the elements that this rank updates, in the layout of its parameters; NaN elsewhere.
std::vector<float> owned_sums(tensor::Arena& arena, const model::ParamStore& params,
                              const Ownership& ownership) {
  const bool compact = !params.grad_sums().empty();
  const std::vector<float> sums = to_host(arena, compact ? params.grad_sums() : params.grad());
  std::vector<float> flat(static_cast<size_t>(params.layout().elements),
                          std::numeric_limits<float>::quiet_NaN());
  int64_t before = 0;
  for (const Range& range : ownership.updated) {
    std::copy_n(sums.begin() + (compact ? before : range.begin), range.size(),
                flat.begin() + range.begin);
    before += range.size();
  }
  return flat;
}

struct RankOutcome {
  std::vector<double> scalars;
  std::vector<int64_t> counts;
  std::vector<float> gradients;
  int64_t new_allocations = 0;
  int64_t actions = 0;
  int64_t activation_bytes = 0;
};

void sum_over_world(const comm::Groups& groups, model::StepState& step) {
  if (!groups.world) return;
  const ops::Vector<double> scalars = step.scalars();
  const ops::Vector<int64_t> counts = step.all_counts();
  groups.world->all_reduce("losses", {scalars.data, scalars.size, DType::kF64});
  groups.world->all_reduce("counts", {counts.data, counts.size, DType::kI64});
}

RankOutcome run_rank(const LayoutRun& run, const comm::Groups& groups) {
  const auto device = cpu_device();
  tensor::Arena arena(*device);
  const spec::JobSpec& job = run.job;
  const SyncOptions options{.num_layers = job.model.num_layers + job.model.mtp_layers,
                            .bytes_min = 4096,
                            .zero_stage = groups.layout.zero_stage};
  model::Transformer transformer(job.model,
                                 {.sequence = job.training.seq_length,
                                  .global_sequences = run.sequences,
                                  .compute = run.compute,
                                  .groups = &groups,
                                  .recompute = run.recompute,
                                  .master = master_of(job.model, groups, options, run.compute)},
                                 arena);
  transformer.params().initialise(job.training.seed);
  Pipeline pipeline(transformer);
  std::unique_ptr<GradientSync> sync;
  if (groups.world) {
    sync = std::make_unique<GradientSync>(transformer.params(), groups, options);
  }
  const std::vector<int32_t> tokens = random_tokens(job, run.sequences);
  std::vector<ActionTime> times;
  pipeline.record_into(&times);
  int64_t allocations = 0;
  for (int pass = 0; pass < 3; ++pass) {
    allocations = arena.num_allocations();
    transformer.step().reset();
    transformer.params().zero_grad();
    Share share(tokens, job.training.seq_length + 1, groups, run.micro_batch);
    const Status status = pipeline.train(share, sync.get());
    if (!status.ok()) throw std::runtime_error(status.to_string());
    if (sync) sync->finish();
    if (pass == 0) arena.compact();
  }
  sum_over_world(groups, transformer.step());
  const model::StepState& step = transformer.step();
  RankOutcome outcome;
  outcome.scalars.assign(step.scalars().data, step.scalars().data + step.scalars().size);
  outcome.counts.assign(step.all_counts().data, step.all_counts().data + step.all_counts().size);
  const model::ParamStore& params = transformer.params();
  const Ownership ownership = sync ? sync->ownership() : Ownership::whole(params.layout());
  outcome.gradients = in_place(job.model, params.layout(), owned_sums(arena, params, ownership));
  outcome.new_allocations = arena.num_allocations() - allocations;
  outcome.actions = static_cast<int64_t>(times.size());
  outcome.activation_bytes = arena.ledger().peak_bytes("activations/");
  return outcome;
}

// A rank's outcome as doubles: numbers first, then gradients.
void write(const RankOutcome& outcome, double* to) {
  const std::vector<int64_t> numbers = {outcome.new_allocations, outcome.actions,
                                        outcome.activation_bytes};
  comm::expect(numbers.size() + outcome.scalars.size() + outcome.counts.size() <= kNumbers,
               "too many numbers");
  double* at = std::copy(numbers.begin(), numbers.end(), to);
  at = std::copy(outcome.scalars.begin(), outcome.scalars.end(), at);
  std::copy(outcome.counts.begin(), outcome.counts.end(), at);
  std::copy(outcome.gradients.begin(), outcome.gradients.end(), to + kNumbers);
}

}  // namespace

Share::Share(const std::vector<int32_t>& tokens, int64_t row, const comm::Groups& groups,
             int64_t micro_batch)
    : tokens_(tokens),
      row_(row),
      share_(static_cast<int64_t>(tokens.size()) / row / groups.data_ranks()),
      first_(groups.data_rank() * share_),
      size_(micro_batch) {}

Result<std::span<const int32_t>> Share::read(int64_t micro_batch) {
  const int64_t begin = (first_ + micro_batch * size_) * row_;
  return std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(size_ * row_));
}

spec::JobSpec deep_job(int64_t layers, int64_t dense, int64_t mtp_layers) {
  spec::JobSpec job = tiny_job();
  job.model.num_layers = layers;
  job.model.moe.first_k_dense = dense;
  job.model.mtp_layers = mtp_layers;
  return job;
}

Outcome run_ranks_of(const LayoutRun& run) {
  const auto world = static_cast<int>(run.layout.world_size());
  const auto elements = static_cast<size_t>(model::param_layout(run.job.model).elements);
  const size_t moe_layers = [&] {
    size_t n = 0;
    for (int64_t l = 0; l < run.job.model.num_layers + run.job.model.mtp_layers; ++l)
      n += run.job.model.is_moe_layer(l) ? 1 : 0;
    return n;
  }();
  const size_t size = kNumbers + elements;
  SharedDoubles shared(size * static_cast<size_t>(world));
  const std::string rendezvous = comm::unique_rendezvous();
  comm::all_ranks(world, [&](int rank) {
    ::omp_set_num_threads(1);  // ranks that share cores have one each
    const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
    const comm::RankGroups owned(*mesh, run.layout,
                                 plan::copies_embedding(run.job.model, run.layout));
    write(run_rank(run, owned.groups()), shared.data() + static_cast<size_t>(rank) * size);
  });
  Outcome outcome;
  for (int rank = 0; rank < world; ++rank) {
    const double* at = shared.data() + static_cast<size_t>(rank) * size;
    outcome.new_allocations.push_back(static_cast<int64_t>(at[0]));
    outcome.actions.push_back(static_cast<int64_t>(at[1]));
    outcome.activation_bytes.push_back(static_cast<int64_t>(at[2]));
    outcome.scalars.assign(at + 3, at + 3 + model::kNumScalars);
    const double* counts = at + 3 + model::kNumScalars;
    outcome.counts.assign(counts,
                          counts + moe_layers * static_cast<size_t>(run.job.model.moe.num_experts));
    outcome.gradients.emplace_back(at + kNumbers, at + size);
  }
  return outcome;
}

Outcome run_alone(const LayoutRun& run) {
  ::omp_set_num_threads(1);  // no pool of threads that later forks would lack
  RankOutcome own = run_rank(run, comm::Groups::alone());
  return {.scalars = std::move(own.scalars),
          .counts = std::move(own.counts),
          .gradients = {std::move(own.gradients)},
          .new_allocations = {own.new_allocations},
          .actions = {own.actions},
          .activation_bytes = {own.activation_bytes}};
}

Difference largest_difference(const LayoutRun& run, const Outcome& ranks, const Outcome& alone) {
  const std::vector<float>& want = alone.gradients[0];
  Difference result;
  for (const model::ParamSlice& slice : model::param_layout(run.job.model).slices) {
    double largest = 0, difference = 0;
    for (int64_t i = 0; i < slice.info.num_elements(); ++i)
      largest = std::max(largest, std::fabs(double{want[static_cast<size_t>(slice.offset + i)]}));
    for (int64_t i = 0; i < slice.info.num_elements(); ++i) {
      const auto at = static_cast<size_t>(slice.offset + i);
      bool held = false;
      for (const std::vector<float>& own : ranks.gradients) {
        if (std::isnan(own[at])) continue;
        held = true;
        difference = std::max(difference, std::fabs(double{own[at]} - double{want[at]}));
      }
      if (!held) ADD_FAILURE() << slice.info.name << " element " << i << " is nowhere";
      if (!held) return result;
    }
    difference /= std::max(largest, 1e-12);
    if (difference > result.value) result = {difference, slice.info.name};
  }
  return result;
}

}  // namespace dsv3::parallel::testing_support
