// Shard sizes, static bytes and activations against the exact reference cases (L03, L05,
// L07, F23) and their table of terms.
#include "cluster/plan/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;
constexpr double kMib = 1024.0 * 1024.0;

TEST(StageSplit, SixtyOneLayersOverSixteenStages) {
  const std::vector<int64_t> want{3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 3, 3};
  EXPECT_EQ(split_layers(61, 16), want);
}

TEST(StageSplit, SumsToTheLayersAndDiffersByAtMostOne) {
  for (int64_t layers = 1; layers <= 64; ++layers) {
    for (int64_t stages = 1; stages <= layers; ++stages) {
      const std::vector<int64_t> split = split_layers(layers, stages);
      EXPECT_EQ(std::accumulate(split.begin(), split.end(), int64_t{0}), layers);
      const auto [low, high] = std::minmax_element(split.begin(), split.end());
      EXPECT_LE(*high - *low, 1);
      EXPECT_EQ(split.back(), *low) << "the remainder must not land on the last stage";
    }
  }
}

void expect_stage(const MemoryModel& model, const Layout& layout, int64_t stage,
                  const LocalParams& local, int64_t weights, int64_t grads, int64_t optimizer) {
  EXPECT_EQ(model.counts.stage(layout, stage).dense, local.dense) << "stage " << stage;
  EXPECT_EQ(model.counts.stage(layout, stage).experts, local.experts) << "stage " << stage;
  EXPECT_EQ(weights_bytes(model, layout, stage), weights);
  EXPECT_EQ(gradients_bytes(model, layout, stage), grads);
  EXPECT_EQ(optimizer_bytes(model, layout, stage), optimizer);
}

TEST(StaticBytes, TenBillionOnEightRanks) {  // L05
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const Layout layout{.tp = 2, .pp = 2, .ep = 2, .dp = 1};
  expect_stage(model, layout, 0, {634982400, 924844032}, 3119652864, 6239305728, 14908022784);
  expect_stage(model, layout, 1, {760340736, 1123024896}, 3766731264, 7533462528, 18038343168);
}

