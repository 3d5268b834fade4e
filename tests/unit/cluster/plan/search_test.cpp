// The search against a naive enumeration, the reference table of what fits of an independent memory
// model, and the laws of its choices.
#include "cluster/plan/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "configs/spec/presets.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

constexpr const char* kPresets[] = {"small", "1b", "5b", "10b", "15b", "20b", "671b"};

// What the presets leave to the planner.
spec::JobSpec free_job(const std::string& preset) {
  spec::JobSpec job = table_job(preset);
  job.training.micro_batch_size = -1;
  job.training.global_batch_size = 768;
  job.parallel.pipeline_schedule = "auto";
  return job;
}

const DeviceModel& h100() {
  static const DeviceModel model = *gpu_device_model("h100", "bf16");
  return model;
}

struct Best {
  double step_s = 0;     // 0: nothing fits
  double counted_s = 0;  // with what chunks of one layer count more
  Layout layout;
  int64_t fitting = 0;
};

// One layout, tried the plain way.
void try_layout(const MemoryModel& memory, const TimeModel& time, const Layout& layout,
                int64_t limit, Best* best) {
  if (!check_layout(memory.job, layout, memory.devices_per_node).empty()) return;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    if (sum_bytes(memory_ledger(memory, layout, stage)) > limit) return;
  }
  ++best->fitting;
  const double step = time.step_seconds(layout);
  EXPECT_LE(time.lower_bound(layout), step * (1 + 1e-12)) << to_string(layout);
  const bool single = layout.schedule == "interleaved" &&
                      layout.pp * layout.virtual_stages == memory.job.model.num_layers;
  const double counted = single ? step / 0.98 : step;
  if (best->step_s == 0 || counted < best->counted_s) {
    best->step_s = step;
    best->counted_s = counted;
    best->layout = layout;
  }
}

// `as_given`: sizes that are given whole, with micro-batches of 1 under 1f1b.
void try_variants(const MemoryModel& memory, const TimeModel& time, Layout layout, int64_t limit,
                  bool as_given, Best* best) {
  const spec::JobSpec& job = memory.job;
  const bool free = job.training.micro_batch_size < 1;
  for (const int64_t micro_batch : {1, 2, 4, 8, 16, 32}) {
    if ((!free || as_given) && micro_batch > 1) continue;
    layout.micro_batch = micro_batch;
    const int64_t share = micro_batch * layout.ep * layout.dp;
    if (job.training.global_batch_size % share != 0) continue;
    layout.grad_accumulation = job.training.global_batch_size / share;
    for (const char* schedule : {"1f1b", "zero_bubble", "interleaved"}) {
      if (job.parallel.pipeline_schedule != "auto" && schedule != std::string("1f1b")) continue;
      if ((layout.pp == 1 || as_given) && schedule != std::string("1f1b")) continue;
      layout.schedule = schedule;
      for (int64_t chunks = 1; chunks <= job.model.num_layers / layout.pp; ++chunks) {
        if (chunks > 1 && layout.schedule != "interleaved") break;
        layout.virtual_stages = chunks;
        for (const char* recompute : {"none", "selective", "full"}) {
          if (recompute_level(recompute) < recompute_level(job.parallel.recompute)) continue;
          layout.recompute = recompute;
          for (int64_t zero = 1; zero <= (layout.pp > 1 ? 1 : 3); ++zero) {
            if (zero > 1 && layout.cp * layout.ep * layout.dp == 1) continue;
            layout.zero_stage = zero;
            try_layout(memory, time, layout, limit, best);
          }
        }
      }
    }
  }
}

