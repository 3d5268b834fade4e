// The newcomer's summary of a finished job; see summary.h.
#include "coordinator/cli/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "coordinator/cli/job_view.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/wait.h"
#include "coordinator/core/expert_stats.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

void line(std::string_view name, const std::string& value) {
  note(fmt::format("  {:<14}{}", name, value));
}

Result<std::vector<wire::StepMetrics>> all_steps(transport::Client& client,
                                                 const std::string& job) {
  std::vector<wire::StepMetrics> steps;
  int64_t after = -1;
  while (true) {
    wire::Envelope request, envelope;
    request.mutable_metrics()->set_job(job);
    request.mutable_metrics()->set_after_step(after);
    DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
    for (const wire::MetricRow& row : envelope.metrics_reply().metrics())
      steps.push_back(row.metrics());
    if (!envelope.metrics_reply().more() || steps.empty()) return steps;
    after = steps.back().step();
  }
}

void print_losses(const wire::JobStatus& job, const std::vector<wire::StepMetrics>& steps) {
  line("loss", fmt::format("{:.4f} at step {} -> {:.4f} at step {}", steps.front().loss(),
                           steps.front().step(), steps.back().loss(), steps.back().step()));
  if (job.has_validation()) {
    const double entropy = job.start().unigram_entropy();
    line("validation",
         fmt::format(
             "{:.4f}{}", job.validation().loss(),
             entropy <= 0 ? ""
             : job.validation().loss() < entropy
                 ? fmt::format(" (below the text's unigram entropy, {:.2f}, context is used)",
                               entropy)
                 : fmt::format(" (the text's unigram entropy is {:.2f})", entropy)));
  }
  std::vector<double> speeds;
  for (const wire::StepMetrics& step : steps) speeds.push_back(step.tokens_per_s());
  std::nth_element(speeds.begin(), speeds.begin() + static_cast<int64_t>(speeds.size() / 2),
                   speeds.end());
  line("speed", fmt::format("{} tokens/s (median), mfu {:.1f} % of a measured {} GEMM",
                            with_commas(static_cast<int64_t>(speeds[speeds.size() / 2])),
                            100 * steps.back().mfu(), job.start().compute_dtype()));
}

Status print_experts(transport::Client& client, const std::string& job) {
  wire::Envelope request, envelope;
  request.mutable_experts()->set_job(job);
  const Status status = ask(client, request, &envelope);
  if (status.code() == Code::kNotFound) return {};  // a model without experts
  DSV3_RETURN_IF_ERROR(status);
  double entropy = 0, worst = 0;
  size_t dead = 0, layers = 0;
  uint64_t choices = 0;
  for (const wire::LayerCounts& layer : envelope.experts_reply().counts().layers()) {
    const std::vector<uint64_t> tokens(layer.tokens().begin(), layer.tokens().end());
    const core::ExpertStats stats = core::expert_stats(tokens);
    entropy += stats.entropy;
    worst = std::max(worst, stats.max_violation);
    dead += stats.dead.size();
    choices += stats.total;
    ++layers;
  }
  if (layers == 0) return {};
  line("experts", fmt::format("entropy {:.3f} of 1, busiest expert {:+.0f} %, {} dead ({} layers)",
                              entropy / static_cast<double>(layers), 100 * worst, dead, layers));
  const int64_t dropped = envelope.experts_reply().dropped();
  if (dropped > 0) {
    line("dropped", fmt::format("{:.3g} % of the choices of step {}: their experts were full",
                                100 * core::dropped_share(dropped, choices),
                                envelope.experts_reply().counts().step()));
  }
  return {};
}

}  // namespace

Status print_summary(transport::Client& client, const wire::JobStatus& job) {
  note("");
  note(fmt::format("{} {}{}", job.id(), state_name(job),
                   job.reason().empty() ? "" : ": " + job.reason()));
  DSV3_ASSIGN_OR_RETURN(const auto steps, all_steps(client, job.id()));
  if (!steps.empty()) {
    print_losses(job, steps);
    DSV3_RETURN_IF_ERROR(print_experts(client, job.id()));
  }
  if (job.has_ended_unix_ns()) {
    line("time",
         human_duration(static_cast<double>(job.ended_unix_ns() - job.submitted_unix_ns()) / 1e9));
  }
  if (job.has_checkpoint()) line("checkpoint", job.checkpoint().path());
  wire::Envelope request, envelope;
  request.mutable_ping();
  DSV3_RETURN_IF_ERROR(ask(client, request, &envelope));
  line("database", envelope.ping_reply().coordinator().state_dir() + "/dsv3d.db");
  note("try next:");
  if (exit_code_of(job) != 0) {
    note(fmt::format("  dsv3ctl logs {}", job.id()));
    note(fmt::format("  dsv3ctl events {}", job.id()));
    note(fmt::format("  dsv3ctl status {}", job.id()));
    return {};
  }
  note(fmt::format("  dsv3ctl experts {}", job.id()));
  note(fmt::format("  dsv3ctl metrics {} --last 5", job.id()));
  note(fmt::format("  dsv3ctl sql \"SELECT step, loss FROM metrics WHERE job = '{}' LIMIT 5\"",
                   job.id()));
  return {};
}

}  // namespace dsv3::cli