TEST(StaticBytes, DeepSeekV3OnTwoThousandRanks) {  // L07
  const spec::JobSpec job = table_job("671b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const Layout layout{.pp = 16, .ep = 64, .dp = 2, .moments_dtype = "bf16"};
  expect_stage(model, layout, 0, {2677129216, 0}, 5354258432, 10708516864, 167320576);
  expect_stage(model, layout, 1, {931987456, 704643072}, 3273261056, 6546522112, 2876821504);
  expect_stage(model, layout, 15, {2888134656, 704643072}, 7185555456, 14371110912, 2999080704);
}

TEST(StaticBytes, OneRankHoldsEveryParameter) {
  for (const auto& row : testing::kTable) {
    const spec::JobSpec job = table_job(row.name);
    const spec::ParamCounts counts = spec::count_params(job.model);
    const MemoryModel model(job, DeviceKind::kCuda);
    EXPECT_EQ(model.counts.stage({}, 0).total(), counts.total + counts.mtp) << row.name;
  }
}

TEST(StaticBytes, ZeroCutsWhatItSays) {
  const spec::JobSpec job = table_job("5b");
  const MemoryModel model(job, DeviceKind::kCuda);
  Layout layout{.ep = 4, .dp = 2, .zero_stage = 0};
  const LocalParams local = model.counts.stage(layout, 0);
  EXPECT_EQ(optimizer_bytes(model, layout, 0), 12 * local.total());
  layout.zero_stage = 1;
  EXPECT_EQ(optimizer_bytes(model, layout, 0), 12 * (local.dense / 8 + local.experts / 2));
  EXPECT_EQ(gradients_bytes(model, layout, 0), 4 * local.total());
  layout.zero_stage = 2;
  EXPECT_LT(gradients_bytes(model, layout, 0), 4 * local.total() / 2);
  EXPECT_EQ(weights_bytes(model, layout, 0), 2 * local.total());
  layout.zero_stage = 3;
  EXPECT_LT(weights_bytes(model, layout, 0), 2 * local.total() / 2);
}

// Another oracle: shapes written out by hand for a tiny model, cut by TP 2 and EP 2.
TEST(StaticBytes, TinyModelCountedByHand) {
  spec::JobSpec job;
  spec::ModelSpec& m = job.model;
  m.vocab_size = 10;
  m.d_model = 8;
  m.num_layers = 2;
  m.num_heads = 2;
  m.dense_intermediate_size = 12;
  m.mla = {.kv_lora_rank = 4, .qk_nope_head_dim = 4, .qk_rope_head_dim = 2, .v_head_dim = 4};
  m.mla.q_lora_rank = 6;
  m.moe.num_experts = 4;
  m.moe.num_experts_per_token = 2;
  m.moe.expert_intermediate_size = 6;
  m.moe.num_shared_experts = 1;
  m.moe.first_k_dense = 1;
  const MemoryModel model(job, DeviceKind::kCpu);
  // Attention: q_a 6×8, norm 6, kv_a (4+2)×8, norm 4 whole; q_b 12×6, kv_b 16×4, o 8×8 cut.
  const int64_t attention_whole = 48 + 6 + 48 + 4;
  const int64_t attention_cut = 72 + 64 + 64;
  const int64_t layer_norms = 16;
  const int64_t dense_ffn = 3 * 8 * 12;
  const int64_t shared = 3 * 8 * 6;
  const int64_t router = 4 * 8;
  const int64_t whole = 2 * (attention_whole + layer_norms) + router + 8;
  const int64_t cut = 2 * attention_cut + dense_ffn + shared + 2 * 10 * 8;
  const int64_t experts = 4 * 3 * 8 * 6;
  const int64_t in_f32 = 2 * (6 + 4 + layer_norms) + router + 8;  // norms and the router
  EXPECT_EQ(model.counts.stage({.tp = 2, .ep = 2}, 0),
            (LocalParams{whole + cut / 2, experts / 4, whole, in_f32}));
}

std::map<std::string, double> terms_mib(const spec::JobSpec& job, const Layout& layout,
                                        const ActivationOptions& options) {
  std::map<std::string, double> terms;
  for (const ActivationTerm& term : activation_terms(job, layout, true, options)) {
    terms[term.name] = term.bytes / kMib;
  }
  return terms;
}

TEST(Activations, DeepSeekV3LayerTermByTerm) {  // F23
  const spec::JobSpec job = table_job("671b");
  const std::map<std::string, double> want{
      {"input", 56},    {"in_norm", 56},   {"q_a", 12},      {"q_a_norm", 12}, {"kv_a", 4.5},
      {"kv_a_norm", 4}, {"q", 192},        {"k", 192},       {"v", 128},       {"attn_out", 128},
      {"lse", 2},       {"post_attn", 56}, {"mlp_norm", 56}, {"router", 13},   {"sh_fc1", 32},
      {"sh_act", 16},   {"ex_in", 448},    {"ex_fc1", 256},  {"ex_act", 128},  {"ex_probs", 0.125},
      {"ex_out", 448}};
  const auto terms =
      terms_mib(job, {.pp = 16, .ep = 64}, {.imbalance = 1.0, .save_expert_output = true});
  EXPECT_EQ(terms.size(), want.size());
  double total = 0;
  for (const auto& [name, mib] : want) {
    ASSERT_TRUE(terms.contains(name)) << name;
    EXPECT_NEAR(terms.at(name), mib, 0.01) << name;
    total += terms.at(name);
  }
  EXPECT_GE(total, 2200);
  EXPECT_LE(total, 2280);
}

TEST(Activations,
     RecomputationKeepsThePublishedAmounts) {  // MiB a MoE layer: none, selective, full
  const std::map<std::string, std::array<double, 3>> want{
      {"671b", {1792, 1024, 56}}, {"small", {137, 77, 8}}, {"1b", {209, 125, 8}},
      {"5b", {408, 206, 16}},     {"10b", {496, 285, 24}}, {"15b", {614, 313, 28}},
      {"20b", {736, 402, 32}}};
  for (const auto& [name, amounts] : want) {
    const spec::JobSpec job = table_job(name);
    Layout layout{.ep = 2};
    const char* levels[] = {"none", "selective", "full"};
    for (int level = 0; level < 3; ++level) {
      layout.recompute = levels[level];
      const double mib = saved_layer_bytes(job, layout, true, {.imbalance = 1.0}) / kMib;
      EXPECT_NEAR(mib, amounts[level], 0.005 * amounts[level] + 5) << name << levels[level];
    }
  }
}

TEST(Activations, ModulesAreDroppedOneByOne) {
  const spec::JobSpec job = table_job("671b");
  const Layout layout{.ep = 64};
  const auto mib = [&](uint8_t modules) {
    return saved_layer_bytes(job, layout, true, {.imbalance = 1.0, .recompute_modules = modules}) /
           kMib;
  };
  const double all = mib(kRecomputeNothing);
  EXPECT_NEAR(all - mib(kRecomputeMlaUp), 192 + 192 + 128, 0.01);  // q, k, v
  EXPECT_NEAR(all - mib(kRecomputeNorms), 56 + 56, 0.01);
  EXPECT_NEAR(all - mib(kRecomputeSwiglu), 16 + 128, 0.01);
  Layout selective = layout;
  selective.recompute = "selective";
  EXPECT_EQ(mib(kRecomputeSelective) * kMib,
            saved_layer_bytes(job, selective, true, {.imbalance = 1.0}));
}

TEST(Activations, PipelineStagesHoldFewerMicroBatchesTowardsTheEnd) {
  const spec::JobSpec job = table_job("10b");  // 32 layers
  const MemoryModel model(job, DeviceKind::kCuda);
  Layout layout{.pp = 4, .grad_accumulation = 16};
  const int64_t want[] = {4, 3, 2, 1};
  for (int64_t stage = 0; stage < 4; ++stage) {
    EXPECT_EQ(chunks_in_flight(model, layout, stage), want[stage]);
  }
  layout.grad_accumulation = 2;
  EXPECT_EQ(chunks_in_flight(model, layout, 0), 2);
  layout.schedule = "afab";
  EXPECT_EQ(chunks_in_flight(model, layout, 3), 2);
}

// Narayanan et al. 2021: a rank runs 2(PP − i − 1) + (VPP − 1)·PP forward chunks before its first
// backward one, which is then itself in flight.
TEST(Activations, InterleavedStagesHoldChunks) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  Layout layout{.pp = 4, .schedule = "interleaved", .grad_accumulation = 64, .virtual_stages = 4};
  const int64_t want[] = {19, 17, 15, 13};
  for (int64_t stage = 0; stage < 4; ++stage)
    EXPECT_EQ(chunks_in_flight(model, layout, stage), want[stage]);
  layout.grad_accumulation = 4;
  EXPECT_EQ(chunks_in_flight(model, layout, 0), 16) << "no more than there are";
  layout.virtual_stages = 1;
  EXPECT_EQ(chunks_in_flight(model, layout, 0), 4) << "one chunk a rank is 1F1B";
}

