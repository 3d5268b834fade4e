// dsv3ctl memory: each rank's ledger, what the plan predicted beside what the arena measured.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
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

// What is predicted and never measured lies outside the arena (the process itself): unknown, not 0.
bool is_measured(const wire::MemoryEntry& entry) {
  return entry.measured_bytes() > 0 || entry.predicted_bytes() == 0;
}

Json rank_json(const wire::RankLedger& rank) {
  Json names = Json::array();
  int64_t predicted = 0, measured = 0;
  for (const wire::MemoryEntry& entry : rank.ledger().entries()) {
    names.push_back(
        {{"name", entry.name()},
         {"predicted_bytes", predicted_json(entry.predicted_bytes())},
         {"measured_bytes", is_measured(entry) ? Json(entry.measured_bytes()) : Json(nullptr)}});
    predicted += entry.predicted_bytes();
    measured += entry.measured_bytes();
  }
  return {{"global_rank", rank.rank()},
          {"names", names},
          {"predicted_bytes", predicted_json(predicted)},
          {"measured_bytes", measured}};
}

std::string rank_text(const Globals& globals, const wire::RankLedger& rank) {
  Table table({"NAME", "PREDICTED", "MEASURED"});
  int64_t predicted = 0, measured = 0;
  for (const wire::MemoryEntry& entry : rank.ledger().entries()) {
    table.add({entry.name(),
               entry.predicted_bytes() > 0 ? human_bytes(entry.predicted_bytes()) : "–",
               is_measured(entry) ? human_bytes(entry.measured_bytes()) : "–"});
    predicted += entry.predicted_bytes();
    measured += entry.measured_bytes();
  }
  table.add({"total", human_bytes(predicted), human_bytes(measured)});
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
      "A dash: not predicted, or outside what is measured (the process itself).\n"
      "Example:\n  dsv3ctl memory demo-1";
  verb.options = {{"JOB", job.get(), "Job id", true, Completes::kJob, {}}};
  verb.run = [job](const Globals& globals) { return memory(globals, *job); };
  return verb;
}

}  // namespace dsv3::cli
