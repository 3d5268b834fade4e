// dsv3ctl plan --compare A --compare B: two layouts of a job side by side; see plan_views.h.
#include "cluster/plan/compare.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cluster/plan/plan_choice.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/plan_views.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json side_json(const plan::ComparedLayout& side) {
  Json ledger = Json::array(), time = Json::array();
  for (const plan::LedgerLine& line : side.ledger)
    ledger.push_back({{"name", line.name}, {"bytes", line.bytes}});
  for (const plan::TimeLine& line : side.time)
    time.push_back({{"name", line.name}, {"seconds", line.seconds}});
  return {{"layout", Json::parse(plan::layout_json(side.layout))},
          {"text", plan::to_string(side.layout)},
          {"valid", side.fault.empty()},
          {"reason", side.fault},
          {"ranks", side.layout.world_size()},
          {"sequences_per_step", plan::sequences_per_step(side.layout)},
          {"fits", side.fits},
          {"peak_memory_bytes", side.fault.empty() ? Json(side.peak_bytes) : Json(nullptr)},
          {"worst_stage", side.worst_stage},
          {"ledger", ledger},
          {"step_s", or_null(side.step_s)},
          {"tokens_per_s", or_null(side.tokens_per_s)},
          {"time", time}};
}

Json to_json(const plan::Comparison& comparison, const std::optional<plan::TimedBy>& timed_by) {
  Json differences = Json::array();
  for (const plan::LayoutDifference& d : comparison.differences)
    differences.push_back({{"name", d.name}, {"left", d.left}, {"right", d.right}});
  Json device = nullptr;
  if (timed_by)
    device = {{"name", timed_by->name},
              {"source", timed_by->source},
              {"measured", timed_by->measured},
              {"assumed", timed_by->assumed}};
  return {{"left", side_json(comparison.left)},
          {"right", side_json(comparison.right)},
          {"differences", differences},
          {"verdict", comparison.verdict},
          {"timed_by", device}};
}

std::string seconds_text(double seconds) {
  return seconds < 1 ? fmt::format("{:.1f} ms", 1000 * seconds) : fmt::format("{:.2f} s", seconds);
}

// The lines of both by name, in the left one's order, then what only the right one has.
template <typename Line, typename Text>
void add_lines(const std::vector<Line>& left, const std::vector<Line>& right, const Text& text,
               Table* table) {
  const auto find = [](const std::vector<Line>& lines, const std::string& name) -> const Line* {
    for (const Line& line : lines)
      if (line.name == name) return &line;
    return nullptr;
  };
  for (const Line& line : left) {
    const Line* other = find(right, line.name);
    table->add({"  " + line.name, text(line), other ? text(*other) : "–"});
  }
  for (const Line& line : right)
    if (!find(left, line.name)) table->add({"  " + line.name, "–", text(line)});
}

std::string fits_text(const plan::ComparedLayout& side) {
  return !side.fault.empty() ? "not valid" : side.fits ? "yes" : "no";
}

std::string table_text(const Globals& globals, const plan::Comparison& comparison) {
  const plan::ComparedLayout& left = comparison.left;
  const plan::ComparedLayout& right = comparison.right;
  Table table({"", "FIRST", "SECOND"});
  for (const plan::LayoutDifference& d : comparison.differences)
    table.add({d.name, d.left, d.right});
  table.add({"ranks", std::to_string(left.layout.world_size()),
             std::to_string(right.layout.world_size())});
  table.add({"fits", fits_text(left), fits_text(right)});
  const auto bytes = [](const plan::ComparedLayout& side) {
    return side.fault.empty() ? human_bytes(side.peak_bytes) : "–";
  };
  table.add({"memory", bytes(left), bytes(right)});
  add_lines(
      left.ledger, right.ledger,
      [](const plan::LedgerLine& line) { return human_bytes(line.bytes); }, &table);
  if (!left.step_s && !right.step_s) return table.render(globals.color);
  const auto step = [](const plan::ComparedLayout& side) {
    return side.step_s ? seconds_text(*side.step_s) : "–";
  };
  table.add({"step", step(left), step(right)});
  add_lines(
      left.time, right.time, [](const plan::TimeLine& line) { return seconds_text(line.seconds); },
      &table);
  const auto speed = [](const plan::ComparedLayout& side) {
    return side.tokens_per_s ? with_commas(static_cast<int64_t>(*side.tokens_per_s)) : "–";
  };
  table.add({"tokens/s", speed(left), speed(right)});
  return table.render(globals.color);
}

}  // namespace

int show_compare(const Globals& globals, const PlanQuestion& asked,
                 const std::vector<std::string>& layouts) {
  const plan::DeviceKind kind = plan::wanted_device(asked.job, asked.cluster);
  const bool cuda = kind == plan::DeviceKind::kCuda;
  PlanQuestion question = asked;
  // As plan() does: a cluster of GPUs only decides for it.
  question.job.cluster.devices = plan::device_kind_name(kind);
  // On CPUs as many ranks as are asked for.
  const int64_t world = cuda ? plan::count_devices(question.cluster, kind) : 0;
  std::vector<plan::Layout> parsed;
  for (const std::string& text : layouts) {
    auto layout = plan::parse_layout(text, question.job, world);
    if (!layout.ok())
      return fail(globals, Status(layout.status().code(), "--compare: " + layout.status().message(),
                                  layout.status().hint()));
    parsed.push_back(std::move(layout).value());
  }
  const int64_t sharing = cuda ? 1 : std::max(parsed[0].world_size(), parsed[1].world_size());
  const plan::MemoryModel model = memory_model_of(question, kind, sharing);
  const int64_t memory = plan::smallest_memory_bytes(question.cluster, kind) / sharing;
  const plan::ChosenDevice device =
      plan::choose_device(question.job, question.cluster, kind, sharing, question.options);
  const plan::Comparison comparison =
      plan::compare(model, device.known ? &device.model : nullptr, memory, parsed[0], parsed[1]);
  std::optional<plan::TimedBy> timed_by;
  if (comparison.left.step_s || comparison.right.step_s)
    timed_by = {device.model.name, device.model.source, device.model.measured, device.assumed};
  if (globals.json) {
    print_json(to_json(comparison, timed_by));
  } else {
    print(plan_line("first", plan::to_string(comparison.left.layout)) +
          plan_line("second", plan::to_string(comparison.right.layout)) + "\n");
    print(table_text(globals, comparison) + "\n");
    print(plan_line("verdict", comparison.verdict));
    if (timed_by) print(plan_line("timed as", timed_as_text(*timed_by)));
  }
  const bool any = comparison.left.fits || comparison.right.fits;
  return static_cast<int>(any ? Code::kOk : Code::kDoesNotFit);
}

}  // namespace dsv3::cli
