// Sums, norms and updates over ranks (processes on the real mesh) against one process that adds up
// plain numbers: every layout, every ZeRO stage, with overlap and without.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/optim/adamw.h"
#include "runtime/parallel/gradient_sync.h"
#include "tests/unit/cluster/plan/many_layouts.h"
#include "tests/unit/runtime/comm/ranks.h"

namespace dsv3::parallel {
namespace {

using model::Scalar;

constexpr int kSteps = 2;
constexpr float kNowhere = std::numeric_limits<float>::quiet_NaN();

struct Setting {
  plan::Layout cut;
  int64_t micro_batches = 1;
  bool exact = false;  // gradients whose sums round nowhere: equal bits in any order
};

const spec::ModelSpec& test_model() {
  static const spec::ModelSpec model = plan::enumerable_model();
  return model;
}
int64_t num_layers() {
  return test_model().num_layers + test_model().mtp_layers;
}

// The gradient that one rank's micro-batch gives one element of a tensor.
float gradient(const Setting& setting, int64_t rank, int64_t micro_batch, uint64_t key, int64_t i) {
  const CounterRng rng(static_cast<uint64_t>(100 + rank * 10 + micro_batch), key);
  if (setting.exact) return 0.125f * (static_cast<float>(rng.below(i, 17)) - 8.0f);
  return 1e-3f * (static_cast<float>(rng.below(i, 20001)) - 10000.0f);
}

int64_t index_in_whole(const spec::TensorInfo& info, const plan::Box& box, int64_t i) {
  return (box.row + i / box.cols) * info.shape.back() + box.col + i % box.cols;
}

// Sums of the whole model, by name: over micro-batches, then over the ranks in their order, stage
// by stage.
using Values = std::map<std::string, std::vector<float>>;
Values expected_sums(const Setting& setting) {
  const plan::RankGrid grid(setting.cut);
  std::vector<Values> of_stage(static_cast<size_t>(setting.cut.pp));
  for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
    const plan::RankPosition position = grid.position(rank);
    for (const plan::TensorShard& shard : plan::rank_shards(test_model(), setting.cut, position)) {
      const uint64_t key = name_key(shard.tensor.name);
      auto& sums = of_stage[static_cast<size_t>(position.pp_stage)][shard.tensor.name];
      sums.resize(static_cast<size_t>(shard.tensor.num_elements()));
      for (int64_t i = 0; i < shard.box.num_elements(); ++i) {
        const int64_t at = index_in_whole(shard.tensor, shard.box, i);
        float own = 0;
        for (int64_t m = 0; m < setting.micro_batches; ++m)
          own += gradient(setting, rank, m, key, at);
        sums[static_cast<size_t>(at)] += own;
      }
    }
  }
  Values total = std::move(of_stage[0]);
  for (size_t stage = 1; stage < of_stage.size(); ++stage) {
    for (auto& [name, sums] : of_stage[stage]) {
      std::vector<float>& all = total[name];
      all.resize(sums.size());
      for (size_t i = 0; i < sums.size(); ++i) all[i] += sums[i];
    }
  }
  return total;
}

double norm_of(const Values& values) {
  double squares = 0;
  for (const auto& [name, v] : values) {
    for (const float x : v) squares += static_cast<double>(x) * x;
  }
  return std::sqrt(squares);
}

// What the ranks must come to; made before they are forked.
struct Expected {
  explicit Expected(const Setting& setting) : sums(expected_sums(setting)), norm(norm_of(sums)) {}
  Values sums;
  double norm;
};

// How a step is run; none of it may change a bit.
struct Way {
  int64_t zero_stage = 0;
  bool overlap = true;
  bool up = false;  // layers finish from the first to the last
  int64_t bytes_min = 4096;
};

// One rank's parameters, sums and optimizer.
class Rank {
 public:
  Rank(const Setting& setting, const Expected& expected, const Way& way, const comm::Groups& groups,
       DType compute)
      : setting_(setting),
        expected_(expected),
        way_(way),
        device_(std::move(device::open_device("cpu")).value()),
        arena_(*device_),
        groups_(with_zero(groups, way.zero_stage)),
        options_({.num_layers = num_layers(),
                  .overlap = way.overlap,
                  .bytes_min = way.bytes_min,
                  .zero_stage = way.zero_stage}),
        params_(test_model(), arena_,
                {.compute = compute,
                 .cut = groups_.layout,
                 .position = groups_.position,
                 .master = master_of(test_model(), groups_, options_, compute)}),
        step_(arena_, 1, 1),
        sync_(params_, groups_, options_),
        optimizer_(training(), params_, sync_.ownership(), arena_) {
    params_.initialise(5);
  }

