// See submit_auto.h.
#include "coordinator/cli/submit_auto.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cluster/inventory/inventory.h"
#include "cluster/plan/auto_plan.h"
#include "configs/spec/parse.h"
#include "configs/spec/presets.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/submit.h"
#include "coordinator/cli/wait.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

constexpr int kPatienceMs = 30'000;

// A file, seen from the coordinator; names of overlays that ship stay as they are.
std::string as_path(const std::string& word) {
  std::error_code error;
  const bool is_file = word.find('/') != std::string::npos || path_exists(word);
  return is_file ? std::filesystem::absolute(word, error).lexically_normal().string() : word;
}

Result<wire::Envelope> request_of(const AutoQuestion& question) {
  wire::Envelope envelope;
  wire::SubmitAutoRequest& request = *envelope.mutable_submit_auto();
  for (const std::string& word : question.config.set) request.add_overrides(word);
  for (const std::string& word : question.config.overlays) request.add_overlays(as_path(word));
  DSV3_ASSIGN_OR_RETURN(const std::string deepspeed,
                        one_text("--deepspeed", question.config.deepspeed));
  if (!deepspeed.empty()) request.set_deepspeed(as_path(deepspeed));
  request.set_tokens(question.tokens);
  request.set_launcher(question.launcher);
  request.set_request_key(random_key());
  std::error_code error;
  request.set_working_dir(std::filesystem::current_path(error).string());
  return envelope;
}

// The data of the pick are there, or are made.
Status make_data(const Globals& globals, const std::string& spec_yaml) {
  const spec::Parsed parsed = spec::parse_yaml(spec_yaml, "the coordinator's pick");
  if (!parsed.ok()) return spec::to_status(parsed.diagnostics);
  const spec::JobSpec& job = parsed.job;
  const bool wants_demo = !job.data.path.empty() && job.data.path[0].first == demo_prefix(globals);
  if (wants_demo) DSV3_RETURN_IF_ERROR(prepare_demo_data(globals, job));
  return check_data(job);
}

int show(const Globals& globals, const std::string& config, const std::string& why,
         const plan::Plan& plan) {
  // The plan's text says its own reason: here the preset's alone.
  std::string of_preset = why;
  if (!plan.why.empty() && why.ends_with(" " + plan.why))
    of_preset.resize(why.size() - plan.why.size() - 1);
  return show_dry_run(globals, plan, config + "\n" + wrap(of_preset, 0) + "\n",
                      {{"config", config}, {"why", why}});
}

// What a coordinator here would take, without one.
Result<plan::AutoChoice> choose_here(const Globals& globals, const AutoQuestion& question) {
  DSV3_ASSIGN_OR_RETURN(const auto list, spec::list_presets());
  std::vector<plan::NamedJob> presets;
  for (const spec::Preset& preset : list) presets.push_back({preset.name, preset.job});
  plan::AutoRequest request;
  request.tokens = question.tokens;
  request.load = [&](const std::string& config) {
    ConfigOptions options = question.config;
    options.file = config;
    return load_layers(options);
  };
  request.measured = [&](const spec::JobSpec& job) {
    return measured_device(globals, job.training.dtype);
  };
  return plan::choose_job(inventory::local_cluster(), presets, request);
}

int dry_run(const Globals& globals, const AutoQuestion& question, const wire::Envelope& request) {
  auto client = connect(globals);
  if (!client.ok() && client.status().code() != Code::kNoCoordinator)
    return fail(globals, client.status());
  if (!client.ok()) {
    const auto choice = choose_here(globals, question);
    if (!choice.ok()) return fail(globals, choice.status());
    return show(globals, choice->config, choice->why, choice->plan);
  }
  wire::Envelope reply;
  if (Status status = ask(*client, request, &reply, kPatienceMs); !status.ok())
    return fail(globals, status);
  const wire::SubmitAutoReply& said = reply.submit_auto_reply();
  const auto plan = plan::parse_plan(said.plan_json());
  if (!plan.ok()) {
    return fail(globals, Status(Code::kFailed,
                                "the coordinator's plan can't be read: " + plan.status().message(),
                                "it may be of another version: 'dsv3ctl down', then 'up'"));
  }
  return show(globals, said.config(), said.why(), *plan);
}

}  // namespace

int submit_auto(const Globals& globals, const AutoQuestion& question) {
  auto request = request_of(question);
  if (!request.ok()) return fail(globals, request.status());
  request->mutable_submit_auto()->set_dry(true);
  if (question.dry_run) return dry_run(globals, question, *request);
  auto client = connect_or_start_and_say(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope reply;
  if (Status status = ask(*client, *request, &reply, kPatienceMs); !status.ok())
    return fail(globals, status);
  if (Status status = make_data(globals, reply.submit_auto_reply().spec_yaml()); !status.ok())
    return fail(globals, status);
  request->mutable_submit_auto()->set_dry(false);
  if (Status status = ask(*client, *request, &reply, kPatienceMs); !status.ok())
    return fail(globals, status);
  const wire::SubmitAutoReply& taken = reply.submit_auto_reply();
  if (globals.json) {
    print_json({{"job", taken.job()}, {"config", taken.config()}, {"why", taken.why()}});
  } else {
    note(wrap(taken.why(), 0));
    print(taken.job() + "\n");
  }
  return question.wait ? show_to_end(globals, *client, taken.job()) : 0;
}

}  // namespace dsv3::cli
