// Where parameters lie and what they start as, against the tensor list and the generator's own
// definition.
#include "runtime/model/params.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/many_layouts.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::model {
namespace {

using testing_support::tiny_job;
using testing_support::TinyModel;

std::vector<float> values_of(TinyModel& tiny, const std::string& hf_name) {
  const ParamStore& params = tiny.transformer->params();
  const ParamSlice* slice = params.find(hf_name);
  EXPECT_NE(slice, nullptr) << hf_name;
  std::vector<float> values(static_cast<size_t>(slice->info.num_elements()));
  params.read(params.master(), slice->offset, values);
  return values;
}

TEST(ParamLayout, SlicesAreDisjointAndCountEveryParameter) {
  const spec::ModelSpec model = tiny_job().model;
  const ParamLayout layout = param_layout(model);
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const ParamSlice& slice : layout.slices)
    ranges.emplace_back(slice.offset, slice.info.num_elements());
  std::sort(ranges.begin(), ranges.end());
  int64_t end = 0, sum = 0;
  for (const auto& [offset, size] : ranges) {
    EXPECT_GE(offset, end);
    end = offset + size;
    sum += size;
  }
  const spec::ParamCounts counts = spec::count_params(model);
  EXPECT_EQ(sum, counts.total + counts.mtp);
  EXPECT_EQ(layout.parameters, sum);
  EXPECT_GE(layout.elements, end);
}

TEST(ParamLayout, FusedBlocksHoldTheirTensorsInOrder) {
  const ParamLayout layout = param_layout(tiny_job().model);
  const auto offset = [&](const std::string& name) {
    for (const ParamSlice& slice : layout.slices) {
      if (slice.info.name == name) return slice.offset;
    }
    ADD_FAILURE() << name;
    return int64_t{-1};
  };
  const auto block = [&](const std::string& name) {
    for (const ParamBlock& b : layout.blocks) {
      if (b.name == name) return b;
    }
    ADD_FAILURE() << name;
    return ParamBlock{};
  };
  const std::string layer = "model.layers.1.";
  // q_a_proj is [24, 32], kv_a_proj_with_mqa [16 + 4, 32].
  const ParamBlock in_proj = block(layer + "self_attn.in_proj");
  EXPECT_EQ(in_proj.rows, 24 + 20);
  EXPECT_EQ(offset(layer + "self_attn.q_a_proj.weight"), in_proj.offset);
  EXPECT_EQ(offset(layer + "self_attn.kv_a_proj_with_mqa.weight"), in_proj.offset + 24 * 32);
  // An expert's [2 · 16, 32]: gate, then up.
  const ParamBlock experts = block(layer + "mlp.experts.gate_up_proj");
  EXPECT_EQ(experts.groups, 8);
  EXPECT_EQ(experts.rows, 32);
  EXPECT_EQ(offset(layer + "mlp.experts.5.gate_proj.weight"), experts.offset + 5 * 32 * 32);
  EXPECT_EQ(offset(layer + "mlp.experts.5.up_proj.weight"), experts.offset + 5 * 32 * 32 + 16 * 32);
  EXPECT_EQ(offset(layer + "mlp.experts.7.down_proj.weight"),
            block(layer + "mlp.experts.down_proj").offset + 7 * 32 * 16);
}

TEST(ParamLayout, NormsLieBehindTheDecayedRange) {
  const ParamLayout layout = param_layout(tiny_job().model);
  for (const ParamSlice& slice : layout.slices) {
    const bool norm = slice.info.name.find("norm") != std::string::npos;
    EXPECT_EQ(slice.offset >= layout.decay_elements, norm) << slice.info.name;
  }
}

TEST(ParamStore, InitialValuesAreTheGeneratorsByNameAndIndex) {
  TinyModel tiny(tiny_job());
  for (const std::string name : {"lm_head.weight", "model.layers.2.mlp.experts.3.up_proj.weight"}) {
    const std::vector<float> values = values_of(tiny, name);
    const CounterRng rng(1234, name_key(name));
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], rng.normal(i) * 0.05f) << name << " " << i;
    }
  }
  for (float gain : values_of(tiny, "model.norm.weight")) EXPECT_EQ(gain, 1.0f);
}

