// dsv3ctl plan --sweep: one job over many numbers of GPUs as a table, JSON or CSV, with what
// failures make of it.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cluster/plan/sweep.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/plan_views.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

plan::SweepRequest request_of(const SweepQuestion& question) {
  plan::SweepRequest request;
  request.gpus_from = question.gpus_from;
  request.gpus_to = question.gpus_to;
  request.label_gb = question.label_gb;
  request.gpu_name = question.gpu;
  request.options = question.options;
  if (question.mtbf_hours > 0) request.failures.node_mtbf_s = question.mtbf_hours * 3600;
  if (question.restart_s > 0) request.failures.restart_s = question.restart_s;
  request.failures.checkpoint_s = question.checkpoint_s;
  request.storage_bytes_per_s = question.storage_gbps * 1e9;
  return request;
}

Json row_json(const plan::SweepRow& row) {
  const Json plan = Json::parse(plan::plan_json(row.plan));
  return {{"gpus", row.gpus},
          {"nodes", row.nodes},
          {"feasible", row.plan.feasible},
          {"reason", row.plan.reason},
          {"layout", plan["layout"]},
          {"predicted", plan["predicted"]},
          {"why", row.plan.why},
          {"mtbf_s", row.mtbf_s},
          {"checkpoint_s", row.checkpoint_s},
          {"checkpoint_interval_s", or_null(row.interval_s)},
          {"checkpoint_interval_steps", or_null(row.interval_steps)},
          {"effective_time_ratio", or_null(row.effective_time_ratio)},
          {"effective_days", or_null(row.effective_days)},
          {"effective_cost_usd", or_null(row.effective_cost_usd)}};
}

// "3.2" days, "1.2M" dollars and tokens: a few digits, whatever the size.
std::string short_number(const std::optional<double>& value) {
  if (!value) return "–";
  double rest = *value;
  const char* unit = "";
  for (const char* next : {"K", "M", "B", "T"}) {
    if (rest < 10'000 && !(rest >= 1000 && unit[0] != '\0')) break;
    rest /= 1000;
    unit = next;
  }
  return fmt::format("{:.{}f}{}", rest, rest >= 100 ? 0 : rest >= 10 ? 1 : 2, unit);
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f}%", 100 * *share) : "–";
}

void print_table(const Globals& globals, const std::vector<plan::SweepRow>& rows) {
  Table table({"GPUS", "STEP", "TOK/S", "MFU", "DAYS", "CKPT", "EFF", "DAYS*", "COST*", "LAYOUT"});
  for (const plan::SweepRow& row : rows) {
    const plan::Predicted& p = row.plan.predicted;
    table.add({std::to_string(row.gpus), p.step_s ? human_duration(*p.step_s) : "–",
               short_number(p.tokens_per_s), percent(p.mfu), short_number(p.days),
               row.interval_s ? human_duration(*row.interval_s) : "–",
               percent(row.effective_time_ratio), short_number(row.effective_days),
               row.effective_cost_usd ? "$" + short_number(row.effective_cost_usd) : "–",
               row.plan.feasible ? plan::to_string(row.plan.layout) : "does not fit"});
  }
  print(table.render(globals.color, help_columns()));
}

void print_notes(const SweepQuestion& question, const std::vector<plan::SweepRow>& rows) {
  const plan::SweepRequest request = request_of(question);
  print(wrap(fmt::format(
                 "* with failures: one of a node every {:.0f} h, {} to restart, a checkpoint that "
                 "takes {} on {} nodes. EFF is the share of the time that goes into steps that "
                 "stand, CKPT the interval that makes it largest.",
                 request.failures.node_mtbf_s / 3600, human_duration(request.failures.restart_s),
                 human_duration(rows.front().checkpoint_s), rows.front().nodes),
             0) +
        "\n");
  for (const plan::SweepRow& row : rows) {
    if (!row.plan.feasible) print(wrap(fmt::format("{}: {}", row.gpus, row.plan.reason), 2) + "\n");
  }
  for (const plan::SweepRow& row : rows) {
    if (!row.plan.feasible || row.plan.predicted.step_s) continue;
    print("Times are unknown without --gpu NAME.\n");
    return;
  }
}

}  // namespace

int show_sweep(const Globals& globals, const SweepQuestion& question) {
  const std::vector<plan::SweepRow> rows = plan::sweep(question.job, request_of(question));
  bool fits = false;
  for (const plan::SweepRow& row : rows) fits = fits || row.plan.feasible;
  if (question.csv) {
    print(plan::sweep_csv(rows));
  } else if (globals.json) {
    Json list = Json::array();
    for (const plan::SweepRow& row : rows) list.push_back(row_json(row));
    const plan::SweepRequest request = request_of(question);
    print_json({{"rows", list},
                {"node_mtbf_s", request.failures.node_mtbf_s},
                {"restart_s", request.failures.restart_s}});
  } else {
    print_table(globals, rows);
    print_notes(question, rows);
  }
  return static_cast<int>(fits ? Code::kOk : Code::kDoesNotFit);
}

}  // namespace dsv3::cli
