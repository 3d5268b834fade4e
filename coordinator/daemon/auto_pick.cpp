// See auto_pick.h.
#include "coordinator/daemon/auto_pick.h"

#include <vector>

#include "cluster/inventory/calibration_file.h"
#include "cluster/plan/auto_plan.h"
#include "cluster/plan/placement.h"
#include "configs/spec/parse.h"
#include "configs/spec/paths.h"
#include "configs/spec/presets.h"
#include "configs/spec/render.h"

namespace dsv3::daemon {
namespace {

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
  for (const auto& [node, ranks] : plan::ranks_by_node(plan)) s.nodes.push_back({node, ranks});
  return s;
}

}  // namespace

Result<AutoPick> pick_job(const plan::ClusterSpec& cluster, const wire::SubmitAutoRequest& request,
                          const std::string& state_dir) {
  DSV3_ASSIGN_OR_RETURN(const auto list, spec::list_presets());
  std::vector<plan::NamedJob> presets;
  for (const spec::Preset& preset : list) presets.push_back({preset.name, preset.job});
  plan::AutoRequest wanted;
  wanted.tokens = request.tokens();
  wanted.load = [&](const std::string& config) {
    return spec::load({config,
                       {request.overlays().begin(), request.overlays().end()},
                       request.deepspeed(),
                       {request.overrides().begin(), request.overrides().end()}});
  };
  wanted.measured = [&](const spec::JobSpec& job) -> std::optional<plan::DeviceModel> {
    // A calibration that can't be read costs the prediction, not the job.
    auto device =
        inventory::calibrated_device(inventory::calibration_path(state_dir), job.training.dtype);
    return device.ok() ? std::move(device).value() : std::nullopt;
  };
  DSV3_ASSIGN_OR_RETURN(plan::AutoChoice choice, plan::choose_job(cluster, presets, wanted));
  AutoPick pick{choice.config, choice.why, {}};
  spec::settle_paths(request.working_dir(), state_dir + "/data/demo", &choice.job);
  pick.submission = submission_of(choice.job, choice.plan, request);
  return pick;
}

}  // namespace dsv3::daemon