TEST(ParamStore, InitialValuesDoNotDependOnTheRestOfTheModel) {
  TinyModel small(tiny_job());
  spec::JobSpec other = tiny_job();
  other.model.num_layers = 4;
  other.model.mtp_layers = 0;
  other.model.moe.num_shared_experts = 0;
  TinyModel large(other);
  for (const std::string name :
       {"model.embed_tokens.weight", "model.layers.2.self_attn.o_proj.weight",
        "model.layers.1.mlp.experts.6.gate_proj.weight"}) {
    EXPECT_EQ(values_of(small, name), values_of(large, name)) << name;
  }
}

TEST(ParamStore, AnotherSeedGivesOtherWeights) {
  spec::JobSpec other = tiny_job();
  other.training.seed = 7;
  TinyModel a(tiny_job()), b(other);
  EXPECT_NE(values_of(a, "lm_head.weight"), values_of(b, "lm_head.weight"));
}

// What a rank holds of a tensor are the numbers of that box of the whole tensor.
TEST(ParamStore, InitialValuesOfAShardAreThoseOfItsBox) {
  const spec::ModelSpec model = plan::enumerable_model();
  auto device = testing_support::cpu_device();
  tensor::Arena whole_arena(*device);
  ParamStore whole(model, whole_arena, {});
  whole.initialise(7);
  for (const plan::Layout& cut : plan::many_layouts(8)) {
    const plan::RankGrid grid(cut);
    const int64_t rank = grid.world_size() - 1;
    tensor::Arena arena(*device);
    ParamStore shard(model, arena,
                     {.gradients = false, .cut = cut, .position = grid.position(rank)});
    shard.initialise(7);
    for (const ParamSlice& slice : shard.layout().slices) {
      const ParamSlice* of_whole = whole.find(slice.info.name);
      ASSERT_NE(of_whole, nullptr);
      const float* box = shard.master().as<float>() + slice.offset;
      for (int64_t i = 0; i < slice.box.num_elements(); ++i) {
        const int64_t row = slice.box.row + i / slice.box.cols;
        const int64_t at = row * slice.info.shape.back() + slice.box.col + i % slice.box.cols;
        ASSERT_EQ(box[i], whole.master().as<float>()[of_whole->offset + at])
            << slice.info.name << " " << i << ", " << plan::to_string(cut);
      }
    }
  }
}

// A store with some ranges of the master has the bits of the store with all of it: there, and in
// the whole compute copy; in memory it has those ranges alone.
TEST(ParamStore, AMasterInPiecesIsTheWholeOnesPieces) {
  const spec::ModelSpec model = tiny_job().model;
  auto device = testing_support::cpu_device();
  tensor::Arena whole_arena(*device), arena(*device);
  ParamStore whole(model, whole_arena, {.compute = DType::kBf16, .gradients = false});
  const ParamLayout layout = param_layout(model);
  const int64_t compute = layout.compute_elements;
  // Within a block, across some, and what is read in f32 with what lies before it.
  const std::vector<Range> ranges{{16, 48}, {1600, 9008}, {compute - 32, layout.elements}};
  const int64_t here = 32 + 7408 + 32 + layout.elements - compute;
  ParamStore pieces(model, arena, {.compute = DType::kBf16, .gradients = false, .master = ranges});
  EXPECT_EQ(arena.ledger().peak_bytes("weights") + arena.ledger().peak_bytes("weights/compute"),
            4 * here + 2 * compute);
  EXPECT_EQ(whole_arena.ledger().peak_bytes("weights"), 4 * layout.elements);
  const auto expect_equal = [&] {
    for (const Range& range : ranges) {
      for (int64_t i = range.begin; i < range.end; ++i)
        ASSERT_EQ(*pieces.master_at({i, i + 1}), whole.master().as<float>()[i]) << i;
    }
    for (int64_t i = 0; i < compute; ++i) {
      const uint16_t bits = pieces.compute().as<Bf16>()[i].bits;
      ASSERT_EQ(bits, whole.compute().as<Bf16>()[i].bits) << i;
      ASSERT_EQ(bits, Bf16(whole.master().as<float>()[i]).bits) << i;
    }
  };
  whole.initialise(3);
  pieces.initialise(3);
  expect_equal();
  EXPECT_NE(*pieces.master_at(ranges[1]), 0);
  // New values over the ends of ranges, and of the compute copy.
  const CounterRng rng(1, 2);
  for (const auto& [begin, n] : {std::pair<int64_t, int64_t>{0, 60},
                                 {40, 1700},
                                 {9000, 9},
                                 {compute - 40, 60},
                                 {layout.elements - 5, 5}}) {
    std::vector<float> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = rng.normal(static_cast<uint64_t>(begin) + i);
    whole.set(begin, values);
    pieces.set(begin, values);
    EXPECT_EQ(whole.master().as<float>()[begin], values[0]);
    expect_equal();
  }
}