  void step(int64_t number) {
    params_.zero_grad();
    step_.reset();
    for (int64_t m = 0; m < setting_.micro_batches; ++m) {
      sync_.begin_micro_batch(m + 1 == setting_.micro_batches);
      micro_batch(m, m + 1 == setting_.micro_batches);
    }
    sync_.finish();
    if (number == 1) check_sums();
    optimizer_.add_squared_norm(step_);
    if (groups_.world) {
      groups_.world->all_reduce("scalars", {step_.scalars().data, model::kNumScalars, DType::kF64});
    }
    optimizer_.update(number, step_);
    sync_.gather_parameters();
    step_.read_back();
    const double norm = expected_.norm;
    comm::expect(std::abs(step_.host_scalar(Scalar::kGradNorm) - norm) <= 1e-12 * norm,
                 "the norm is not one process's");
  }

  // Everything that is multiplied, or read in f32.
  std::vector<std::byte> bits() const {
    std::vector<std::byte> bits;
    const auto add = [&bits](const void* data, int64_t bytes) {
      const auto* begin = static_cast<const std::byte*>(data);
      bits.insert(bits.end(), begin, begin + bytes);
    };
    const model::ParamLayout& layout = params_.layout();
    const tensor::Tensor& compute = params_.compute();
    if (!compute.empty()) add(compute.data, compute.bytes());
    const Range read{compute.empty() ? 0 : layout.compute_elements, layout.elements};
    add(params_.master_at(read), read.size() * 4);
    return bits;
  }
  // The master in its flat place, NaN where it isn't here.
  std::vector<float> master() const {
    std::vector<float> flat(static_cast<size_t>(params_.layout().elements), kNowhere);
    for (const Range& range : params_.master_ranges())
      std::copy_n(params_.master_at(range), range.size(), flat.begin() + range.begin);
    return flat;
  }
  // What it keeps of the master is what the whole one has; bf16 under ZeRO keeps no more than
  // needed.
  void check_master(const std::vector<float>& whole) const {
    const std::vector<float> own = master();
    const bool pieces = way_.zero_stage > 0 && !params_.compute().empty();
    std::vector<bool> needed(own.size(), !pieces);
    for (const Range& range : sync_.ownership().updated)
      std::fill(needed.begin() + range.begin, needed.begin() + range.end, true);
    std::fill(needed.begin() + params_.layout().compute_elements, needed.end(), true);
    for (size_t i = 0; i < own.size(); ++i) {
      comm::expect(std::isnan(own[i]) != needed[i], "the master is elsewhere");
      comm::expect(!needed[i] || own[i] == whole[i], "another master");
    }
  }

 private:
  static comm::Groups with_zero(comm::Groups groups, int64_t zero_stage) {
    groups.layout.zero_stage = zero_stage;
    return groups;
  }
  static spec::TrainingSpec training() {
    spec::TrainingSpec training;
    training.learning_rate = 1e-2;
    training.lr_warmup_steps = 0;
    training.max_steps = 10;
    training.grad_clip = 1.0;
    return training;
  }

  // Adds this micro-batch's gradients of the tensors that a backward pass completes at one event;
  // −1: those that are complete at the end.
  void add_gradients(int64_t micro_batch, int64_t layer, bool head) {
    const int64_t rank = plan::RankGrid(groups_.layout).global_rank(groups_.position);
    for (const model::ParamSlice& slice : params_.layout().slices) {
      const bool is_head = slice.info.name == "lm_head.weight";
      if (slice.info.layer != layer || is_head != head) continue;
      const uint64_t key = name_key(slice.info.name);
      float* grad = params_.grad_at(slice.offset);
      for (int64_t i = 0; i < slice.box.num_elements(); ++i) {
        const int64_t at = index_in_whole(slice.info, slice.box, i);
        grad[i] += gradient(setting_, rank, micro_batch, key, at);
      }
    }
  }

  void micro_batch(int64_t number, bool last) {
    // Without windows a backward pass tells of its last micro-batch alone.
    const bool tells = last || way_.zero_stage == 2;
    add_gradients(number, -1, true);
    if (tells && groups_.is_last_stage()) sync_.head_done();
    for (int64_t i = 0; i < num_layers(); ++i) {
      const int64_t layer = way_.up ? i : num_layers() - 1 - i;
      add_gradients(number, layer, false);
      groups_.progress();
      if (tells) sync_.layer_done(layer);
    }
    add_gradients(number, -1, false);
  }

