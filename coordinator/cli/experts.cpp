// dsv3ctl experts: how evenly each layer's experts were used in a step.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/core/expert_stats.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string job;
  std::optional<int64_t> step;
};

Json layer_json(const wire::LayerCounts& layer, const core::ExpertStats& stats) {
  return {{"layer", layer.layer()},
          {"tokens", std::vector<uint64_t>(layer.tokens().begin(), layer.tokens().end())},
          {"usage_mean", stats.usage_mean},
          {"usage_std", stats.usage_std},
          {"usage_min", stats.usage_min},
          {"usage_max", stats.usage_max},
          {"entropy", stats.entropy},
          {"max_violation", stats.max_violation},
          {"dead", stats.dead},
          {"verdict", stats.verdict}};
}

std::vector<std::string> layer_row(const wire::LayerCounts& layer, const core::ExpertStats& stats) {
  std::string dead;
  for (const int32_t expert : stats.dead)
    dead += (dead.empty() ? "" : ",") + std::to_string(expert);
  return {std::to_string(layer.layer()),
          fmt::format("{:.4f}", stats.usage_mean),
          fmt::format("{:.4f}", stats.usage_std),
          fmt::format("{:.4f}", stats.usage_min),
          fmt::format("{:.4f}", stats.usage_max),
          fmt::format("{:.4f}", stats.entropy),
          fmt::format("{:.3f}", stats.max_violation),
          dead.empty() ? "none" : dead,
          std::string(stats.verdict)};
}

// What a capacity cost the step, for people.
std::string dropped_text(int64_t dropped, uint64_t choices) {
  return wrap(fmt::format("{:.3g} % of the choices ({} of {}) were dropped, their experts being "
                          "full: a larger moe.capacity_factor drops fewer",
                          100 * core::dropped_share(dropped, choices), with_commas(dropped),
                          with_commas(static_cast<int64_t>(choices))),
              0, help_columns());
}

int experts(const Globals& globals, const Options& options) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_experts()->set_job(options.job);
  if (options.step) request.mutable_experts()->set_step(*options.step);
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  const wire::ExpertsReply& reply = envelope.experts_reply();
  Json layers = Json::array();
  uint64_t choices = 0;
  Table table({"LAYER", "MEAN", "STD", "MIN", "MAX", "ENTROPY", "MAX VIO", "DEAD", "VERDICT"});
  for (const wire::LayerCounts& layer : reply.counts().layers()) {
    const std::vector<uint64_t> tokens(layer.tokens().begin(), layer.tokens().end());
    const core::ExpertStats stats = core::expert_stats(tokens);
    layers.push_back(layer_json(layer, stats));
    table.add(layer_row(layer, stats));
    choices += stats.total;
  }
  if (globals.json) {
    const bool known = reply.has_dropped();
    print_json({{"step", reply.counts().step()},
                {"attempt", reply.attempt()},
                {"dropped", known ? Json(reply.dropped()) : Json(nullptr)},
                {"dropped_share",
                 known ? Json(core::dropped_share(reply.dropped(), choices)) : Json(nullptr)},
                {"layers", layers}});
  } else {
    print(
        fmt::format("step {}: share of the tokens per expert; entropy over ln E (1 is even);\n"
                    "max vio is max/mean - 1\n",
                    reply.counts().step()));
    print(table.render(globals.color));
    if (reply.dropped() > 0)
      print(paint(dropped_text(reply.dropped(), choices), Color::kYellow, globals.color) + "\n");
  }
  return 0;
}

}  // namespace

Verb make_experts() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "experts";
  verb.group = "Look";
  verb.summary = "How evenly the experts are used, per layer, with a verdict";
  verb.help =
      "dead: experts with less than a tenth of the mean. Counts are the routers' choices; how many "
      "of them a capacity (moe.capacity_factor) then dropped stands below.\n"
      "Examples:\n"
      "  dsv3ctl experts demo-1\n"
      "  dsv3ctl experts demo-1 --step 100 --json";
  verb.options = {{"JOB", &options->job, "Job id", true, Completes::kJob, {}},
                  {"--step",
                   &options->step,
                   "Step (default: the newest)",
                   false,
                   Completes::kNothing,
                   {},
                   Range{0, kAnyCount}}};
  verb.run = [options](const Globals& globals) { return experts(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
