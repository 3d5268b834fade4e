// dsv3ctl memory: each rank's ledger, what the plan predicted beside what the arena measured.
//
// Law: both totals are of the same lines. What lies outside of the arena (the process itself) is
// listed and never added to what is held against a measured sum.
#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/text.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/rank_grid.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string job;
  std::optional<int64_t> rank;  // only this one
};

// A rank's ledger and its place in the layout.
struct Placed {
  const wire::RankLedger& rank;
  plan::RankPosition at;
};

// 0 predicted means that the plan has no line of that name.
Json predicted_json(int64_t bytes) {
  return bytes > 0 ? Json(bytes) : Json(nullptr);
}

// What the arena can't see is unknown, not 0.
bool is_measured(const wire::MemoryEntry& entry) {
  return entry.measured_bytes() > 0 || !plan::is_outside_arena(entry.name());
}

struct Totals {
  int64_t predicted = 0;  // of what is measured
  int64_t measured = 0;
  int64_t outside = 0;  // predicted, of what is not
};

Totals totals_of(const wire::RankLedger& rank) {
  Totals totals;
  for (const wire::MemoryEntry& entry : rank.ledger().entries()) {
    (is_measured(entry) ? totals.predicted : totals.outside) += entry.predicted_bytes();
    totals.measured += entry.measured_bytes();
  }
  return totals;
}

Json rank_json(const Placed& placed) {
  const auto& [rank, at] = placed;
  Json names = Json::array();
  const Totals totals = totals_of(rank);
  for (const wire::MemoryEntry& entry : rank.ledger().entries()) {
    names.push_back(
        {{"name", entry.name()},
         {"predicted_bytes", predicted_json(entry.predicted_bytes())},
         {"measured_bytes", is_measured(entry) ? Json(entry.measured_bytes()) : Json(nullptr)}});
  }
  return {{"global_rank", rank.rank()},
          {"tp_rank", at.tp_rank},
          {"cp_rank", at.cp_rank},
          {"ep_rank", at.ep_rank},
          {"dp_rank", at.dp_rank},
          {"pp_stage", at.pp_stage},
          {"names", names},
          {"predicted_bytes", predicted_json(totals.predicted)},
          {"measured_bytes", totals.measured},
          {"predicted_outside_bytes", totals.outside}};
}

// "+0.12 %" of what was measured; "–" where either is unknown.
std::string error_text(int64_t predicted, int64_t measured) {
  if (predicted == 0 || measured == 0) return "–";
  return fmt::format("{:+.2f} %", 100.0 * static_cast<double>(predicted - measured) /
                                      static_cast<double>(measured));
}

// "rank 5 (tp 1, pp 2)": axes of size 1 are left out.
std::string rank_title(const plan::Layout& layout, const Placed& placed) {
  std::string place;
  const auto axis = [&place](const char* name, int64_t size, int64_t at) {
    if (size > 1) place += fmt::format("{}{} {}", place.empty() ? "" : ", ", name, at);
  };
  const plan::RankPosition& at = placed.at;
  axis("tp", layout.tp, at.tp_rank);
  axis("cp", layout.cp, at.cp_rank);
  axis("pp", layout.pp, at.pp_stage);
  axis("ep", layout.ep, at.ep_rank);
  axis("dp", layout.dp, at.dp_rank);
  return fmt::format("rank {}{}", placed.rank.rank(), place.empty() ? "" : " (" + place + ")");
}

std::string rank_text(const Globals& globals, const plan::Layout& layout, const Placed& placed) {
  const wire::RankLedger& rank = placed.rank;
  Table table({"NAME", "PREDICTED", "MEASURED", "ERROR"});
  const auto add = [&table](const std::string& name, int64_t predicted, int64_t measured,
                            bool known) {
    table.add({name, predicted > 0 ? human_bytes(predicted) : "–",
               known ? human_bytes(measured) : "–", error_text(predicted, known ? measured : 0)});
  };
  const Totals totals = totals_of(rank);
  for (const bool measured : {true, false}) {
    for (const wire::MemoryEntry& entry : rank.ledger().entries()) {
      if (is_measured(entry) == measured)
        add(entry.name(), entry.predicted_bytes(), entry.measured_bytes(), measured);
    }
    if (measured) add("total", totals.predicted, totals.measured, true);
  }
  return fmt::format("{}\n{}", rank_title(layout, placed), table.render(globals.color));
}

// One line a rank: where the layout's memory is, and where the prediction is off.
std::string totals_text(const Globals& globals, const plan::Layout& layout,
                        const std::vector<Placed>& ranks) {
  Table table({"TOTALS", "PREDICTED", "MEASURED", "ERROR"});
  for (const Placed& placed : ranks) {
    const Totals totals = totals_of(placed.rank);
    table.add({rank_title(layout, placed),
               totals.predicted > 0 ? human_bytes(totals.predicted) : "–",
               human_bytes(totals.measured), error_text(totals.predicted, totals.measured)});
  }
  return table.render(globals.color);
}

// The layout that the job was submitted with.
Result<plan::Layout> layout_of(transport::Client& client, const std::string& job) {
  wire::Envelope request, envelope;
  request.mutable_status()->set_job(job);
  DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
  if (envelope.status_reply().jobs().empty())
    return Status(Code::kNotFound, fmt::format("there is no job {}", job));
  return plan::parse_layout(envelope.status_reply().jobs(0).layout_json());
}

int memory(const Globals& globals, const Options& options) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_memory()->set_job(options.job);
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  const Result<plan::Layout> layout = layout_of(*client, options.job);
  if (!layout.ok()) return fail(globals, layout.status());
  const plan::RankGrid grid(*layout);
  if (options.rank && *options.rank >= grid.world_size()) {
    return fail(globals, Status(Code::kNotFound,
                                fmt::format("job {} has no rank {}", options.job, *options.rank),
                                fmt::format("its ranks are 0 to {}", grid.world_size() - 1)));
  }
  std::vector<Placed> ranks;
  for (const wire::RankLedger& rank : envelope.memory_reply().ranks()) {
    if (rank.rank() >= grid.world_size() || (options.rank && rank.rank() != *options.rank))
      continue;
    ranks.push_back({rank, grid.position(rank.rank())});
  }
  if (globals.json) {
    Json list = Json::array();
    for (const Placed& rank : ranks) list.push_back(rank_json(rank));
    print_json({{"ranks", list}});
    return 0;
  }
  if (ranks.empty()) print(fmt::format("job {} has not reported its memory yet\n", options.job));
  for (const Placed& rank : ranks) print(rank_text(globals, *layout, rank));
  if (ranks.size() > 1) print(totals_text(globals, *layout, ranks));
  return 0;
}

}  // namespace

Verb make_memory() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "memory";
  verb.group = "Look";
  verb.summary = "Memory by name and rank: predicted beside measured";
  verb.help =
      "A dash: not predicted, or outside what is measured (the process itself, below "
      "the total). The prediction is that of the rank's own pipeline stage.\n"
      "Examples:\n  dsv3ctl memory demo-1\n  dsv3ctl memory demo-1 --rank 3";
  verb.options = {{"JOB", &options->job, "Job id", true, Completes::kJob, {}},
                  {"--rank",
                   &options->rank,
                   "Only this global rank",
                   false,
                   Completes::kNothing,
                   {},
                   Range{0, kAnyCount}}};
  verb.run = [options](const Globals& globals) { return memory(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
