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
  if (question.mtbf_hours) request.failures.node_mtbf_s = *question.mtbf_hours * 3600;
  if (question.restart_s) request.failures.restart_s = *question.restart_s;
  request.failures.checkpoint_s = question.checkpoint_s.value_or(0);
  request.storage_bytes_per_s = question.storage_gbps.value_or(0) * 1e9;
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
          {"checkpoint_write_s", row.checkpoint_write_s},
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

// Which numbers of GPUs, and by which failures.
void print_head(const SweepQuestion& question) {
  const plan::SweepRequest request = request_of(question);
  std::string text;
  if (question.gpus_from < question.gpus_to)
    text = fmt::format(
        "From {} to {} GPUs: both, and between them the powers of two and three times those. ",
        question.gpus_from, question.gpus_to);
  text += fmt::format("A node fails every {:.0f} h ({}) and a restart takes {}.",
                      request.failures.node_mtbf_s / 3600,
                      question.mtbf_hours
                          ? "--mtbf"
                          : "what Llama 3's 419 interruptions in 54 days on 2,048 nodes come to; "
                            "--mtbf gives another",
                      human_duration(request.failures.restart_s));
  print(wrap(text, 0) + "\n\n");
}

// Each row with its layout below it: no line of a table would hold both.
void print_table(const Globals& globals, const std::vector<plan::SweepRow>& rows) {
  Table table({"GPUS", "STEP", "TOK/S", "MFU", "DAYS", "CKPT", "EFF", "DAYS*", "COST*"});
  for (const plan::SweepRow& row : rows) {
    const plan::Predicted& p = row.plan.predicted;
    table.add({std::to_string(row.gpus), p.step_s ? human_duration(*p.step_s) : "–",
               short_number(p.tokens_per_s), percent(p.mfu), short_number(p.days),
               row.interval_s ? human_duration(*row.interval_s) : "–",
               percent(row.effective_time_ratio), short_number(row.effective_days),
               row.effective_cost_usd ? "$" + short_number(row.effective_cost_usd) : "–"});
  }
  constexpr int kIndent = 4;
  const std::vector<std::string> lines = split(table.render(globals.color, help_columns()), '\n');
  print(lines[0] + "\n");
  for (size_t i = 0; i < rows.size(); ++i) {
    const plan::Plan& plan = rows[i].plan;
    const std::string below = plan.feasible ? plan::to_string(plan.layout) : plan.reason;
    print(lines[i + 1] + "\n" + std::string(kIndent, ' ') +
          wrap(below, kIndent, help_columns() - kIndent) + "\n");
  }
}

void print_notes(const std::vector<plan::SweepRow>& rows) {
  const plan::SweepRow& first = rows.front();
  std::string checkpoint = fmt::format("a checkpoint stops training on {} nodes for {}",
                                       first.nodes, human_duration(first.checkpoint_s));
  if (first.checkpoint_write_s > 0)
    checkpoint += fmt::format(" (its copy) and is written in {} behind it",
                              human_duration(first.checkpoint_write_s));
  print("\n" +
        wrap(fmt::format(
                 "* with failures; {}. EFF is the share of the time that goes into steps that "
                 "stand, CKPT the time between checkpoints that makes it largest.",
                 checkpoint),
             0) +
        "\n");
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
    print_head(question);
    print_table(globals, rows);
    print_notes(rows);
  }
  return static_cast<int>(fits ? Code::kOk : Code::kDoesNotFit);
}

}  // namespace dsv3::cli
