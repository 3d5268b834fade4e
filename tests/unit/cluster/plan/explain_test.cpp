// What explain() takes apart sums to the ledger again.
#include "cluster/plan/explain.h"

#include <gtest/gtest.h>

#include <set>

#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

using testing::table_job;

int64_t line_bytes(const std::vector<LedgerLine>& lines, const char* name) {
  for (const LedgerLine& line : lines)
    if (line.name == name) return line.bytes;
  return 0;
}

void expect_sums(const MemoryModel& model, const Layout& layout) {
  const Explanation explanation = explain(model, layout);
  ASSERT_EQ(static_cast<int64_t>(explanation.stages.size()), layout.pp);
  int64_t ranks = 0, layers = 0;
  std::set<std::string> names;
  for (const StageMemory& stage : explanation.stages) {
    EXPECT_EQ(sum_bytes(stage.lines), peak_bytes(model, layout, stage.stage));
    EXPECT_EQ(stage.first_rank, ranks);
    ranks = stage.last_rank + 1;
    layers += stage.layers.dense + stage.layers.routed;
    EXPECT_EQ(stage.lines.size(), explanation.stages[0].lines.size());
  }
  EXPECT_EQ(ranks, layout.world_size());
  EXPECT_EQ(layers, model.job.model.num_layers + model.job.model.mtp_layers);

  const StageMemory& worst = explanation.stages[static_cast<size_t>(explanation.worst_stage)];
  PartMemory all;
  for (const PartMemory& part : explanation.parts) {
    all.params += part.params;
    all.weights_bytes += part.weights_bytes;
    all.gradients_bytes += part.gradients_bytes;
    all.optimizer_bytes += part.optimizer_bytes;
  }
  const double few = 1000;  // what divisions round down
  EXPECT_NEAR(static_cast<double>(all.params), static_cast<double>(worst.params.total()), few);
  EXPECT_NEAR(static_cast<double>(all.weights_bytes),
              static_cast<double>(line_bytes(worst.lines, "weights")), few);
  EXPECT_NEAR(static_cast<double>(all.gradients_bytes),
              static_cast<double>(line_bytes(worst.lines, "gradients")), few);
  EXPECT_NEAR(static_cast<double>(all.optimizer_bytes),
              static_cast<double>(line_bytes(worst.lines, "optimizer")), few);
  int64_t tensors = 0;
  for (const TensorMemory& tensor : explanation.tensors) {
    tensors += tensor.stage_bytes;
    EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name << " stands twice";
  }
  EXPECT_NEAR(static_cast<double>(tensors),
              static_cast<double>(line_bytes(worst.lines, "activations")), few);
}

TEST(Explain, PartsTensorsAndStagesSumToTheLedger) {
  for (const char* name : {"small", "10b", "671b"}) {
    const spec::JobSpec job = table_job(name);
    for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
      const MemoryModel model(job, device);
      expect_sums(model, {});
      expect_sums(model, {.tp = 2, .pp = 4, .ep = 2, .dp = 2, .grad_accumulation = 16});
      expect_sums(model, {.ep = 4, .dp = 2, .zero_stage = 3, .recompute = "selective"});
      expect_sums(model, {.pp = 2,
                          .schedule = "interleaved",
                          .recompute = "full",
                          .grad_accumulation = 8,
                          .virtual_stages = 2,
                          .moments_dtype = "bf16",
                          .offload_optimizer = device == DeviceKind::kCuda});
    }
  }
}

TEST(Explain, SumsToTheLedgerForEveryLayoutOfAGrid) {
  int tried = 0;
  for (const char* name : {"small", "10b"}) {
    const spec::JobSpec job = table_job(name);
    for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
      const MemoryModel model(job, device);
      for (int64_t code = 0; code < 3 * 3 * 2 * 2 * 2 * 4; ++code) {
        int64_t rest = code;
        const auto digit = [&rest](int64_t base) {
          const int64_t value = rest % base;
          rest /= base;
          return value;
        };
        Layout layout{.grad_accumulation = 8};
        layout.tp = int64_t{1} << digit(3);
        layout.pp = int64_t{1} << digit(3);
        layout.ep = 1 + digit(2);
        layout.dp = 1 + 2 * digit(2);
        layout.cp = 1 + digit(2);
        layout.zero_stage = digit(4);
        layout.etp = code % 5 == 0 ? layout.tp : 1;
        layout.schedule = code % 3 == 0 ? "zero_bubble" : "1f1b";
        layout.recompute = code % 7 == 0 ? "full" : "none";
        if (!check_layout(job, layout, 8).empty()) continue;
        SCOPED_TRACE(to_string(layout));
        expect_sums(model, layout);
        ++tried;
      }
    }
  }
  EXPECT_GE(tried, 800);
}

TEST(Explain, PartsOfOneRankAreTheModelsOwn) {
  const spec::JobSpec job = table_job("10b");
  const spec::ParamCounts counts = spec::count_params(job.model);
  const Explanation explanation = explain(MemoryModel(job, DeviceKind::kCuda), {});
  int64_t seen = 0;
  for (const PartMemory& part : explanation.parts) {
    for (int i = 0; i < spec::kNumParts; ++i) {
      if (part.part != spec::part_name(static_cast<spec::Part>(i))) continue;
      EXPECT_EQ(part.params, counts.by_part[static_cast<size_t>(i)]) << part.part;
      ++seen;
    }
  }
  EXPECT_EQ(seen, 9);
  EXPECT_EQ(explanation.parts.front().part, "routed_experts");
}

TEST(Explain, RanksOfAStageStandSideBySide) {
  const spec::JobSpec job = table_job("10b");
  const Explanation explanation =
      explain(MemoryModel(job, DeviceKind::kCuda), {.tp = 2, .pp = 2, .ep = 2});
  EXPECT_EQ(ranks_text(explanation.stages[0]), "ranks 0-3");
  EXPECT_EQ(ranks_text(explanation.stages[1]), "ranks 4-7");
  EXPECT_EQ(ranks_text(explain(MemoryModel(job, DeviceKind::kCuda), {}).stages[0]), "rank 0");
}

}  // namespace
}  // namespace dsv3::plan
