// See auto_pick.h.
#include "coordinator/daemon/auto_pick.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "base/text.h"
#include "cluster/inventory/calibration_file.h"
#include "cluster/plan/recommend.h"
#include "configs/spec/parse.h"
#include "configs/spec/presets.h"
#include "configs/spec/render.h"
#include "configs/spec/validate.h"

namespace dsv3::daemon {
namespace {

constexpr const char* kDemoData = "@demo";

// The preset, and the sentence that says why it is this one.
Result<std::pair<std::string, std::string>> choose(const plan::ClusterSpec& cluster,
                                                   const std::vector<plan::NamedJob>& presets,
                                                   int64_t tokens) {
  const plan::Hardware hardware = plan::hardware_of(cluster);
  const plan::Recommendation said = hardware.gpus > 0
                                        ? plan::recommend(hardware, presets, {.tokens = tokens})
                                        : plan::recommend_on_cpus(cluster, presets);
  if (!said.config.empty()) return std::pair(said.config, said.reason);
  return Status(Code::kDoesNotFit, said.reason, "see 'dsv3ctl recommend'");
}

Result<spec::JobSpec> load(const std::string& config, const wire::SubmitAutoRequest& request) {
  spec::LoadRequest wanted;
  wanted.file = config;
  wanted.overlays = {request.overlays().begin(), request.overlays().end()};
  wanted.deepspeed = request.deepspeed();
  wanted.set = {request.overrides().begin(), request.overrides().end()};
  DSV3_ASSIGN_OR_RETURN(spec::Parsed parsed, spec::load(wanted));
  std::vector<spec::Diagnostic> all = parsed.diagnostics;
  if (parsed.ok()) {
    spec::JobSpec& job = parsed.job;
    const int64_t of_a_step = job.training.global_batch_size * job.training.seq_length;
    if (request.tokens() > 0 && of_a_step > 0)
      job.training.max_steps = (request.tokens() - 1) / of_a_step + 1;
    const auto meaning = spec::validate(job, {.for_submit = true, .origins = &parsed.origins});
    all.insert(all.end(), meaning.begin(), meaning.end());
  }
  if (spec::has_errors(all)) return spec::to_status(all);
  return std::move(parsed.job);
}

std::string absolute(const std::string& path, const std::string& from) {
  return (std::filesystem::path(from) / path).lexically_normal().string();
}

void settle_paths(const std::string& state_dir, const std::string& working_dir,
                  spec::JobSpec* job) {
  for (auto& [path, weight] : job->data.path)
    path = path == kDemoData ? state_dir + "/data/demo" : absolute(path, working_dir);
  for (std::string* path : {&job->checkpoint.path, &job->checkpoint.load}) {
    if (!path->empty()) *path = absolute(*path, working_dir);
  }
}

core::Submission submission_of(const spec::JobSpec& job, const plan::Plan& plan,
                               const wire::SubmitAutoRequest& request) {
  core::Submission s;
  s.name = job.model.name;
  s.spec_yaml = spec::to_yaml(job);
  s.plan_json = plan::plan_json(plan);
  s.layout_json = plan::layout_json(plan.layout);
  s.launcher = request.launcher();
  s.request_key = request.request_key();
  s.working_dir = request.working_dir();
  s.max_steps = job.training.max_steps;
  std::map<std::string, std::vector<uint32_t>> ranks_of_node;
  for (const plan::RankPlacement& rank : plan.ranks)
    ranks_of_node[rank.node].push_back(static_cast<uint32_t>(rank.global_rank));
  for (const auto& [node, ranks] : ranks_of_node) s.nodes.push_back({node, ranks});
  return s;
}

// The pick can't be started: why, why it was picked, and what can be started instead.
Status not_here(const Status& refused, const std::string& picked_for,
                const plan::ClusterSpec& cluster, const std::vector<plan::NamedJob>& presets) {
  std::string hint = refused.hint();
  const plan::Recommendation on_cpus = plan::recommend_on_cpus(cluster, presets);
  if (plan::hardware_of(cluster).gpus > 0 && !on_cpus.config.empty()) {
    hint += fmt::format("{}'dsv3ctl submit {}' runs on the CPUs here", hint.empty() ? "" : "; ",
                        on_cpus.config);
  }
  return Status(refused.code(),
                fmt::format("{} (it was picked because: {})", refused.message(), picked_for), hint);
}

}  // namespace

Result<AutoPick> pick_job(const plan::ClusterSpec& cluster, const wire::SubmitAutoRequest& request,
                          const std::string& state_dir) {
  DSV3_ASSIGN_OR_RETURN(const auto list, spec::list_presets());
  std::vector<plan::NamedJob> presets;
  for (const spec::Preset& preset : list) presets.push_back({preset.name, preset.job});
  DSV3_ASSIGN_OR_RETURN(const auto chosen, choose(cluster, presets, request.tokens()));
  AutoPick pick;
  pick.config = chosen.first;
  pick.why = fmt::format("{}: {}.", pick.config, chosen.second);
  DSV3_ASSIGN_OR_RETURN(spec::JobSpec job, load(pick.config, request));
  plan::PlanOptions options;
  options.tokens = request.tokens();
  options.must_run = true;
  // A calibration that can't be read costs the prediction, not the job.
  const auto device =
      inventory::calibrated_device(inventory::calibration_path(state_dir), job.training.dtype);
  if (device.ok() && *device && job.cluster.devices == "cpu") options.device = &**device;
  const plan::Plan plan = plan::plan(job, cluster, options);
  if (Status status = plan::refusal(plan, job, cluster); !status.ok())
    return not_here(status, chosen.second, cluster, presets);
  if (!plan.why.empty()) pick.why += " " + plan.why;
  job = plan::settled(std::move(job), plan);
  settle_paths(state_dir, request.working_dir(), &job);
  pick.submission = submission_of(job, plan, request);
  return pick;
}

}  // namespace dsv3::daemon