TEST(Activations, ZeroBubbleEvensOutWhatStagesHold) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  Layout layout{.pp = 4, .ep = 2, .grad_accumulation = 16};
  const int64_t plain = activations_bytes(model, layout, 2);
  layout.schedule = "zero_bubble";
  EXPECT_EQ(deferred_micro_batches(layout, 0), 0);
  EXPECT_EQ(deferred_micro_batches(layout, 2), 2);
  const double deferred = 2 * 8 * deferred_layer_bytes(job, layout, true, model.activation);
  EXPECT_NEAR(static_cast<double>(activations_bytes(model, layout, 2) - plain), deferred, 8);
  layout.grad_accumulation = 2;  // two are in flight whole: none is left to wait
  EXPECT_EQ(deferred_micro_batches(layout, 2), 0);
}

// A rank that has all experts, or a slice of each, gets every routed token: no more and no fewer.
TEST(Activations, NothingIsUnbalancedWhereARankHasAllExperts) {
  const spec::JobSpec job = table_job("10b");
  const auto more = [&](const Layout& layout) {
    return saved_layer_bytes(job, layout, true, {.imbalance = 1.25}) -
           saved_layer_bytes(job, layout, true, {.imbalance = 1.0});
  };
  EXPECT_EQ(more({}), 0);
  EXPECT_EQ(more({.tp = 4, .etp = 4}), 0);
  EXPECT_EQ(exchange_buffer_bytes(job, {.tp = 4, .etp = 4}), 0);
  // A quarter of 4096·4 slots of 3072 + 3·896 bf16 values and an f32 weight.
  const double quarter = 4096 * (2 * (3072 + 3 * 896) + 4);
  EXPECT_DOUBLE_EQ(more({.ep = 2}), quarter);
  EXPECT_DOUBLE_EQ(more({.tp = 4}), quarter / 4);
  EXPECT_GT(more({.tp = 4, .ep = 2, .etp = 4}), 0);
}

