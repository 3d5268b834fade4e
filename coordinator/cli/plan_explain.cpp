// dsv3ctl plan --explain: what a plan's figures are made of; see plan_views.h.
#include "cluster/plan/explain.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/plan_views.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const plan::Explanation& explanation) {
  Json stages = Json::array(), parts = Json::array(), tensors = Json::array();
  for (const plan::StageMemory& stage : explanation.stages) {
    Json ledger = Json::array();
    for (const plan::LedgerLine& line : stage.lines)
      ledger.push_back({{"name", line.name}, {"bytes", line.bytes}});
    stages.push_back({{"stage", stage.stage},
                      {"first_rank", stage.first_rank},
                      {"last_rank", stage.last_rank},
                      {"dense_layers", stage.layers.dense},
                      {"moe_layers", stage.layers.routed},
                      {"dense_params", stage.params.dense},
                      {"expert_params", stage.params.experts},
                      {"micro_batches_in_flight", stage.micro_batches},
                      {"ledger", ledger},
                      {"peak_memory_bytes", stage.peak_bytes}});
  }
  for (const plan::PartMemory& part : explanation.parts)
    parts.push_back({{"part", part.part},
                     {"params", part.params},
                     {"weights_bytes", part.weights_bytes},
                     {"gradients_bytes", part.gradients_bytes},
                     {"optimizer_bytes", part.optimizer_bytes}});
  for (const plan::TensorMemory& tensor : explanation.tensors)
    tensors.push_back({{"name", tensor.name},
                       {"dense_layer_bytes", tensor.dense_layer_bytes},
                       {"moe_layer_bytes", tensor.moe_layer_bytes},
                       {"stage_bytes", tensor.stage_bytes}});
  return {{"worst_stage", explanation.worst_stage},
          {"stages", stages},
          {"parts", parts},
          {"tensors", tensors}};
}

std::string bytes_or_dash(int64_t bytes) {
  return bytes == 0 ? "–" : human_bytes(bytes);
}

// Stages beside each other, as many as a terminal holds; the rest below.
std::string stages_text(const plan::Explanation& explanation, const Globals& globals) {
  constexpr size_t kNameColumns = 16, kStageColumns = 12;
  const size_t room = static_cast<size_t>(help_columns());
  const size_t per_row = std::max<size_t>(1, (room - kNameColumns) / kStageColumns);
  std::string out;
  for (size_t first = 0; first < explanation.stages.size(); first += per_row) {
    const size_t end = std::min(first + per_row, explanation.stages.size());
    std::vector<std::string> header = {"LEDGER"};
    for (size_t i = first; i < end; ++i)
      header.push_back(fmt::format("STAGE {}", explanation.stages[i].stage));
    Table table(header);
    const auto row = [&](const std::string& name, const auto& cell) {
      std::vector<std::string> cells = {name};
      for (size_t i = first; i < end; ++i) cells.push_back(cell(explanation.stages[i]));
      table.add(cells);
    };
    using Stage = plan::StageMemory;
    row("ranks", [](const Stage& s) { return ranks_text(s).substr(ranks_text(s).find(' ') + 1); });
    row("dense layers", [](const Stage& s) { return std::to_string(s.layers.dense); });
    row("MoE layers", [](const Stage& s) { return std::to_string(s.layers.routed); });
    row("parameters", [](const Stage& s) { return human_count(s.params.total()); });
    row("in flight", [](const Stage& s) { return fmt::format("{:g}", s.micro_batches); });
    for (size_t line = 0; line < explanation.stages[first].lines.size(); ++line)
      row(explanation.stages[first].lines[line].name,
          [line](const Stage& s) { return bytes_or_dash(s.lines[line].bytes); });
    row("total", [](const Stage& s) { return human_bytes(s.peak_bytes); });
    out += table.render(globals.color) + "\n";
  }
  return out;
}

std::string parts_text(const plan::Explanation& explanation, const Globals& globals) {
  Table table({"PART", "PARAMETERS", "WEIGHTS", "GRADIENTS", "OPTIMIZER"});
  for (const plan::PartMemory& part : explanation.parts)
    table.add({part.part, human_count(part.params), bytes_or_dash(part.weights_bytes),
               bytes_or_dash(part.gradients_bytes), bytes_or_dash(part.optimizer_bytes)});
  return table.render(globals.color);
}

std::string tensors_text(const plan::Explanation& explanation, const Globals& globals) {
  Table table({"SAVED ACTIVATIONS", "DENSE LAYER", "MOE LAYER", "STAGE"});
  for (const plan::TensorMemory& tensor : explanation.tensors)
    table.add({tensor.name, bytes_or_dash(tensor.dense_layer_bytes),
               bytes_or_dash(tensor.moe_layer_bytes), bytes_or_dash(tensor.stage_bytes)});
  return table.render(globals.color);
}

// The words that a stranger stops at, a line each.
std::string legend_text() {
  constexpr std::pair<const char*, const char*> kWords[] = {
      {"transient", "gradients of the layer at work and what it recomputes, or logits"},
      {"exchange", "buffers in which tokens travel to their experts and back"},
      {"communication", "what NCCL keeps for each group of ranks"},
      {"fragmentation", "memory that the allocator holds and nobody can use"},
      {"in flight", "micro-batches whose activations a stage holds at once"},
      {"MBS", "micro-batch size: sequences that a rank computes at a time"},
      {"one rank", "every axis (TP, CP, PP, EP, DP) is 1: nothing is cut"},
      {"ZeRO-1", "optimizer state cut over data ranks; 2: gradients too; 3: all"},
      {"pipeline_bubble", "waiting of the busiest stage for the others"},
  };
  constexpr int kIndent = 18;
  std::string out;
  for (const auto& [word, meaning] : kWords)
    out += fmt::format("  {:<{}}{}\n", word, kIndent - 2,
                       wrap(meaning, kIndent, help_columns() - kIndent));
  return out;
}

}  // namespace

int show_explain(const Globals& globals, const PlanQuestion& question) {
  const plan::Plan plan = plan::plan(question.job, question.cluster, question.options);
  const PlanNotes notes = notes_of(question, plan);
  const Code code = plan.feasible ? Code::kOk : Code::kDoesNotFit;
  if (plan.ledger.empty()) {  // no legal layout: there is no memory to take apart
    globals.json ? print_json(noted_json(plan, notes)) : print(plan_text(plan, true, notes));
    return static_cast<int>(code);
  }
  const plan::MemoryModel model = memory_model_of(question, plan.device, plan.ranks_per_device);
  const plan::Explanation explanation = plan::explain(model, plan.layout);
  if (globals.json) {
    Json json = noted_json(plan, notes);
    json["explain"] = to_json(explanation);
    json.erase("schema_version");  // print_json puts it in front
    print_json(json);
    return static_cast<int>(code);
  }
  print(plan_text(plan, true, notes));
  print("\nmemory of a rank, by stage\n" + stages_text(explanation, globals));
  print(fmt::format("stage {}, by part of the model\n", explanation.worst_stage) +
        parts_text(explanation, globals));
  print(fmt::format("\nstage {}, by tensor (a layer is of one micro-batch)\n",
                    explanation.worst_stage) +
        tensors_text(explanation, globals));
  print("\nwords\n" + legend_text());
  return static_cast<int>(code);
}

}  // namespace dsv3::cli
