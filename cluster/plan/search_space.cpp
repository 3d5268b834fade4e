// Enumeration; see search_space.h.
#include "cluster/plan/search_space.h"

#include <algorithm>
#include <tuple>

namespace dsv3::plan {
namespace {

constexpr const char* kRecompute[] = {"none", "selective", "full"};
constexpr int64_t kFreeMicroBatchMax = 32;

// The divisors of n that an axis may take: the fixed one, or all up to `most`.
std::vector<int64_t> choices(int64_t n, int64_t fixed, bool keep_fixed, int64_t most) {
  std::vector<int64_t> sizes;
  if (keep_fixed && fixed >= 1) {
    if (n % fixed == 0) sizes.push_back(fixed);
    return sizes;
  }
  for (int64_t size = 1; size <= std::min(n, most); ++size) {
    if (n % size == 0) sizes.push_back(size);
  }
  return sizes;
}

std::vector<int64_t> micro_batches(const SearchSpace& space, const Layout& axes, bool least) {
  const spec::JobSpec& job = space.job;
  const int64_t fixed = job.training.micro_batch_size;
  if (fixed >= 1) return {fixed};
  std::vector<int64_t> sizes{1};
  if (space.as_given) return sizes;
  const int64_t batch = job.training.global_batch_size;
  for (int64_t size = 2; size <= kFreeMicroBatchMax && !least; size *= 2) {
    // Odd shares stay odd: larger powers of two don't divide them either.
    if (batch > 0 && batch % (size * axes.dense_dp()) != 0) break;
    sizes.push_back(size);
  }
  return sizes;
}

struct Pipelining {
  std::string schedule;
  int64_t virtual_stages = 1;
};

std::vector<Pipelining> schedules(const SearchSpace& space, int64_t pp) {
  const spec::JobSpec& job = space.job;
  const std::string& wanted = job.parallel.pipeline_schedule;
  const bool free = wanted == "auto";
  if (pp == 1) return {{free ? "1f1b" : wanted}};
  // A job that gives the layers of every stage gives the number of chunks too.
  const auto given = static_cast<int64_t>(job.parallel.pipeline_layers.size());
  if (given > pp && given % pp == 0 && (free || wanted == "interleaved"))
    return {{"interleaved", given / pp}};
  if (!free && wanted != "interleaved") return {{wanted}};
  if (free && space.as_given) return {{"1f1b"}};
  std::vector<Pipelining> found;
  if (free) found = {{"1f1b"}, {"zero_bubble"}};
  if (given > 0 && free) return found;
  for (int64_t chunks = 2; chunks * pp <= job.model.num_layers; ++chunks) {
    if (job.model.num_layers % (chunks * pp) == 0) found.push_back({"interleaved", chunks});
  }
  if (found.empty()) found.push_back({"interleaved"});  // is refused, with the reason
  return found;
}

// Lowest to highest that make a difference.
std::pair<int64_t, int64_t> zero_stages(const SearchSpace& space, const Layout& axes) {
  const int64_t wanted = space.job.parallel.zero_stage;
  // With a pipeline, gradients would be reduced after every micro-batch: stage 1 at most.
  if (axes.pp > 1) return {std::min<int64_t>(wanted, 1), 1};
  if (axes.dense_zero_group() == 1) return {wanted, wanted};  // nothing to cut
  return {wanted, 3};
}

}  // namespace

std::vector<int64_t> expert_tensor_sizes(const SearchSpace& space, int64_t tp) {
  const int64_t given = space.job.parallel.expert_tensor_parallel_size;
  if (given == 1) return {1};
  if (given > 1) {
    const bool tp_given = space.fixed_sizes && space.job.parallel.tensor_parallel_size >= 1;
    return given == tp || tp_given ? std::vector<int64_t>{given} : std::vector<int64_t>{};
  }
  if (tp == 1 || space.job.model.moe.num_experts == 0) return {1};
  return {1, tp};
}

bool is_given_whole(const SearchSpace& space) {
  if (!space.fixed_sizes) return false;
  const spec::ParallelSpec& parallel = space.job.parallel;
  const int64_t context = parallel.context_parallel_size;
  int64_t product = context, most = context, free = 0;
  for (const int64_t size : {parallel.tensor_parallel_size, parallel.pipeline_parallel_size,
                             parallel.expert_parallel_size, parallel.data_parallel_size}) {
    free += size < 1;
    product *= std::max<int64_t>(1, size);
    most = std::max(most, size);
  }
  if (context < 1 || most == 1) return false;
  return free <= 1 || product == space.world;
}

double time_weight(const spec::ModelSpec& model, const Layout& layout) {
  const bool single = layout.schedule == "interleaved" && layout.virtual_stages > 1 &&
                      layout.pp * layout.virtual_stages == model.num_layers;
  return single ? 1 / (1 - kSingleLayerChunksGain) : 1;
}

bool preferred(const Layout& a, const Layout& b) {
  const auto key = [](const Layout& layout) {
    return std::tuple(layout.tp, layout.pp, recompute_level(layout.recompute), layout.zero_stage,
                      layout.cp, layout.etp, -layout.ep, layout.schedule != "1f1b",
                      layout.virtual_stages, layout.micro_batch);
  };
  return key(a) < key(b);
}

std::vector<StateChoice> state_choices(const spec::JobSpec& job, DeviceKind device, bool offload) {
  const spec::TrainingSpec& training = job.training;
  const bool host = device == DeviceKind::kCuda && (offload || job.parallel.offload_optimizer);
  std::vector<StateChoice> found;
  for (const bool moved : {false, true}) {
    if (moved && !host) break;
    found.push_back({training.moments_dtype, training.grads_dtype, moved});
    if (training.moments_dtype != "bf16") found.push_back({"bf16", training.grads_dtype, moved});
    // Our CPU runtime sums gradients in fp32 only.
    if (training.grads_dtype != "bf16" && device == DeviceKind::kCuda) {
      found.push_back({"bf16", "bf16", moved});
    }
  }
  return found;
}

std::vector<Layout> axes_of(const SearchSpace& space) {
  const spec::ParallelSpec& parallel = space.job.parallel;
  const spec::ModelSpec& model = space.job.model;
  const bool keep = space.fixed_sizes;
  // A context size is fixed unless it says otherwise, also where the other sizes are freed.
  const int64_t context = parallel.context_parallel_size;
  const int64_t node = std::max<int64_t>(1, space.devices_per_node);
  std::vector<Layout> found;
  if (space.world < 1) return found;
  for (const int64_t cp : choices(space.world, context, context >= 1, kFreeContextMax)) {
    if (cp > 1 && context < 1 && space.job.training.seq_length % (2 * cp) != 0) continue;
    const int64_t in_context = space.world / cp;
    for (const int64_t tp : choices(in_context, parallel.tensor_parallel_size, keep, node)) {
      const int64_t in_tensor = in_context / tp;
      for (const int64_t pp :
           choices(in_tensor, parallel.pipeline_parallel_size, keep, model.num_layers)) {
        const int64_t in_stage = in_tensor / pp;
        for (const int64_t ep : choices(in_stage, parallel.expert_parallel_size, keep,
                                        std::max<int64_t>(1, model.moe.num_experts))) {
          Layout layout{.tp = tp, .cp = cp, .pp = pp, .ep = ep, .dp = in_stage / ep};
          const int64_t dp = parallel.data_parallel_size;
          if (keep && dp >= 1 && layout.dp != dp) continue;
          for (const int64_t etp : expert_tensor_sizes(space, tp)) {
            layout.etp = etp;
            found.push_back(layout);
          }
        }
      }
    }
  }
  return found;
}

std::vector<Layout> variants_of(const SearchSpace& space, const Layout& axes,
                                const StateChoice& state, bool least) {
  std::vector<Layout> found;
  Layout layout = axes;
  layout.moments_dtype = state.moments_dtype;
  layout.grads_dtype = state.grads_dtype;
  layout.offload_optimizer = state.offload_optimizer;
  layout.pipeline_layers = space.job.parallel.pipeline_layers;
  const int64_t batch = space.job.training.global_batch_size;
  const auto [zero_first, zero_last] = zero_stages(space, axes);
  for (const int64_t micro_batch : micro_batches(space, axes, least)) {
    layout.micro_batch = micro_batch;
    // Without a global batch: as many micro-batches as fill the pipeline once.
    const int64_t share = micro_batch * axes.dense_dp();
    layout.grad_accumulation = batch > 0 ? std::max<int64_t>(1, batch / share) : axes.pp;
    for (const Pipelining& pipelining : schedules(space, axes.pp)) {
      layout.schedule = pipelining.schedule;
      layout.virtual_stages = pipelining.virtual_stages;
      for (int level = recompute_level(space.job.parallel.recompute); level <= 2; ++level) {
        layout.recompute = kRecompute[level];
        for (int64_t zero = zero_first; zero <= zero_last; ++zero) {
          layout.zero_stage = zero;
          found.push_back(layout);
        }
      }
    }
  }
  return found;
}

}  // namespace dsv3::plan
