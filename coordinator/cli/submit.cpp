// dsv3ctl submit: parse, validate, plan, refuse what can't run, hand over to the coordinator; the
// job id alone on stdout.
#include "coordinator/cli/submit.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/random.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "cluster/inventory/calibration_file.h"
#include "cluster/inventory/inventory.h"
#include "cluster/launch/launcher.h"
#include "cluster/plan/placement.h"
#include "configs/spec/presets.h"
#include "configs/spec/render.h"
#include "coordinator/cli/amounts.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/interrupt.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/plan_views.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/submit_auto.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/cli/wait.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ConfigOptions config;
  std::vector<std::string> tokens;
  std::string launcher;
  bool dry_run = false;
  bool wait = false;
};

// The command that the launcher would run on each node; the job's id is given at submission.
std::string launch_script(const Globals& globals, const plan::Plan& plan) {
  std::string script;
  for (const auto& [node, ranks] : plan::ranks_by_node(plan)) {
    launch::AgentSpec agent;
    agent.key = {"JOB", 1, node};
    agent.state_dir = globals.state_dir;
    std::string line;
    for (const std::string& word : launch::agent_argv(executable_dir() + "/dsv3-agent", agent)) {
      line += (line.empty() ? "" : " ") + word;
    }
    script += line + "\n";
  }
  return script;
}

