// See auto_plan.h.
#include "cluster/plan/auto_plan.h"

#include <fmt/format.h>

#include <utility>

#include "cluster/plan/recommend.h"
#include "configs/spec/validate.h"

namespace dsv3::plan {
namespace {

// The preset, and the sentence that says why it is this one.
Result<std::pair<std::string, std::string>> choose(const ClusterSpec& cluster,
                                                   const std::vector<NamedJob>& presets,
                                                   int64_t tokens) {
  const Hardware hardware = hardware_of(cluster);
  const Recommendation said = hardware.gpus > 0 ? recommend(hardware, presets, {.tokens = tokens})
                                                : recommend_on_cpus(cluster, presets);
  if (!said.config.empty()) return std::pair(said.config, said.reason);
  return Status(Code::kDoesNotFit, said.reason, "see 'dsv3ctl recommend'");
}

Result<spec::JobSpec> load(const std::string& config, const AutoRequest& request) {
  DSV3_ASSIGN_OR_RETURN(spec::Parsed parsed, request.load(config));
  std::vector<spec::Diagnostic> all = parsed.diagnostics;
  if (parsed.ok()) {
    spec::JobSpec& job = parsed.job;
    const int64_t of_a_step = job.training.global_batch_size * job.training.seq_length;
    if (request.tokens > 0 && of_a_step > 0)
      job.training.max_steps = (request.tokens - 1) / of_a_step + 1;
    const auto meaning = spec::validate(job, {.for_submit = true, .origins = &parsed.origins});
    all.insert(all.end(), meaning.begin(), meaning.end());
  }
  if (spec::has_errors(all)) return spec::to_status(all);
  return std::move(parsed.job);
}

// The pick can't be started: why, why it was picked, and what can be started instead.
Status not_here(const Status& refused, const std::string& picked_for, const ClusterSpec& cluster,
                const std::vector<NamedJob>& presets) {
  std::string hint = refused.hint();
  const Recommendation on_cpus = recommend_on_cpus(cluster, presets);
  if (hardware_of(cluster).gpus > 0 && !on_cpus.config.empty()) {
    hint += fmt::format("{}'dsv3ctl submit {}' runs on the CPUs here", hint.empty() ? "" : "; ",
                        on_cpus.config);
  }
  return Status(refused.code(),
                fmt::format("{} (it was picked because: {})", refused.message(), picked_for), hint);
}

}  // namespace

Result<AutoChoice> choose_job(const ClusterSpec& cluster, const std::vector<NamedJob>& presets,
                              const AutoRequest& request) {
  DSV3_ASSIGN_OR_RETURN(const auto chosen, choose(cluster, presets, request.tokens));
  AutoChoice choice;
  choice.config = chosen.first;
  choice.why = fmt::format("{}: {}.", choice.config, chosen.second);
  DSV3_ASSIGN_OR_RETURN(choice.job, load(choice.config, request));
  PlanOptions options;
  options.tokens = request.tokens;
  options.must_run = true;
  const auto measured = request.measured(choice.job);
  if (measured && choice.job.cluster.devices == "cpu") options.device = &*measured;
  choice.plan = plan::plan(choice.job, cluster, options);
  if (Status status = refusal(choice.plan, choice.job, cluster); !status.ok())
    return not_here(status, chosen.second, cluster, presets);
  if (!choice.plan.why.empty()) choice.why += " " + choice.plan.why;
  choice.job = settled(std::move(choice.job), choice.plan);
  return choice;
}

}  // namespace dsv3::plan
