// Enumeration and the ladder's order; see search.h.
#include "cluster/plan/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/text.h"
#include "cluster/plan/capability.h"

namespace dsv3::plan {
namespace {

constexpr const char* kRecompute[] = {"none", "selective", "full"};

int recompute_level(const std::string& recompute) {
  return recompute == "full" ? 2 : recompute == "selective" ? 1 : 0;
}

// Smaller is preferred.
auto prefer(const Layout& layout, int64_t devices_per_node) {
  const bool crosses_node = layout.ep * layout.tp > devices_per_node;
  const bool last_resort = layout.recompute == "full" || layout.zero_stage == 3;
  return std::tuple(crosses_node, last_resort, layout.tp, layout.pp, layout.zero_stage,
                    recompute_level(layout.recompute), -layout.ep);
}

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

// With every way of saving memory from the job's own upwards.
void add_variants(const spec::JobSpec& job, Layout layout, DeviceKind device,
                  std::vector<Layout>* layouts) {
  layout.micro_batch = job.training.micro_batch_size;
  layout.schedule = job.parallel.pipeline_schedule;
  const int64_t share = layout.micro_batch * layout.dense_dp();
  const int64_t batch = job.training.global_batch_size;
  layout.grad_accumulation = batch > 0 ? std::max<int64_t>(1, batch / share) : layout.pp;
  for (int level = recompute_level(job.parallel.recompute); level <= 2; ++level) {
    layout.recompute = kRecompute[level];
    if (layout.pp > 1) {  // gradients would be reduced after every micro-batch: stage 1 at most
      layout.zero_stage = std::min<int64_t>(job.parallel.zero_stage, 1);
      layouts->push_back(layout);
      continue;
    }
    const bool cuts = layout.dense_zero_group() > 1;
    if (!cuts) {  // nothing to cut: more ZeRO saves nothing
      layout.zero_stage = job.parallel.zero_stage;
      layouts->push_back(layout);
      continue;
    }
    for (int64_t zero = lowest_zero_stage(job, device); zero <= 3; ++zero) {
      layout.zero_stage = zero;
      layouts->push_back(layout);
    }
  }
}

std::string too_large(int64_t peak_bytes, int64_t limit_bytes) {
  return fmt::format("needs {} a rank, {} can be used", human_bytes(peak_bytes),
                     human_bytes(limit_bytes));
}

int64_t static_bytes(const MemoryModel& model, const Layout& layout, int64_t stage) {
  return weights_bytes(model, layout, stage) + gradients_bytes(model, layout, stage) +
         optimizer_bytes(model, layout, stage);
}

// The ends of a pipeline hold the tables and the middle most layers: one of these three is usually
// the worst.
bool static_exceeds(const MemoryModel& model, const Layout& layout, int64_t limit_bytes) {
  for (const int64_t stage : {int64_t{0}, layout.pp / 2, layout.pp - 1}) {
    if (static_bytes(model, layout, stage) > limit_bytes) return true;
  }
  return false;
}

Candidate measure(const MemoryModel& model, const Layout& layout) {
  Candidate candidate{.layout = layout};
  candidate.worst_stage = worst_stage(model, layout);
  candidate.peak_bytes = sum_bytes(memory_ledger(model, layout, candidate.worst_stage));
  return candidate;
}

// Whether anything fits, without the reasons.
bool fits_somewhere(const MemoryModel& model, const SearchRequest& request) {
  const int64_t limit =
      static_cast<int64_t>(kFitShare * static_cast<double>(request.rank_memory_bytes));
  for (const Layout& layout :
       enumerate_layouts(model.job, request, model.devices_per_node, model.device)) {
    if (static_exceeds(model, layout, limit)) continue;
    if (!check_layout(model.job, layout, model.devices_per_node).empty()) continue;
    if (measure(model, layout).peak_bytes <= limit) return true;
  }
  return false;
}

}  // namespace

std::vector<Layout> enumerate_layouts(const spec::JobSpec& job, const SearchRequest& request,
                                      int64_t devices_per_node, DeviceKind device) {
  const spec::ParallelSpec& parallel = job.parallel;
  const bool keep = request.fixed_sizes;
  const int64_t cp = std::max<int64_t>(1, parallel.context_parallel_size);
  // Free: TP of 1, 2, 4, 8 within a node, PP up to 16 with two layers a stage, EP up to the
  // experts.
  const int64_t pp_most = std::min<int64_t>(16, std::max<int64_t>(1, job.model.num_layers / 2));
  const int64_t ep_most = std::max<int64_t>(1, job.model.moe.num_experts);
  std::vector<Layout> layouts;
  if (request.world % cp != 0) return layouts;
  const int64_t after_cp = request.world / cp;
  for (const int64_t tp : choices(after_cp, parallel.tensor_parallel_size, keep,
                                  std::min<int64_t>(8, devices_per_node))) {
    const bool power_of_two = (tp & (tp - 1)) == 0;
    if (!power_of_two && !(keep && parallel.tensor_parallel_size == tp)) continue;
    const int64_t after_tp = after_cp / tp;
    for (const int64_t pp : choices(after_tp, parallel.pipeline_parallel_size, keep, pp_most)) {
      const int64_t after_pp = after_tp / pp;
      for (const int64_t ep : choices(after_pp, parallel.expert_parallel_size, keep, ep_most)) {
        Layout layout{.tp = tp, .cp = cp, .pp = pp, .ep = ep, .dp = after_pp / ep};
        if (keep && parallel.data_parallel_size >= 1 && layout.dp != parallel.data_parallel_size) {
          continue;
        }
        layout.etp = parallel.expert_tensor_parallel_size > 1 ? tp : 1;
        add_variants(job, layout, device, &layouts);
      }
    }
  }
  std::stable_sort(layouts.begin(), layouts.end(), [&](const Layout& a, const Layout& b) {
    return prefer(a, devices_per_node) < prefer(b, devices_per_node);
  });
  return layouts;
}

SearchResult search(const MemoryModel& model, const SearchRequest& request) {
  SearchResult result;
  const int64_t limit =
      static_cast<int64_t>(kFitShare * static_cast<double>(request.rank_memory_bytes));
  const auto reject = [&result](const Layout& layout, std::string reason) {
    if (result.rejected.size() < kRejectedMax) {
      result.rejected.push_back({layout, std::move(reason)});
    }
  };
  for (const Layout& layout :
       enumerate_layouts(model.job, request, model.devices_per_node, model.device)) {
    std::string fault = check_layout(model.job, layout, model.devices_per_node);
    if (!fault.empty()) {
      reject(layout, std::move(fault));
      continue;
    }
    const Candidate candidate = measure(model, layout);
    if (candidate.peak_bytes <= limit) {
      result.chosen = candidate;
      return result;
    }
    if (!result.closest || candidate.peak_bytes < result.closest->peak_bytes) {
      result.closest = candidate;
    }
    reject(layout, too_large(candidate.peak_bytes, limit));
  }
  return result;
}

std::optional<int64_t> smallest_world(const MemoryModel& model, int64_t rank_memory_bytes) {
  constexpr int64_t kSteps[] = {4, 5, 6, 7};  // 1 2 3 4 5 6 7 8 10 12 14 16 20 24 28 32 40 …
  for (const bool fixed_sizes : {true, false}) {
    for (int64_t world = 1; world < 4; ++world) {
      if (fits_somewhere(model, {world, rank_memory_bytes, fixed_sizes})) return world;
    }
    for (int64_t scale = 1; scale <= 1024; scale *= 2) {
      for (const int64_t step : kSteps) {
        const int64_t world = step * scale;
        if (world > 4096) break;
        if (fits_somewhere(model, {world, rank_memory_bytes, fixed_sizes})) return world;
      }
    }
  }
  return std::nullopt;
}

}  // namespace dsv3::plan
