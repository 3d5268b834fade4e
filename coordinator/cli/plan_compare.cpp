// dsv3ctl plan --compare A --compare B: two layouts of a job side by side; see plan_views.h.
#include "cluster/plan/compare.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
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
          {"fits", side.fits},
          {"peak_memory_bytes", side.fault.empty() ? Json(side.peak_bytes) : Json(nullptr)},
          {"worst_stage", side.worst_stage},
          {"ledger", ledger},
          {"step_s", or_null(side.step_s)},
          {"tokens_per_s", or_null(side.tokens_per_s)},
          {"time", time}};
}

Json to_json(const plan::Comparison& comparison) {
  Json differences = Json::array();
  for (const plan::LayoutDifference& d : comparison.differences)
    differences.push_back({{"name", d.name}, {"left", d.left}, {"right", d.right}});
  return {{"left", side_json(comparison.left)},
          {"right", side_json(comparison.right)},
          {"differences", differences},
          {"verdict", comparison.verdict}};
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

// What the ranks run on, how many there are, and what one may use.
struct Place {
  plan::DeviceKind kind = plan::DeviceKind::kCpu;
  int64_t devices = 0;  // 0: as many ranks as are asked for
  int64_t ranks_per_device = 1;
  std::string gpu;
};

Place place_of(const PlanQuestion& question) {
  Place place;
  place.devices = plan::count_devices(question.cluster, plan::DeviceKind::kCuda);
  const bool has_cpu = plan::count_devices(question.cluster, plan::DeviceKind::kCpu) > 0;
  if (!has_cpu || question.job.cluster.devices == "cuda") {
    place.kind = plan::DeviceKind::kCuda;
    for (const plan::Node& node : question.cluster.nodes)
      for (const plan::Device& device : node.devices)
        if (device.kind == plan::DeviceKind::kCuda && place.gpu.empty()) place.gpu = device.name;
  } else {
    place.devices = 0;
  }
  return place;
}

// What times are predicted by; absent where nothing is known.
std::optional<plan::DeviceModel> device_of(const PlanQuestion& question, const Place& place) {
  const plan::DeviceModel* given = question.options.device;
  if (place.kind == plan::DeviceKind::kCuda)
    return given ? std::optional(*given)
                 : plan::gpu_device_model(place.gpu, question.job.training.dtype);
  return given ? std::optional(given->shared_by(place.ranks_per_device)) : std::nullopt;
}

}  // namespace

int show_compare(const Globals& globals, const PlanQuestion& asked,
                 const std::vector<std::string>& layouts) {
  Place place = place_of(asked);
  PlanQuestion question = asked;
  // As plan() does: a cluster of GPUs only decides for it.
  question.job.cluster.devices = plan::device_kind_name(place.kind);
  std::vector<plan::Layout> parsed;
  for (const std::string& text : layouts) {
    auto layout = plan::parse_layout(text, question.job, place.devices);
    if (!layout.ok())
      return fail(globals, Status(layout.status().code(), "--compare: " + layout.status().message(),
                                  layout.status().hint()));
    parsed.push_back(std::move(layout).value());
  }
  if (place.kind == plan::DeviceKind::kCpu)
    place.ranks_per_device = std::max(parsed[0].world_size(), parsed[1].world_size());
  const plan::MemoryModel model = memory_model_of(question, place.kind, place.ranks_per_device);
  const int64_t memory =
      plan::smallest_memory_bytes(question.cluster, place.kind) / place.ranks_per_device;
  const std::optional<plan::DeviceModel> device = device_of(question, place);
  const plan::Comparison comparison =
      plan::compare(model, device ? &*device : nullptr, memory, parsed[0], parsed[1]);
  if (globals.json) {
    print_json(to_json(comparison));
  } else {
    print(plan_line("first", plan::to_string(comparison.left.layout)) +
          plan_line("second", plan::to_string(comparison.right.layout)) + "\n");
    print(table_text(globals, comparison) + "\n");
    print(plan_line("verdict", comparison.verdict));
  }
  const bool any = comparison.left.fits || comparison.right.fits;
  return static_cast<int>(any ? Code::kOk : Code::kDoesNotFit);
}

}  // namespace dsv3::cli
