// dsv3ctl profile: where the time of a training step goes, op by op. The work is the worker's.
//
// Law: nothing of a job is changed: its spec and its newest checkpoint are read from the state
// directory, and what is measured is one rank's share, in a process of its own.
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/file.h"
#include "base/text.h"
#include "cluster/inventory/inventory.h"
#include "cluster/plan/calibration.h"
#include "configs/spec/presets.h"
#include "configs/spec/render.h"
#include "coordinator/cli/config_options.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/run_worker.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/submit.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::cli {
namespace {

struct Words {
  ConfigOptions config;
  int64_t steps = 5;
  bool predict = false;
};

// The folder of the job with this id; "" when there is none.
std::string folder_of_job(const Globals& globals, const std::string& id) {
  if (id.empty() || id[0] == '.' || id.find('/') != std::string::npos) return {};
  std::string folder = globals.state_dir + "/jobs/" + id;
  return path_exists(folder + "/spec.yaml") ? folder : "";
}

// One process of the plan's data ranks, with as many threads as it has there. The number of them.
int64_t take_share(const plan::Layout& layout, spec::JobSpec* job) {
  job->training.micro_batch_size = layout.micro_batch;
  job->parallel.data_parallel_size = 1;
  const int64_t ranks = layout.dense_dp();  // ranks of one expert group share the batch, too
  if (ranks > 1) {
    const int64_t cores = inventory::probe_machine().cores;
    ::setenv("OMP_NUM_THREADS", std::to_string(std::max<int64_t>(1, cores / ranks)).c_str(), 0);
  }
  return ranks;
}

// "There is no job, preset or file X", with the nearest name of what there is, a job's before
// a preset's.
Status not_found(const Globals& globals, const std::string& target) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(globals.state_dir + "/jobs", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (const auto presets = spec::list_presets(); presets.ok()) {
    for (const spec::Preset& preset : *presets) names.push_back(preset.name);
  }
  const std::vector<std::string_view> views(names.begin(), names.end());
  const bool bare = target.find_first_of("/.") == std::string::npos;
  const std::string near = bare ? did_you_mean(target, views) : "";
  return Status(Code::kNotFound, fmt::format("there is no job, preset or file '{}'", target),
                (near.empty() ? "" : fmt::format("did you mean '{}'? ", near)) +
                    "'dsv3ctl status' lists the jobs, 'dsv3ctl configs list' the presets");
}

// Two trainings on one machine measure each other. Without a coordinator no job runs.
void warn_where_it_runs(const Globals& globals, const std::string& id) {
  constexpr int kAnswerMs = 2000;
  auto client = transport::Client::connect(globals.state_dir);
  if (!client.ok()) return;
  wire::Envelope request, reply;
  request.mutable_status()->set_job(id);
  if (!ask(*client, request, &reply, kAnswerMs).ok() || reply.status_reply().jobs().empty()) return;
  const wire::JobStatus& job = reply.status_reply().jobs(0);
  if (static_cast<protocol::JobState>(job.state()) == protocol::JobState::kRunning)
    note(fmt::format("dsv3ctl: {} runs at the same time: both are slow, and so are the figures",
                     id));
}

// The path of a file without a name that holds the text; it lasts as long as this process and what
// it becomes.
Result<std::string> keep_in_memory(const std::string& text) {
  const int fd = ::memfd_create("spec", 0);
  size_t written = 0;
  while (fd >= 0 && written < text.size()) {
    const ssize_t n = ::write(fd, text.data() + written, text.size() - written);
    if (n <= 0) break;
    written += static_cast<size_t>(n);
  }
  if (fd >= 0 && written == text.size()) return fmt::format("/proc/self/fd/{}", fd);
  return Status(Code::kFailed,
                fmt::format("the spec can't be handed to dsv3-worker: {}", std::strerror(errno)));
}

// Settles the job and plans it for this machine; how many ranks share its batch.
Result<int64_t> prepare(const Globals& globals, spec::JobSpec* job) {
  const plan::ClusterSpec cluster = inventory::local_cluster();
  const plan::Plan plan = plan::plan(*job, cluster);
  DSV3_RETURN_IF_ERROR(check_fits(*job, plan, cluster));
  const bool wants_demo = !job->data.path.empty() && job->data.path[0].first == kDemoData;
  settle_paths(globals, job);
  if (wants_demo) DSV3_RETURN_IF_ERROR(prepare_demo_data(globals, *job));
  DSV3_RETURN_IF_ERROR(check_data(*job));
  return take_share(plan.layout, job);
}

int profile(const Globals& globals, const Words& words) {
  const std::string calibration = globals.state_dir + "/" + std::string(plan::kCalibrationFile);
  if (words.predict && !path_exists(calibration)) {
    return fail(globals, Status(Code::kNotFound, fmt::format("there is no {}", calibration),
                                "measure this machine with 'dsv3ctl calibrate'"));
  }
  const std::string id = words.config.file;
  const std::string folder = folder_of_job(globals, id);
  ConfigOptions config = words.config;
  if (!folder.empty()) config.file = folder + "/spec.yaml";
  const auto found = load_layers(config);
  if (!found.ok() && found.status().code() == Code::kNotFound) {
    return fail(globals, not_found(globals, id));
  }
  LoadedConfig loaded = load_config(globals, config, true);
  if (!loaded.ok()) return loaded.exit_code;
  spec::JobSpec& job = loaded.parsed.job;
  const auto ranks = prepare(globals, &job);
  if (!ranks.ok()) return fail(globals, ranks.status());
  if (!folder.empty()) warn_where_it_runs(globals, id);
  const auto spec = keep_in_memory(spec::to_yaml(job));
  if (!spec.ok()) return fail(globals, spec.status());
  std::vector<std::string> argv = {"--spec=" + *spec, fmt::format("--steps={}", words.steps),
                                   fmt::format("--data-ranks={}", *ranks)};
  if (words.predict) argv.push_back("--calibration=" + calibration);
  if (!folder.empty()) {
    const std::string& elsewhere = job.checkpoint.path;
    argv.push_back("--checkpoint-dir=" +
                   (elsewhere.empty() ? folder + "/checkpoints" : elsewhere + "/" + id));
  }
  return run_worker(globals, "profile", argv);
}

}  // namespace