TEST(StageSplit, LayersByKindAreThoseOfEachLayer) {
  for (const char* name : {"10b", "671b"}) {
    spec::ModelSpec model = table_job(name).model;
    for (const int64_t experts : {model.moe.num_experts, int64_t{0}}) {
      model.moe.num_experts = experts;
      for (const StageLayers layers : {StageLayers{0, 1}, {0, 8}, {2, 5}, {3, 3}, {7, 31}}) {
        LayerMix want;
        for (int64_t i = layers.first; i < layers.end; ++i)
          ++(experts > 0 && i >= model.moe.first_k_dense ? want.routed : want.dense);
        const LayerMix got = layers_by_kind(model, layers);
        EXPECT_EQ(got.dense, want.dense) << name << " " << layers.first;
        EXPECT_EQ(got.routed, want.routed) << name << " " << layers.first;
      }
    }
  }
}

// Brute force: the layers of every chunk, counted one by one.
TEST(StageSplit, ChunksHoldEveryLayerOnce) {
  for (const int64_t layers : {8, 13, 32, 61}) {
    for (const int64_t pp : {2, 4}) {
      const Layout layout{.pp = pp, .schedule = "interleaved", .virtual_stages = 2};
      std::vector<int> seen(static_cast<size_t>(layers));
      for (int64_t stage = 0; stage < pp; ++stage) {
        for (int64_t chunk = 0; chunk < chunks_of(layout, layers); ++chunk) {
          const StageLayers part = chunk_layers(layout, layers, stage, chunk);
          for (int64_t i = part.first; i < part.end; ++i) ++seen[static_cast<size_t>(i)];
        }
      }
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), layers) << layers << " over " << pp;
    }
  }
  const Layout two{.pp = 2, .schedule = "interleaved", .virtual_stages = 2};
  EXPECT_EQ(chunk_layers(two, 8, 0, 1).first, 4);
  EXPECT_EQ(chunk_layers(two, 8, 1, 0).first, 2);
  EXPECT_EQ(chunks_of({.pp = 4, .schedule = "interleaved", .virtual_stages = 4}, 8), 1)
      << "16 chunks of 8 layers can't be";
}

TEST(StageSplit, StagesOfAnyPipelineAreThoseOfTheSplit) {
  for (int64_t layers = 1; layers <= 64; ++layers) {
    for (int64_t stages = 1; stages <= layers; ++stages) {
      int64_t first = 0;
      const std::vector<int64_t> split = split_layers(layers, stages);
      for (int64_t stage = 0; stage < stages; ++stage) {
        const StageLayers part = stage_layers(layers, stages, stage);
        ASSERT_EQ(part.first, first) << layers << " over " << stages;
        first += split[static_cast<size_t>(stage)];
        ASSERT_EQ(part.end, first) << layers << " over " << stages;
      }
    }
  }
}