// Blocks of a shard have local shapes, and lie in the order that sums and the optimizer need.
TEST(ParamLayout, BlocksOfAShardAreOrderedByDecayAndClass) {
  const spec::ModelSpec model = plan::enumerable_model();
  for (const plan::Layout& cut : plan::many_layouts(8)) {
    const plan::RankGrid grid(cut);
    for (int64_t rank = 0; rank < grid.world_size(); ++rank) {
      const ParamLayout layout = param_layout(model, cut, grid.position(rank));
      int64_t end = 0;
      std::tuple<bool, bool, plan::ParamClass> before{false, false, plan::ParamClass::kReplicated};
      for (const ParamBlock& block : layout.blocks) {
        EXPECT_GE(block.offset, end);
        EXPECT_EQ(block.offset % 16, 0);
        end = block.offset + block.num_elements();
        // By name: the router is decayed and read in f32, norms are neither.
        const bool norm = block.name.find("norm") != std::string::npos;
        const bool router = block.name.ends_with("mlp.gate");
        EXPECT_EQ(block.offset >= layout.decay_elements, norm) << block.name;
        EXPECT_EQ(block.offset >= layout.compute_elements, norm || router) << block.name;
        const std::tuple<bool, bool, plan::ParamClass> now{norm, norm || router, block.cls};
        EXPECT_LE(before, now) << block.name << ", " << plan::to_string(cut);
        before = now;
      }
      EXPECT_GE(layout.elements, end);
    }
  }
}

// Under ZeRO 2 the gradients of neighbouring layers, and those that stay, never share memory.
TEST(ParamLayout, WindowsKeepNeighbouringLayersApart) {
  const spec::ModelSpec model = plan::enumerable_model();
  for (plan::Layout cut : plan::many_layouts(8)) {
    cut.zero_stage = 2;
    const ParamLayout layout = param_layout(model, cut, {});
    EXPECT_EQ(gradients_in_windows(cut), cut.pp == 1 && cut.cp * cut.ep * cut.dp > 1);
    if (!gradients_in_windows(cut)) {
      EXPECT_EQ(layout.grad_elements, layout.elements);
      for (const ParamBlock& block : layout.blocks) EXPECT_EQ(block.grad_offset, block.offset);
      continue;
    }
    EXPECT_LT(layout.grad_elements, layout.elements);
    for (const ParamBlock& a : layout.blocks) {
      EXPECT_EQ(a.windowed, a.layer >= 0 && a.name.find("norm") == std::string::npos) << a.name;
      EXPECT_LE(a.grad_offset + a.num_elements(), layout.grad_elements);
      for (const ParamBlock& b : layout.blocks) {
        const bool turns =
            a.windowed && b.windowed && a.layer != b.layer && (a.layer - b.layer) % 2 == 0;
        if (&a == &b || turns) continue;
        EXPECT_TRUE(a.grad_offset + a.num_elements() <= b.grad_offset ||
                    b.grad_offset + b.num_elements() <= a.grad_offset)
            << a.name << " and " << b.name << ", " << plan::to_string(cut);
      }
    }
  }
}

}  // namespace
}  // namespace dsv3::model