int hand_over(const Globals& globals, const spec::JobSpec& job, const plan::Plan& plan,
              const Options& options) {
  auto client = connect_or_start_and_say(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope reply;
  if (Status status = ask(*client, submit_request(job, plan, options.launcher), &reply, 30'000);
      !status.ok()) {
    return fail(globals, status);
  }
  const std::string id = reply.submit_reply().job();
  if (globals.json) {
    print_json({{"job", id}});
  } else {
    print(id + "\n");
  }
  return options.wait ? show_to_end(globals, *client, id) : 0;
}

// `submit auto`: the words that only it takes, and those that it doesn't.
int submit_picked(const Globals& globals, const Options& options) {
  AutoQuestion question{options.config};
  const auto tokens = one_text("--tokens", options.tokens);
  if (!tokens.ok()) return fail(globals, tokens.status());
  if (!tokens->empty()) {
    const auto number = parse_tokens("--tokens", *tokens);
    if (!number.ok()) return fail(globals, number.status());
    question.tokens = *number;
  }
  question.launcher = options.launcher.empty() ? "local" : options.launcher;
  question.dry_run = options.dry_run;
  question.wait = options.wait;
  return submit_auto(globals, question);
}

Status no_launcher(const std::string& launcher) {
  return Status(Code::kInvalid, fmt::format("launcher '{}' is not in this version", launcher),
                "use --launcher local");
}

int submit(const Globals& globals, Options options) {
  if (options.config.file == kAuto) {
    if (!options.launcher.empty() && options.launcher != "local")
      return fail(globals, no_launcher(options.launcher));
    return submit_picked(globals, options);
  }
  if (!options.tokens.empty())
    return fail(globals, Status(Code::kInvalid, "--tokens is for 'submit auto'",
                                "give the steps with --set training.max_steps=N"));
  LoadedConfig loaded = load_config(globals, options.config, true);
  if (!loaded.ok()) return loaded.exit_code;
  print_diagnostics(loaded.warnings);
  spec::JobSpec& job = loaded.parsed.job;
  if (options.launcher.empty()) options.launcher = job.cluster.launcher;
  if (options.launcher != "local") {
    return fail(globals, no_launcher(options.launcher));
  }
  const plan::ClusterSpec cluster = inventory::local_cluster();
  const auto measured = measured_device(globals, job.training.dtype);
  const bool on_cpus = measured && job.cluster.devices == "cpu";
  const plan::Plan plan =
      plan::plan(job, cluster, {.device = on_cpus ? &*measured : nullptr, .must_run = true});
  if (Status status = check_fits(job, plan, cluster); !status.ok()) return fail(globals, status);
  const bool wants_demo = !job.data.path.empty() && job.data.path[0].first == kDemoData;
  job = plan::settled(std::move(job), plan);
  settle_paths(globals, &job);
  if (options.dry_run) return show_dry_run(globals, plan, "", Json::object());
  if (wants_demo) {
    if (Status status = prepare_demo_data(globals, job); !status.ok()) return fail(globals, status);
  }
  if (Status status = check_data(job); !status.ok()) return fail(globals, status);
  return hand_over(globals, job, plan, options);
}

}  // namespace

std::string demo_prefix(const Globals& globals) {
  return globals.state_dir + "/data/demo";
}

std::string random_key() {
  unsigned char bytes[16] = {};
  if (::getrandom(bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes)) return {};
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

Result<transport::Client> connect_or_start_and_say(const Globals& globals) {
  say_when_interrupted(
      "dsv3ctl: interrupted before the coordinator answered; 'dsv3ctl status' shows whether the "
      "job was taken\n");
  bool started = false;
  auto client = connect_or_start(globals, &started);
  if (client.ok() && started) {
    note(fmt::format("started a coordinator, state in {}", globals.state_dir));
    note("('dsv3ctl down' ends it)");
  }
  return client;
}

Status check_fits(const spec::JobSpec& job, const plan::Plan& plan,
                  const plan::ClusterSpec& cluster) {
  if (plan.feasible && plan.runnable) return {};
  std::vector<plan::NamedJob> alternatives;
  if (auto presets = spec::list_presets(); presets.ok()) {
    for (const spec::Preset& preset : *presets) alternatives.push_back({preset.name, preset.job});
  }
  return plan::refusal(plan, job, cluster, alternatives);
}

Status check_data(const spec::JobSpec& job) {
  for (const auto& [prefix, weight] : job.data.path) {
    for (const char* suffix : {".idx", ".bin"}) {
      if (path_exists(prefix + suffix)) continue;
      return Status(
          Code::kDoesNotFit,
          fmt::format("data.path names {}, but there is no {}{}", prefix, prefix, suffix),
          fmt::format("make it with 'dsv3ctl data prepare --input FILES --out {}'", prefix));
    }
  }
  return {};
}

void settle_paths(const Globals& globals, spec::JobSpec* job) {
  std::error_code error;
  spec::settle_paths(std::filesystem::current_path(error).string(), demo_prefix(globals), job);
}

std::optional<plan::DeviceModel> measured_device(const Globals& globals, const std::string& dtype) {
  auto device = inventory::calibrated_device(inventory::calibration_path(globals.state_dir), dtype);
  if (device.ok()) return std::move(device).value();
  note("no step time is predicted: " + device.status().message());
  return std::nullopt;
}

int show_dry_run(const Globals& globals, const plan::Plan& plan, const std::string& head,
                 Json fields) {
  const std::string script = launch_script(globals, plan);
  if (globals.json) {
    fields["plan"] = Json::parse(plan::plan_json(plan));
    fields["launch_script"] = script;
    print_json(fields);
  } else {
    print(head + plan_text(plan, false) + "launch\n" + script);
  }
  return 0;
}

Status prepare_demo_data(const Globals& globals, const spec::JobSpec& job) {
  const std::string prefix = demo_prefix(globals);
  if (path_exists(prefix + ".json") && path_exists(prefix + ".idx") && path_exists(prefix + ".bin"))
    return {};
  DSV3_RETURN_IF_ERROR(make_dirs(globals.state_dir + "/data", 0700));
  note("preparing the demo's text (the GNU English dictionary, once)");
  const std::string tokenizer = job.data.tokenizer.empty()
                                    ? fmt::format("sentencepiece:bpe:{}", job.model.vocab_size)
                                    : job.data.tokenizer;
  DSV3_ASSIGN_OR_RETURN(const pid_t pid,
                        spawn({.argv = {executable_dir() + "/dsv3-worker", "data-prepare", "--demo",
                                        "--tokenizer", tokenizer, "--out", prefix},
                               .die_with_parent = true}));
  const int64_t deadline_ns = system_clock().steady_ns() + int64_t{900} * 1'000'000'000;
  while (true) {
    if (const auto code = try_reap(pid)) {
      if (*code == 0) return {};
      return Status(
          Code::kFailed,
          fmt::format("the demo's data could not be prepared (dsv3-worker ended with code {})",
                      *code),
          "its message stands above; without a network give a text of your own to 'dsv3ctl data "
          "prepare'");
    }
    if (system_clock().steady_ns() > deadline_ns) {
      ::kill(pid, SIGKILL);
      return Status(Code::kTimeout, "preparing the demo's data took more than 15 minutes",
                    "look at the network, or prepare a text of your own with 'dsv3ctl data "
                    "prepare'");
    }
    ::usleep(20'000);
  }
}

wire::Envelope submit_request(const spec::JobSpec& job, const plan::Plan& plan,
                              const std::string& launcher) {
  wire::Envelope envelope;
  wire::SubmitRequest& request = *envelope.mutable_submit();
  request.set_name(job.model.name.empty() ? "job" : job.model.name);
  request.set_spec_yaml(spec::to_yaml(job));
  request.set_plan_json(plan::plan_json(plan));
  request.set_layout_json(plan::layout_json(plan.layout));
  request.set_launcher(launcher);
  request.set_request_key(random_key());
  request.set_max_steps(job.training.max_steps);
  request.set_why(plan.why);
  std::error_code error;
  request.set_working_dir(std::filesystem::current_path(error).string());
  for (const auto& [node, ranks] : plan::ranks_by_node(plan)) {
    wire::NodePlacement& placement = *request.add_nodes();
    placement.set_node(node);
    for (const uint32_t rank : ranks) placement.add_ranks(rank);
  }
  return envelope;
}

Verb make_submit() {
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "submit";
  verb.group = "Run";
  verb.summary = "Train: check, plan, hand over to the coordinator; prints the job id";
  verb.help =
      "Starts a coordinator for this user when there is none. A job that can't fit here is refused "
      "with what it would need. 'auto' in FILE's place leaves the choice to the coordinator: the "
      "preset that is recommended for its machine and runs there; the job's record says which and "
      "why.\n"
      "Examples:\n"
      "  dsv3ctl submit demo --wait\n"
      "  dsv3ctl submit demo --set training.max_steps=50 --set training.seed=7\n"
      "  dsv3ctl submit mine.yaml --dry-run\n"
      "  dsv3ctl submit auto --wait\n"
      "Then 'dsv3ctl status' and 'dsv3ctl logs JOB -f'.\n"
      "Exit code with --wait: 0 completed, 1 failed or cancelled; 2 invalid, 6 does not fit.";
  verb.options = config_options(&options->config, false);
  verb.options.push_back({"--launcher",
                          &options->launcher,
                          "How workers are started (default: cluster.launcher)",
                          false,
                          Completes::kNothing,
                          {"local", "ssh", "slurm"}});
  verb.options.push_back({"--tokens", &options->tokens, "Of 'auto': tokens to train on (300M)"});
  verb.options.back().value = "N";
  verb.options.push_back({"--dry-run",
                          &options->dry_run,
                          "Print the plan and the launch command; start nothing",
                          false,
                          Completes::kNothing,
                          {}});
  verb.options.push_back({"--wait",
                          &options->wait,
                          "Show progress until the job ends, then a summary; Ctrl-C detaches",
                          false,
                          Completes::kNothing,
                          {}});
  verb.run = [options](const Globals& globals) { return submit(globals, *options); };
  return verb;
}

}  // namespace dsv3::cli