Best naive(const MemoryModel& memory, const TimeModel& time, int64_t world, int64_t limit,
           const StateChoice& state, bool as_given = false) {
  Best best;
  const spec::JobSpec& job = memory.job;
  Layout layout;
  layout.moments_dtype = state.moments_dtype;
  layout.grads_dtype = state.grads_dtype;
  const int64_t cp_most = job.parallel.context_parallel_size < 1 ? 64 : 1;
  const auto given = [](int64_t size, int64_t wanted) { return wanted < 1 || size == wanted; };
  for (layout.cp = 1; layout.cp <= cp_most; ++layout.cp) {
    for (layout.tp = 1; layout.tp <= 8; ++layout.tp) {
      for (layout.pp = 1; layout.pp <= job.model.num_layers; ++layout.pp) {
        for (layout.ep = 1; layout.ep <= job.model.moe.num_experts; ++layout.ep) {
          const int64_t others = layout.cp * layout.tp * layout.pp * layout.ep;
          if (world % others != 0 || !given(layout.tp, job.parallel.tensor_parallel_size) ||
              !given(layout.pp, job.parallel.pipeline_parallel_size) ||
              !given(layout.ep, job.parallel.expert_parallel_size)) {
            continue;
          }
          layout.dp = world / others;
          for (const int64_t etp : {int64_t{1}, layout.tp}) {
            if (etp > 1 && job.parallel.expert_tensor_parallel_size == 1) continue;
            layout.etp = etp;
            try_variants(memory, time, layout, limit, as_given, &best);
            if (layout.tp == 1) break;
          }
        }
      }
    }
  }
  return best;
}

// Of every preset at every number of GPUs; cards of 80 GB, for the small models of 24 so that
// memory decides there too.
void compare_with_naive(const spec::JobSpec& job, int64_t world, double label_gb,
                        bool whole = false) {
  const MemoryModel memory(job, DeviceKind::kCuda);
  const TimeModel time(job, h100(), 8);
  const SearchRequest request{world, usable_gpu_bytes(label_gb)};
  const SearchResult found = search(memory, time, request);
  const int64_t limit = fit_limit(request.rank_memory_bytes);
  const std::string where = job.model.name + " on " + std::to_string(world);
  Best best;
  for (const StateChoice& state : state_choices(job, DeviceKind::kCuda)) {
    if (whole) best = naive(memory, time, world, limit, state, /*as_given=*/true);
    if (best.step_s == 0) best = naive(memory, time, world, limit, state);
    if (best.step_s > 0) break;
  }
  ASSERT_EQ(found.chosen.has_value(), best.step_s > 0) << where << ": " << to_string(best.layout);
  if (!found.chosen) return;
  EXPECT_NEAR(found.chosen->step_s, best.step_s, 1e-6 * best.step_s)
      << where << ": " << to_string(found.chosen->layout) << " and " << to_string(best.layout);
  EXPECT_LE(found.chosen->peak_bytes, limit);
  EXPECT_GE(found.legal, best.fitting);
  EXPECT_EQ(found.chosen->layout.moments_dtype, best.layout.moments_dtype) << where;
  EXPECT_EQ(found.chosen->layout.grads_dtype, best.layout.grads_dtype) << where;
}

double card_of(const std::string& preset) {
  return preset == "small" || preset == "1b" || preset == "5b" ? 24 : 80;
}

// Every micro-batch, schedule, recomputation and ZeRO stage of every legal set of axes.
TEST(SearchAgainstNaive, FindsTheFastestThatFits) {
  for (const char* preset : kPresets) {
    for (const int64_t world : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}) {
      compare_with_naive(free_job(preset), world, card_of(preset));
    }
  }
}

// The files as they are, those that the table above doesn't have among them.
TEST(SearchAgainstNaive, ThePresetsFiles) {
  const auto presets = spec::list_presets();
  ASSERT_TRUE(presets.ok());
  int compared = 0;
  for (const spec::Preset& preset : *presets) {
    if (preset.job.cluster.devices != "cuda") continue;
    for (const int64_t world : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}) {
      compare_with_naive(preset.job, world, 80);
    }
    ++compared;
  }
  EXPECT_GE(compared, 7);
}