TEST(StaticBytes, AnInterleavedRankHoldsItsChunks) {
  const spec::JobSpec job = table_job("671b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const Layout layout{
      .pp = 4, .ep = 64, .schedule = "interleaved", .grad_accumulation = 16, .virtual_stages = 4};
  LocalParams sum;
  for (int64_t chunk = 0; chunk < 4; ++chunk) {
    const StageLayers part = chunk_layers(layout, 61, 2, chunk);
    for (int64_t i = part.first; i < part.end; ++i) {
      sum.dense += model.counts.layer(layout, i).dense;
      sum.experts += model.counts.layer(layout, i).experts;
      sum.replicated += model.counts.layer(layout, i).replicated;
      sum.in_f32 += model.counts.layer(layout, i).in_f32;
    }
  }
  EXPECT_EQ(model.counts.stage(layout, 2), sum);
}

TEST(StaticBytes, DtypesAndOffloadAreTheLayouts) {
  const spec::JobSpec job = table_job("5b");
  const MemoryModel model(job, DeviceKind::kCuda);
  Layout layout{.zero_stage = 0};
  const int64_t params = model.counts.stage(layout, 0).total();
  EXPECT_EQ(static_bytes(model, layout, 0), 18 * params);
  layout.moments_dtype = "bf16";
  EXPECT_EQ(static_bytes(model, layout, 0), 14 * params);
  layout.grads_dtype = "bf16";
  EXPECT_EQ(static_bytes(model, layout, 0), 12 * params);
  layout.offload_optimizer = true;
  EXPECT_EQ(static_bytes(model, layout, 0), 4 * params);
}

TEST(Exchange, HoldsTheRowsOutAndTheBoundedRowsIn) {
  const spec::JobSpec job = table_job("10b");  // k 4, h 3072
  const MemoryModel model(job, DeviceKind::kCuda);
  const double rows = 4096 * 4;
  EXPECT_EQ(exchange_bytes(model, {.ep = 8}, 0), static_cast<int64_t>(2.25 * rows * 2 * 3072));
  EXPECT_EQ(exchange_bytes(model, {.tp = 2, .ep = 4}, 0),
            static_cast<int64_t>(2.25 * rows / 2 * 2 * 3072));
  EXPECT_EQ(exchange_bytes(model, {.dp = 8}, 0), 0) << "every rank has all experts";
  EXPECT_EQ(exchange_bytes(model, {.tp = 2, .etp = 2}, 0), 0) << "cut along their width";
}

TEST(MemoryLedger, PeakIsTheLedgersSum) {
  for (const char* name : {"small", "10b", "671b"}) {
    spec::JobSpec job = table_job(name);
    job.checkpoint = {.interval_steps = 10, .async = true};
    for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
      const MemoryModel model(job, device);
      for (const Layout& layout :
           {Layout{}, Layout{.tp = 2, .pp = 2, .ep = 2, .grad_accumulation = 8},
            Layout{.pp = 4,
            .ep = 4,
            .dp = 2,
            .schedule = "interleaved",
            .recompute = "selective",
            .grad_accumulation = 8,
            .virtual_stages = 3},
            Layout{.cp = 2, .ep = 8, .zero_stage = 3, .recompute = "full"},
            Layout{.pp = 4, .schedule = "zero_bubble", .micro_batch = 2, .grad_accumulation = 9}}) {
        for (int64_t stage = 0; stage < layout.pp; ++stage)
          EXPECT_EQ(peak_bytes(model, layout, stage),
                    sum_bytes(memory_ledger(model, layout, stage)))
              << name << " " << to_string(layout) << " stage " << stage;
      }
    }
  }
}