  // The sums that this rank updates with.
  void check_sums() {
    std::vector<float> flat(static_cast<size_t>(params_.layout().elements));
    for (const model::ParamSlice& slice : params_.layout().slices) {
      for (int64_t i = 0; i < slice.box.num_elements(); ++i) {
        const auto at = static_cast<size_t>(index_in_whole(slice.info, slice.box, i));
        flat[static_cast<size_t>(slice.offset + i)] = expected_.sums.at(slice.info.name)[at];
      }
    }
    int64_t before = 0;
    for (const Range& range : sync_.ownership().updated) {
      const float* got = params_.grad_sums().empty() ? params_.grad().as<float>() + range.begin
                                                     : params_.grad_sums().as<float>() + before;
      before += range.size();
      for (int64_t i = 0; i < range.size(); ++i) {
        comm::expect(got[i] == flat[static_cast<size_t>(range.begin + i)],
                     "element " + std::to_string(range.begin + i) + " is " +
                         std::to_string(got[i]) + ", not " +
                         std::to_string(flat[static_cast<size_t>(range.begin + i)]));
      }
    }
  }

  Setting setting_;
  const Expected& expected_;
  Way way_;
  std::unique_ptr<device::Device> device_;
  tensor::Arena arena_;
  comm::Groups groups_;
  SyncOptions options_;
  model::ParamStore params_;
  model::StepState step_;
  GradientSync sync_;
  optim::Optimizer optimizer_;
};

// In every rank: all ways give the same parameters, bit for bit.
void run_ways(const Setting& setting, const std::vector<Way>& ways, DType compute) {
  const Expected expected(setting);
  const std::string rendezvous = comm::unique_rendezvous();
  const auto world = static_cast<int>(setting.cut.world_size());
  comm::all_ranks(world, [&](int rank) {
    ::omp_set_num_threads(1);
    const auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
    const comm::RankGroups groups(*mesh, setting.cut,
                                  plan::copies_embedding(test_model(), setting.cut));
    std::vector<std::byte> first;
    std::vector<float> master;  // whole: the first way's, of ZeRO 0, or of any in f32
    for (const Way& way : ways) {
      const std::string name = "ZeRO " + std::to_string(way.zero_stage) +
                               (way.overlap ? ", overlap" : "") + (way.up ? ", up" : "");
      try {
        Rank one(setting, expected, way, groups.groups(), compute);
        for (int64_t number = 1; number <= kSteps; ++number) one.step(number);
        if (first.empty()) {
          first = one.bits();
          master = one.master();
        }
        one.check_master(master);
        comm::expect(one.bits() == first, "other bits than " + std::to_string(ways[0].zero_stage));
      } catch (const std::exception& e) {
        throw std::runtime_error(name + ": " + e.what());
      }
    }
    groups.groups().world->barrier("end");
  });
}

std::string name_of(const ::testing::TestParamInfo<plan::Layout>& layout) {
  const plan::Layout& l = layout.param;
  return "TP" + std::to_string(l.tp) + "CP" + std::to_string(l.cp) + "PP" + std::to_string(l.pp) +
         "EP" + std::to_string(l.ep) + "DP" + std::to_string(l.dp) + "ETP" + std::to_string(l.etp) +
         "V" + std::to_string(l.virtual_stages);
}

// Any layout. Sums of several micro-batches are not exact here: the order in which ranks are added
// shows in the bits.
class ZeroRanks : public ::testing::TestWithParam<plan::Layout> {};

TEST_P(ZeroRanks, SumLikeOneProcessAndUpdateAlikeUnderZero0And1) {
  const std::vector<Way> ways{{.zero_stage = 0},
                              {.zero_stage = 0, .overlap = false},
                              {.zero_stage = 1},
                              {.zero_stage = 1, .overlap = false, .bytes_min = 1},
                              {.zero_stage = 1, .up = true, .bytes_min = 1},
                              {.zero_stage = 0, .up = true, .bytes_min = 1 << 30}};
  run_ways({.cut = GetParam(), .micro_batches = 2}, ways, DType::kF32);
}

TEST_P(ZeroRanks, KeepTheComputeCopyThatFollowsTheMaster) {
  run_ways({.cut = GetParam()}, {{.zero_stage = 0}, {.zero_stage = 1}}, DType::kBf16);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, ZeroRanks,
    ::testing::Values(
        plan::Layout{.dp = 2}, plan::Layout{.ep = 2}, plan::Layout{.tp = 2},
        plan::Layout{.cp = 2, .dp = 2}, plan::Layout{.pp = 2}, plan::Layout{.pp = 2, .dp = 2},
        plan::Layout{.tp = 2, .etp = 2}, plan::Layout{.ep = 4, .dp = 2},
        plan::Layout{.tp = 2, .ep = 2, .dp = 2}, plan::Layout{.tp = 2, .ep = 2, .dp = 2, .etp = 2},
        plan::Layout{.cp = 2, .ep = 2, .dp = 2}, plan::Layout{.tp = 2, .pp = 2, .ep = 2},
        plan::Layout{.pp = 2, .ep = 2, .dp = 2, .schedule = "interleaved", .virtual_stages = 3}),
    name_of);

// ZeRO 2, without a pipeline. It adds over ranks before it adds over micro-batches, so only sums
// that round nowhere have the bits of ZeRO 0.
class WindowRanks : public ::testing::TestWithParam<plan::Layout> {};

TEST_P(WindowRanks, SumAfterEveryMicroBatch) {
  const std::vector<Way> ways{{.zero_stage = 0},
                              {.zero_stage = 2},
                              {.zero_stage = 2, .overlap = false},
                              {.zero_stage = 2, .up = true}};
  run_ways({.cut = GetParam(), .micro_batches = 3, .exact = true}, ways, DType::kF32);
}

TEST_P(WindowRanks, HaveTheBitsOfZero1InOneMicroBatch) {
  const std::vector<Way> ways{{.zero_stage = 0}, {.zero_stage = 1}, {.zero_stage = 2}};
  run_ways({.cut = GetParam()}, ways, DType::kBf16);
}

INSTANTIATE_TEST_SUITE_P(Layouts, WindowRanks,
                         ::testing::Values(plan::Layout{.dp = 2}, plan::Layout{.ep = 2},
                                           plan::Layout{.cp = 2, .dp = 2},
                                           plan::Layout{.ep = 4, .dp = 2},
                                           plan::Layout{.tp = 2, .ep = 2, .dp = 2},
                                           plan::Layout{.tp = 2, .ep = 2, .dp = 2, .etp = 2},
                                           plan::Layout{.tp = 2, .cp = 2, .ep = 2}),
                         name_of);

// The whole gradients of one rank against windows and pieces: what ZeRO 2 is for.
TEST(Windows, HoldTwoLayersAndThePieces) {
  const spec::ModelSpec model = plan::enumerable_model();
  const auto bytes = [&model](int64_t zero_stage) {
    const auto device = std::move(device::open_device("cpu")).value();
    tensor::Arena arena(*device);
    plan::Layout cut{.dp = 4, .zero_stage = zero_stage};
    model::ParamStore params(model, arena, {.cut = cut});
    const auto buckets = gradient_buckets(params.layout(), cut, {.num_layers = num_layers()});
    if (zero_stage == 2)
      params.keep_grad_sums(num_elements(ownership(buckets, cut, {}, zero_stage).updated));
    return arena.ledger().peak_bytes("gradients") + arena.ledger().peak_bytes("gradients/");
  };
  // By hand: the largest layer (MTP's: attention 16·16 + 24·10 + 32·6 + 16·16, router 16·16, 17
  // experts of 3·4·16, eh_proj 16·32) twice, the pieces, and what is never in a window: embedding
  // and head 32·16 each, norms. Blocks are padded to 16 elements.
  const int64_t layer = 16 * 16 + 24 * 10 + 32 * 6 + 16 * 16 + 16 * 16 + 17 * 3 * 4 * 16 + 16 * 32;
  const int64_t kept = 2 * 32 * 16;
  const auto parameters = bytes(1) / 4;
  const int64_t norms = 7 * (2 * 16 + 2 * 16) + 3 * 16 + 16;  // in lines of 16
  EXPECT_EQ(bytes(1), 4 * model::param_layout(model).elements);
  EXPECT_NEAR(static_cast<double>(bytes(2)),
              4.0 * static_cast<double>(2 * layer + kept + norms + parameters / 4), 4.0 * 16 * 30);
  EXPECT_LT(bytes(2), bytes(1) * 7 / 10);
}

}  // namespace
}  // namespace dsv3::parallel