TEST(SearchAgainstNaive, ContextAndExpertTensorSizesToo) {
  for (const char* preset : {"small", "10b", "20b"}) {
    for (const int64_t world : {4, 12, 16}) {
      spec::JobSpec job = free_job(preset);
      job.parallel.context_parallel_size = -1;
      job.parallel.expert_tensor_parallel_size = -1;
      compare_with_naive(job, world, card_of(preset));
      job.training.seq_length = 65536;
      job.training.global_batch_size = 12;
      compare_with_naive(job, world, card_of(preset));
    }
  }
}

// Where memory decides more, and where the dtypes must give way.
TEST(SearchAgainstNaive, AlsoOnOtherCards) {
  compare_with_naive(free_job("10b"), 16, 40);
  compare_with_naive(free_job("20b"), 16, 24);
  compare_with_naive(free_job("15b"), 12, 24);
  compare_with_naive(free_job("671b"), 64, 288);
}

// A pipeline's interleaved chunks may hold less than 1f1b: spread, the dense layers and the tables
// lie beside fewer others. 15b over four stages fits without lower dtypes in no other way.
TEST(SearchAgainstNaive, WithAFixedPipeline) {
  for (const auto& [preset, world, label_gb] :
       {std::tuple("15b", 4, 80.0), std::tuple("15b", 8, 40.0), std::tuple("10b", 8, 40.0),
        std::tuple("20b", 16, 24.0), std::tuple("5b", 4, 24.0), std::tuple("5b", 4, 40.0)}) {
    for (const int64_t pp : {2, 4}) {
      spec::JobSpec job = free_job(preset);
      job.parallel.pipeline_parallel_size = pp;
      compare_with_naive(job, world, label_gb, /*whole=*/pp == world);
    }
  }
}

TEST(SearchFits, AFixedPipelineKeepsItsDtypesWhereInterleavingHoldsLess) {
  spec::JobSpec job = free_job("15b");
  job.parallel.pipeline_parallel_size = 4;
  const MemoryModel memory(job, DeviceKind::kCuda);
  const TimeModel time(job, h100(), 8);
  const SearchResult found = search(memory, time, {4, usable_gpu_bytes(80)});
  ASSERT_TRUE(found.chosen.has_value());
  EXPECT_EQ(found.chosen->layout.moments_dtype, "fp32") << to_string(found.chosen->layout);
  EXPECT_EQ(found.chosen->layout.schedule, "interleaved");
}

std::optional<Candidate> least(const spec::JobSpec& job, int64_t gpus, double label_gb,
                               const StateChoice& state) {
  const MemoryModel memory(job, DeviceKind::kCuda);
  return smallest(memory, {gpus, usable_gpu_bytes(label_gb)}, state);
}

bool fits(const spec::JobSpec& job, int64_t gpus, double label_gb, const StateChoice& state) {
  const std::optional<Candidate> candidate = least(job, gpus, label_gb, state);
  return candidate && candidate->peak_bytes <= fit_limit(usable_gpu_bytes(label_gb));
}

// The reference matrix of what also fits at S = 4096: the smallest number of cards with any state.
TEST(SearchFits, WhatThePublishedMatrixSays) {
  struct Cell {
    double label_gb;
    const char* preset;
    int64_t gpus;  // fits from here
    int64_t none;  // the next smaller one of the table, which does not; 0: there is none
  };
  for (const Cell& c :
       {Cell{24, "1b", 1, 0}, Cell{24, "5b", 4, 3}, Cell{24, "10b", 8, 6}, Cell{24, "15b", 12, 8},
        Cell{24, "20b", 16, 12}, Cell{40, "5b", 2, 1}, Cell{40, "10b", 4, 3}, Cell{40, "15b", 6, 4},
        Cell{40, "20b", 8, 6}, Cell{80, "5b", 1, 0}, Cell{80, "10b", 2, 1}, Cell{80, "15b", 3, 2},
        Cell{80, "20b", 4, 3}}) {
    const spec::JobSpec job = table_job(c.preset);
    const auto any = [&](int64_t gpus) {
      const std::vector<StateChoice> states = state_choices(job, DeviceKind::kCuda);
      return std::any_of(states.begin(), states.end(), [&](const StateChoice& state) {
        return fits(job, gpus, c.label_gb, state);
      });
    };
    EXPECT_TRUE(any(c.gpus)) << c.preset << " on " << c.gpus << " x " << c.label_gb;
    if (c.none > 0) {
      EXPECT_FALSE(any(c.none)) << c.preset << " on " << c.none << " x " << c.label_gb;
    }
  }
}

