// dsv3ctl metrics: one JSON object a line (with --json), or a table of the last steps. Losses read
// back exactly.
#include <fmt/format.h>

#include <algorithm>
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

struct Options {
  std::string job;
  int64_t after_step = -1;
  int64_t last = 20;
};

Json row_json(const wire::MetricRow& row) {
  const wire::StepMetrics& m = row.metrics();
  return {{"attempt", row.attempt()},
          {"step", m.step()},
          {"loss", m.loss()},
          {"lm_loss", m.lm_loss()},
          {"mtp_loss", m.mtp_loss()},
          {"aux_loss", m.aux_loss()},
          {"z_loss", m.z_loss()},
          {"grad_norm", m.grad_norm()},
          {"lr", m.lr()},
          {"tokens", m.tokens()},
          {"tokens_per_s", m.tokens_per_s()},
          {"mfu", m.mfu()},
          {"step_s", m.step_s()},
          {"memory_bytes", m.memory_bytes()},
          {"dropped", m.has_dropped() ? Json(m.dropped()) : Json(nullptr)}};
}

// All rows after a step, in pages.
Result<std::vector<wire::MetricRow>> fetch(transport::Client& client, const Options& options,
                                           std::vector<wire::ValidationRow>* validations) {
  std::vector<wire::MetricRow> rows;
  int64_t after = options.after_step;
  while (true) {
    wire::Envelope request, envelope;
    request.mutable_metrics()->set_job(options.job);
    request.mutable_metrics()->set_after_step(after);
    DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
    const wire::MetricsReply& reply = envelope.metrics_reply();
    rows.insert(rows.end(), reply.metrics().begin(), reply.metrics().end());
    validations->insert(validations->end(), reply.validations().begin(), reply.validations().end());
    if (!reply.more() || reply.metrics().empty()) return rows;
    after = reply.metrics(reply.metrics_size() - 1).metrics().step();
  }
}

void print_table(const Globals& globals, const std::vector<wire::MetricRow>& rows,
                 const Options& options, const std::vector<wire::ValidationRow>& validations) {
  // A column for those whose experts have a capacity, and for nobody else.
  const bool drops = std::any_of(rows.begin(), rows.end(), [](const wire::MetricRow& row) {
    return row.metrics().dropped() > 0;
  });
  std::vector<std::string> header = {"STEP", "LOSS",  "AUX", "GRAD NORM",
                                     "LR",   "TOK/S", "MFU", "STEP S"};
  if (drops) header.emplace_back("DROPPED");
  Table table(header);
  const size_t shown =
      std::min(rows.size(), static_cast<size_t>(std::max<int64_t>(options.last, 1)));
  for (size_t i = rows.size() - shown; i < rows.size(); ++i) {
    const wire::StepMetrics& m = rows[i].metrics();
    std::vector<std::string> row = {std::to_string(m.step()),
                                    fmt::format("{:.4f}", m.loss()),
                                    fmt::format("{:.2e}", m.aux_loss()),
                                    fmt::format("{:.3f}", m.grad_norm()),
                                    fmt::format("{:.2e}", m.lr()),
                                    with_commas(static_cast<int64_t>(m.tokens_per_s())),
                                    fmt::format("{:.1f} %", 100 * m.mfu()),
                                    fmt::format("{:.3f}", m.step_s())};
    if (drops) row.push_back(m.has_dropped() ? with_commas(m.dropped()) : "–");
    table.add(std::move(row));
  }
  print(table.render(globals.color));
  for (const wire::ValidationRow& row : validations) {
    print(fmt::format("validation at step {}: {:.4f}\n", row.validation().step(),
                      row.validation().loss()));
  }
}

int metrics(const Globals& globals, const Options& options) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  std::vector<wire::ValidationRow> validations;
  auto rows = fetch(*client, options, &validations);
  if (!rows.ok()) return fail(globals, rows.status());
  if (globals.json) {
    for (const wire::MetricRow& row : *rows) print_json_line(row_json(row));
  } else if (rows->empty()) {
    print(fmt::format("job {} has not finished a step yet\n", options.job));
  } else {
    print_table(globals, *rows, options, validations);
  }
  return 0;
}

}  // namespace

Verb make_metrics() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "metrics";
  verb.group = "Look";
  verb.summary = "Loss, gradient norm, speed of every step";
  verb.help =
      "With --json one object a line, every step once, with its last attempt. dropped: choices of "
      "an expert beyond moe.capacity_factor (null: not known of this step).\n"
      "Examples:\n"
      "  dsv3ctl metrics demo-1\n"
      "  dsv3ctl metrics demo-1 --json | tail -1";
  verb.options = {{"JOB", &options->job, "Job id", true, Completes::kJob, {}},
                  {"--after-step",
                   &options->after_step,
                   "Only steps after this one",
                   false,
                   Completes::kNothing,
                   {},
                   Range{-1, kAnyCount}},
                  {"--last",
                   &options->last,
                   "Rows of the table (default 20)",
                   false,
                   Completes::kNothing,
                   {},
                   Range{1, 1e9}}};
  verb.run = [options](const Globals& globals) { return metrics(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
