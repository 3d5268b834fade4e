// dsv3ctl memory: each rank's ledger, what the plan predicted beside what the arena measured.
//
// Law: both totals are of the same lines. What lies outside of the arena (the process itself) is
// listed and never added to what is held against a measured sum.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cluster/plan/memory.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

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

Json rank_json(const wire::RankLedger& rank) {
  Json names = Json::array();
  const Totals totals = totals_of(rank);
  for (const wire::MemoryEntry& entry : rank.ledger().entries()) {
    names.push_back(
        {{"name", entry.name()},
         {"predicted_bytes", predicted_json(entry.predicted_bytes())},
         {"measured_bytes", is_measured(entry) ? Json(entry.measured_bytes()) : Json(nullptr)}});
  }
  return {{"global_rank", rank.rank()},
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

std::string rank_text(const Globals& globals, const wire::RankLedger& rank) {
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
  return fmt::format("rank {}\n{}", rank.rank(), table.render(globals.color));
}

int memory(const Globals& globals, const std::string& job) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_memory()->set_job(job);
  if (Status status = ask(*client, request, &envelope); !status.ok()) return fail(globals, status);
  const wire::MemoryReply& reply = envelope.memory_reply();
  if (globals.json) {
    Json ranks = Json::array();
    for (const wire::RankLedger& rank : reply.ranks()) ranks.push_back(rank_json(rank));
    print_json({{"ranks", ranks}});
    return 0;
  }
  if (reply.ranks().empty()) print(fmt::format("job {} has not reported its memory yet\n", job));
  for (const wire::RankLedger& rank : reply.ranks()) print(rank_text(globals, rank));
  return 0;
}

}  // namespace

Verb make_memory() {
  auto job = std::make_shared<std::string>();
  Verb verb;
  verb.name = "memory";
  verb.group = "Look";
  verb.summary = "Memory by name and rank: predicted beside measured";
  verb.help =
      "A dash: not predicted, or outside what is measured (the process itself, below "
      "the total).\n"
      "Example:\n  dsv3ctl memory demo-1";
  verb.options = {{"JOB", job.get(), "Job id", true, Completes::kJob, {}}};
  verb.run = [job](const Globals& globals) { return memory(globals, *job); };
  return verb;
}

}  // namespace dsv3::cli