// The reference rows at S = 4096.
TEST(SearchFits, TheRowsOfTheSelectorsTable) {
  struct Row {
    const char* preset;
    int64_t gpus;
    double label_gb;
    bool fits;
    bool lowered;  // only with bf16 moments and gradients
  };
  for (const Row& row :
       {Row{"small", 4, 24, true, false}, Row{"small", 8, 24, true, false},
        Row{"1b", 1, 24, true, false}, Row{"1b", 2, 24, true, false}, Row{"5b", 4, 40, true, false},
        Row{"5b", 8, 40, true, false}, Row{"10b", 8, 80, true, false},
        Row{"10b", 16, 80, true, false}, Row{"15b", 16, 80, true, false},
        Row{"15b", 24, 80, true, false}, Row{"20b", 24, 80, true, false},
        Row{"20b", 32, 80, true, false}, Row{"671b", 32, 80, false, true},
        Row{"671b", 64, 80, false, true}, Row{"671b", 96, 80, false, true},
        Row{"671b", 128, 80, true, true}, Row{"671b", 256, 80, true, false}}) {
    const spec::JobSpec job = table_job(row.preset);
    const MemoryModel memory(job, DeviceKind::kCuda);
    const TimeModel time(job, h100(), 8);
    const SearchResult found = search(memory, time, {row.gpus, usable_gpu_bytes(row.label_gb)});
    EXPECT_EQ(found.chosen.has_value(), row.fits) << row.preset << " on " << row.gpus;
    if (!found.chosen) {
      EXPECT_TRUE(found.closest.has_value());
      continue;
    }
    EXPECT_EQ(found.chosen->layout.grads_dtype, row.lowered ? "bf16" : "fp32") << row.preset;
    EXPECT_EQ(found.unlowered.has_value(), row.lowered) << row.preset;
  }
}

// The reference: "671b minimum N at 80GB (ZeRO-1, <= 0.94): fp32 224; bf16 moments 160; bf16
// grads+moments 128", "141GB cards: 128 / 96 / 96", "with the optimizer in host memory: 64, 48 only
// with bf16 grads, 32 never". ZeRO-3 would do with less, so only ZeRO-1 is looked at here.
TEST(SearchFits, TheSmallestNumbersForDeepSeekV3) {
  const spec::JobSpec job = table_job("671b");
  const MemoryModel memory(job, DeviceKind::kCuda);
  const auto fits_with_zero1 = [&](int64_t gpus, double label_gb, const StateChoice& state) {
    const SearchSpace space{.job = job, .world = gpus};
    for (const Layout& axes : axes_of(space)) {
      for (const Layout& layout : variants_of(space, axes, state, /*least=*/true)) {
        if (layout.zero_stage > 1 || !check_layout(job, layout, 8).empty()) continue;
        int64_t most = 0;
        for (int64_t stage = 0; stage < layout.pp; ++stage) {
          most = std::max(most, peak_bytes(memory, layout, stage));
        }
        if (most <= fit_limit(usable_gpu_bytes(label_gb))) return true;
      }
    }
    return false;
  };
  const auto expect_smallest = [&](int64_t gpus, int64_t below, double gb, const StateChoice& s) {
    EXPECT_TRUE(fits_with_zero1(gpus, gb, s)) << gpus << " x " << gb;
    EXPECT_FALSE(fits_with_zero1(below, gb, s)) << below << " x " << gb;
  };
  expect_smallest(224, 192, 80, {"fp32", "fp32"});
  expect_smallest(160, 128, 80, {"bf16", "fp32"});
  expect_smallest(128, 112, 80, {"bf16", "bf16"});
  expect_smallest(64, 48, 80, {"fp32", "fp32", true});
  expect_smallest(48, 32, 80, {"bf16", "bf16", true});
  EXPECT_TRUE(fits_with_zero1(128, 141, {"fp32", "fp32"}));
  EXPECT_TRUE(fits_with_zero1(96, 141, {"bf16", "fp32"}));
}