TEST(MemoryLedger, ContextParallelismCutsTheTokens) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  // But for k and v, which every context rank has of the whole sequence: three quarters more.
  const spec::ModelSpec& m = job.model;
  const double kv = 2.0 * 4096 * static_cast<double>(m.num_heads * (m.num_layers + m.mtp_layers)) *
                    static_cast<double>(m.mla.qk_head_dim() + m.mla.v_head_dim);
  EXPECT_NEAR(static_cast<double>(activations_bytes(model, {.cp = 4}, 0)),
              static_cast<double>(activations_bytes(model, {}, 0)) / 4 + 0.75 * kv, 1);
}

TEST(MemoryLedger, ACpuWithoutBf16ComputesInFp32) {
  const spec::JobSpec job = table_job("small");
  const int64_t params = spec::count_params(job.model).total;
  const MemoryModel model(job, DeviceKind::kCpu, 1, {.multiplies_in_bf16 = false});
  EXPECT_EQ(static_bytes(model, {}, 0), 16 * params);
  EXPECT_EQ(model.activation.element_bytes, 4);
}

TEST(MemoryLedger, Fp32WeightsAreTheirOwnMaster) {
  spec::JobSpec job = table_job("small");
  job.training.dtype = "fp32";
  const MemoryModel model(job, DeviceKind::kCpu);
  const int64_t params = spec::count_params(job.model).total;
  EXPECT_EQ(
      weights_bytes(model, {}, 0) + gradients_bytes(model, {}, 0) + optimizer_bytes(model, {}, 0),
      16 * params);
}

TEST(MemoryLedger, LinesAreNonZeroAndSumToThePeak) {
  const spec::JobSpec job = table_job("10b");
  const MemoryModel model(job, DeviceKind::kCuda);
  const Layout layout{.tp = 2, .pp = 2, .ep = 2, .grad_accumulation = 8};
  const std::vector<LedgerLine> ledger = memory_ledger(model, layout, 0);
  int64_t sum = 0;
  for (const LedgerLine& line : ledger) {
    EXPECT_GT(line.bytes, 0) << line.name;
    sum += line.bytes;
  }
  EXPECT_EQ(sum_bytes(ledger), sum);
  // the reference tables: the seed's TP2 PP2 EP2 takes 36.7 GiB.
  const int64_t worst = worst_stage(model, layout);
  const double gib =
      static_cast<double>(sum_bytes(memory_ledger(model, layout, worst))) / 1073741824.0;
  EXPECT_NEAR(gib, 36.7, 3.0);
}

TEST(MemoryLedger, HasTheCopyThatCheckpointsAreWrittenFromWhereThereIsOne) {
  spec::JobSpec job = table_job("1b");
  job.model.num_layers = 2;  // small enough for a copy
  job.model.moe.num_experts = 0;
  job.checkpoint = {.interval_steps = 10, .async = true};
  const auto copy_bytes = [&job](DeviceKind device) {
    return checkpoint_bytes(MemoryModel(job, device), {}, 0);
  };
  const MemoryModel model(job, DeviceKind::kCpu);
  const int64_t expected = 12 * model.counts.stage({}, 0).total();  // master and two moments, f32
  ASSERT_LT(expected, kCheckpointStagingBytesMax);
  EXPECT_EQ(copy_bytes(DeviceKind::kCpu), expected);
  int64_t in_ledger = 0;
  for (const LedgerLine& line : memory_ledger(model, {}, 0))
    in_ledger += line.name == "checkpoint" ? line.bytes : 0;
  EXPECT_EQ(in_ledger, expected);
  EXPECT_EQ(copy_bytes(DeviceKind::kCuda), 0) << "it is host memory there";
  job.checkpoint.async = false;
  EXPECT_EQ(copy_bytes(DeviceKind::kCpu), 0);
  job.checkpoint = {.interval_steps = 0, .async = true};
  EXPECT_EQ(copy_bytes(DeviceKind::kCpu), 0);
  job = table_job("1b");
  job.checkpoint = {.interval_steps = 10, .async = true};
  EXPECT_EQ(copy_bytes(DeviceKind::kCpu), 0) << "training waits for one so large";
}

}  // namespace
}  // namespace dsv3::plan
