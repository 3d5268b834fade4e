// Taking the ledger apart; see explain.h.
#include "cluster/plan/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cluster/plan/rank_grid.h"

namespace dsv3::plan {
namespace {

constexpr const char* kLines[] = {"weights",       "gradients",    "optimizer", "host",
                                  "activations",   "transient",    "exchange",  "workspace",
                                  "runtime",       "cuda_context", "process",   "checkpoint",
                                  "communication", "fragmentation"};

// Pads every stage's ledger to the lines that any of them has, in one order.
void align_lines(std::vector<StageMemory>* stages) {
  std::vector<std::string> names;
  for (const char* name : kLines) {
    const auto has = [&](const StageMemory& stage) {
      return std::any_of(stage.lines.begin(), stage.lines.end(),
                         [&](const LedgerLine& line) { return line.name == name; });
    };
    if (std::any_of(stages->begin(), stages->end(), has)) names.emplace_back(name);
  }
  for (StageMemory& stage : *stages) {
    std::vector<LedgerLine> lines;
    for (const std::string& name : names) {
      const auto found = std::find_if(stage.lines.begin(), stage.lines.end(),
                                      [&](const LedgerLine& line) { return line.name == name; });
      lines.push_back({name, found == stage.lines.end() ? 0 : found->bytes});
    }
    stage.lines = std::move(lines);
  }
}

std::vector<PartMemory> parts_of(const MemoryModel& model, const Layout& layout, int64_t stage) {
  std::map<std::string, std::vector<spec::TensorFamily>> families;
  for (spec::TensorFamily& family : spec::model_tensor_families(model.job.model)) {
    const spec::TensorInfo& tensor = family.tensor;
    families[tensor.in_mtp ? "mtp" : spec::part_name(tensor.part)].push_back(std::move(family));
  }
  std::vector<PartMemory> parts;
  const auto add = [&](const std::string& name, int64_t params, const HeldState& state) {
    const HeldState booked = booked_as_kept(model, state);
    parts.push_back({name, params, booked.weights, booked.gradients, booked.optimizer});
  };
  for (const auto& [name, of_part] : families) {
    const LocalParams local = ShardedCounts(model.job.model, of_part).stage(layout, stage);
    if (local.total() > 0) add(name, local.total(), held_state(model, layout, local));
  }
  if (const HeldState gathered = gathered_state(model, layout); gathered.sum() > 0)
    add("gathered layers", 0, gathered);
  std::stable_sort(parts.begin(), parts.end(), [](const PartMemory& a, const PartMemory& b) {
    return a.weights_bytes + a.gradients_bytes + a.optimizer_bytes >
           b.weights_bytes + b.gradients_bytes + b.optimizer_bytes;
  });
  return parts;
}

std::vector<TensorMemory> tensors_of(const MemoryModel& model, const Layout& layout,
                                     const StageMemory& stage) {
  std::map<std::string, TensorMemory> by_name;
  double listed = 0;
  for (const bool routed : {false, true}) {
    const int64_t layers = routed ? stage.layers.routed : stage.layers.dense;
    if (layers == 0) continue;
    std::map<std::string, double> sums;
    for (const ActivationTerm& term :
         activation_terms(model.job, layout, routed, model.activation)) {
      if (is_kept(term, layout, model.activation)) sums[term.booked] += term.bytes;
    }
    for (const auto& [name, bytes] : sums) {
      TensorMemory& tensor = by_name[name];
      (routed ? tensor.moe_layer_bytes : tensor.dense_layer_bytes) = static_cast<int64_t>(bytes);
      const double all = bytes * static_cast<double>(layers) * stage.micro_batches;
      tensor.stage_bytes += static_cast<int64_t>(all);
      listed += all;
    }
  }
  std::vector<TensorMemory> tensors;
  for (auto& [name, tensor] : by_name) {
    tensor.name = name;
    tensors.push_back(tensor);
  }
  std::stable_sort(
      tensors.begin(), tensors.end(),
      [](const TensorMemory& a, const TensorMemory& b) { return a.stage_bytes > b.stage_bytes; });
  const int64_t rest = activations_bytes(model, layout, stage.stage) - static_cast<int64_t>(listed);
  if (rest > 0) tensors.push_back({"activations beside the layers", 0, 0, rest});
  return tensors;
}

}  // namespace

Explanation explain(const MemoryModel& model, const Layout& layout) {
  Explanation explanation;
  const RankGrid grid(layout);
  const int64_t ranks_per_stage = grid.world_size() / layout.pp;
  for (int64_t stage = 0; stage < layout.pp; ++stage) {
    StageMemory memory;
    memory.stage = stage;
    memory.first_rank = grid.global_rank({.pp_stage = stage});
    memory.last_rank = memory.first_rank + ranks_per_stage - 1;
    memory.layers = layer_mix(model.job.model, layout, stage);
    memory.params = model.counts.stage(layout, stage);
    memory.micro_batches = micro_batches_in_flight(model, layout, stage);
    memory.lines = memory_ledger(model, layout, stage);
    memory.peak_bytes = sum_bytes(memory.lines);
    explanation.stages.push_back(std::move(memory));
  }
  align_lines(&explanation.stages);
  explanation.worst_stage = worst_stage(model, layout);
  const StageMemory& worst = explanation.stages[static_cast<size_t>(explanation.worst_stage)];
  explanation.parts = parts_of(model, layout, explanation.worst_stage);
  explanation.tensors = tensors_of(model, layout, worst);
  return explanation;
}

std::string ranks_text(const StageMemory& stage) {
  return stage.first_rank == stage.last_rank
             ? fmt::format("rank {}", stage.first_rank)
             : fmt::format("ranks {}-{}", stage.first_rank, stage.last_rank);
}

}  // namespace dsv3::plan