SearchResult searched(const spec::JobSpec& job, int64_t gpus, double label_gb = 80,
                      int64_t per_node = 8) {
  const MemoryModel memory(job, DeviceKind::kCuda, per_node);
  const TimeModel time(job, h100(), per_node);
  return search(memory, time, {gpus, usable_gpu_bytes(label_gb)});
}

TEST(SearchChoice, TensorParallelismStaysInItsNode) {
  for (const int64_t per_node : {2, 4, 8}) {
    const SearchResult found = searched(free_job("20b"), 32, 80, per_node);
    ASSERT_TRUE(found.chosen.has_value());
    EXPECT_LE(found.chosen->layout.tp, per_node);
    for (const Rejected& other : found.rejected) EXPECT_LE(other.layout.tp, per_node);
  }
}

TEST(SearchChoice, ExpertsStayInTheirNodeWhereTheyFitThere) {
  for (const char* preset : {"5b", "10b", "15b", "20b"}) {
    const SearchResult found = searched(free_job(preset), 64);
    ASSERT_TRUE(found.chosen.has_value());
    EXPECT_LE(found.chosen->layout.tp * found.chosen->layout.ep, 8) << preset;
  }
}

TEST(SearchChoice, OffloadingIsTakenWhereNothingElseFits) {
  spec::JobSpec job = free_job("671b");
  EXPECT_FALSE(searched(job, 64).chosen.has_value());
  job.parallel.offload_optimizer = true;
  const SearchResult few = searched(job, 64);
  ASSERT_TRUE(few.chosen.has_value());
  EXPECT_TRUE(few.chosen->layout.offload_optimizer);
  EXPECT_EQ(few.chosen->layout.moments_dtype, "fp32");  // on the host there is room
  const SearchResult many = searched(job, 256);
  ASSERT_TRUE(many.chosen.has_value());
  EXPECT_FALSE(many.chosen->layout.offload_optimizer);
}

TEST(SearchChoice, KeepsWhatTheJobFixes) {
  spec::JobSpec job = free_job("20b");
  job.parallel.tensor_parallel_size = 2;
  job.parallel.recompute = "selective";
  job.parallel.zero_stage = 2;
  job.training.micro_batch_size = 2;
  job.training.moments_dtype = "bf16";
  const SearchResult found = searched(job, 32);
  ASSERT_TRUE(found.chosen.has_value());
  const Layout& layout = found.chosen->layout;
  EXPECT_EQ(layout.tp, 2);
  EXPECT_NE(layout.recompute, "none");
  EXPECT_EQ(layout.micro_batch, 2);
  EXPECT_EQ(layout.moments_dtype, "bf16");
  EXPECT_FALSE(found.unlowered.has_value());
  if (layout.pp == 1) {
    EXPECT_GE(layout.zero_stage, 2);
  }
  EXPECT_EQ(layout.grad_accumulation * layout.micro_batch * layout.dense_dp(), 768);
}