Verb make_profile() {
  auto words = std::make_shared<Words>();
  Verb verb;
  verb.name = "profile";
  verb.group = "Plan";
  verb.summary = "Where the time of a training step goes, op by op";
  verb.help =
      "Trains a few steps in this terminal, in one process with one rank's share of the batch, on "
      "the job's data: a job from its newest checkpoint, a configuration from initial weights. The "
      "job itself is not touched; stop it first, or both are slow.\n"
      "A row is an op at a place: of a linear layer y = x W the products y, dx and dW. RATE is "
      "GFLOP/s where arithmetic limits the op and GB/s where memory does, LIMIT its share of what "
      "this machine was measured to do before or after: a 1024^3 product of that type, a large "
      "copy. "
      "What a cache holds can beat the copy.\n"
      "--json: {\"checkpoint\", \"first_step\", \"device\", \"compute_dtype\", \"steps\", "
      "\"tokens_per_step\", \"step_s\", \"predicted_step_s\", \"outside_s\", \"tokens_per_s\", "
      "\"mfu\", "
      "\"peak_flops_per_s\", \"peak_f32_flops_per_s\", \"copy_bytes_per_s\", \"ops\": [{\"op\", "
      "\"role\", \"place\", \"shape\", \"dtype\", \"calls\", \"seconds\", \"share\", \"flops\", "
      "\"bytes\", \"bound\", \"limit_share\", \"predicted_s\"}]}, of a mean step.\n"
      "Examples:\n"
      "  dsv3ctl profile demo-1\n"
      "  dsv3ctl profile demo --steps 20 --set training.dtype=fp32\n"
      "  dsv3ctl profile mine.yaml --json\n"
      "Exit codes: 2 invalid, 5 no such job, preset or file, 6 does not fit here.";
  verb.options = config_options(&words->config, false);
  Option& target = verb.options.front();
  target.name = "JOB|FILE";
  target.help = "Job id, preset name, YAML file or Hugging Face config.json";
  target.completes = Completes::kJobOrConfig;
  verb.options.push_back({"--steps",
                          &words->steps,
                          "Steps that are measured, after two that are not (default 5)",
                          false,
                          Completes::kNothing,
                          {},
                          Range{1, 10000}});
  verb.options.push_back({"--predict", &words->predict,
                          "Show beside each op its predicted time as a share of the measured, by "
                          "'dsv3ctl calibrate'"});
  verb.run = [words](const Globals& globals) { return profile(globals, *words); };
  return verb;
}

}  // namespace dsv3::cli