TEST(SearchChoice, ContextAndExpertTensorSizesAreChosenWhereTheyAreFree) {
  spec::JobSpec job = free_job("10b");
  job.training.seq_length = 131072;
  job.training.global_batch_size = 8;
  EXPECT_EQ(searched(job, 64).chosen.value_or(Candidate{}).layout.cp, 1);
  job.parallel.context_parallel_size = -1;
  job.parallel.expert_tensor_parallel_size = -1;
  const SearchResult found = searched(job, 64);
  ASSERT_TRUE(found.chosen.has_value());
  // 64 ranks for 8 sequences: they must share them.
  EXPECT_GE(found.chosen->layout.cp * found.chosen->layout.tp * found.chosen->layout.pp, 8);
  EXPECT_GT(found.chosen->layout.cp, 1) << to_string(found.chosen->layout);
  std::set<int64_t> sizes;
  for (const Layout& axes : axes_of({.job = job, .world = 64})) sizes.insert(axes.etp);
  EXPECT_EQ(sizes, (std::set<int64_t>{1, 2, 4, 8}));
}

TEST(SearchChoice, OfEquallyFastLayoutsTheSimplerIsPreferred) {
  EXPECT_TRUE(preferred({.tp = 1}, {.tp = 2}));
  EXPECT_TRUE(preferred({.tp = 2}, {.tp = 2, .pp = 2}));
  EXPECT_TRUE(preferred({.recompute = "none"}, {.recompute = "full"}));
  EXPECT_FALSE(preferred({.tp = 2}, {.tp = 2}));
  // Recomputation and ZeRO save nothing that a small model on one GPU needs.
  const SearchResult one = searched(free_job("small"), 1);
  ASSERT_TRUE(one.chosen.has_value());
  EXPECT_EQ(one.chosen->layout.recompute, "none");
  EXPECT_EQ(one.chosen->layout.zero_stage, 1);
}

TEST(SearchReasons, EachLoserSaysWhy) {
  spec::JobSpec job = free_job("671b");
  job.training.global_batch_size = 96;  // not divisible by every EP·DP
  const SearchResult found = searched(job, 256);
  ASSERT_TRUE(found.chosen.has_value());
  EXPECT_LE(found.rejected.size(), kRejectedMax);
  int slower = 0, too_large = 0, illegal = 0;
  std::set<std::string> seen;
  for (const Rejected& other : found.rejected) {
    const bool is_slower = other.reason.find(" slower: ") != std::string::npos;
    const bool is_large = other.reason.find("needs ") != std::string::npos;
    slower += is_slower;
    too_large += is_large;
    illegal += other.reason.find("divisible") != std::string::npos;
    EXPECT_TRUE(seen.insert(to_string(other.layout) + other.reason).second) << other.reason;
    if (is_slower) {
      EXPECT_GE(*other.step_s, found.chosen->step_s) << other.reason;
      EXPECT_LE(other.peak_memory_bytes, fit_limit(usable_gpu_bytes(80)));
    }
    if (is_large) {
      EXPECT_LT(*other.step_s, found.chosen->step_s) << other.reason;
      EXPECT_GT(other.peak_memory_bytes, fit_limit(usable_gpu_bytes(80)));
    }
  }
  EXPECT_GE(slower, 3);
  EXPECT_GE(too_large, 3);
  EXPECT_GE(illegal, 1);
  ASSERT_TRUE(found.next.has_value());
  EXPECT_NE(found.rejected.front().reason.find(" slower: "), std::string::npos);
}

TEST(SearchReasons, WhereNothingFitsTheSmallestPeaksComeFirst) {
  const SearchResult found = searched(free_job("671b"), 32);
  EXPECT_FALSE(found.chosen.has_value());
  ASSERT_TRUE(found.closest.has_value());
  ASSERT_GE(found.rejected.size(), 3u);
  EXPECT_EQ(found.rejected[0].layout, found.closest->layout);
  EXPECT_LE(found.rejected[0].peak_memory_bytes, found.rejected[1].peak_memory_bytes);
  EXPECT_NE(found.rejected[0].reason.find("GiB"), std::string::npos);
}

}  // namespace
}  // namespace dsv3::plan
