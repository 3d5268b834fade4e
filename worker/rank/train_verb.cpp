// `dsv3-worker train`: spec and plan in, training, the exit report out.
//
// Law: whatever ends the rank (a Status, a Failure, a lack of memory) becomes an exit report on the
// link and a frozen exit code; a signal or the agent's RankStop ends it between two steps, with a
// checkpoint and code 0.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "base/bus_error.h"
#include "base/failure.h"
#include "base/file.h"
#include "base/log.h"
#include "cluster/plan/capability.h"
#include "cluster/plan/given_layout.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/rank_grid.h"
#include "cluster/plan/shard_map.h"
#include "configs/spec/parse.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "worker/rank/rank_observer.h"
#include "worker/rank/train_options.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

constexpr int64_t kDrainMs = 10'000;
constexpr int64_t kMeetMs = 60'000;  // for the other ranks to start
// "@demo" in data.path: the demo's text, as `dsv3ctl submit` prepares it.
constexpr const char* kDemoData = "@demo";

volatile std::sig_atomic_t stop_signal = 0;

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { stop_signal = signal; };
  action.sa_flags = SA_RESETHAND | SA_RESTART;  // the second one ends the process at once
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

bool told_to_stop(const link::Reporter* reporter) {
  return stop_signal != 0 || (reporter != nullptr && reporter->stop_requested());
}

struct Outcome {
  Status status;
  std::string operation = "train";
  bool stopped = false;

  // Stopped by a signal, its steps are not done, and nobody has said that the job should end.
  int exit_code() const {
    const bool by_signal = status.ok() && stopped && stop_signal != 0;
    return by_signal ? static_cast<int>(Code::kTemporary) : exit_code_of(status);
  }
};

int64_t count_moe_layers(const spec::ModelSpec& model) {
  if (model.moe.num_experts == 0) return 0;
  return model.num_layers - model.moe.first_k_dense + model.mtp_layers;
}

std::string checkpoint_dir(const TrainWords& words, const spec::JobSpec& job) {
  if (!words.checkpoint_dir.empty()) return words.checkpoint_dir;
  if (!job.checkpoint.path.empty()) return job.checkpoint.path + "/" + words.job;
  return words.job_dir.empty() ? "" : words.job_dir + "/checkpoints";
}

// The layout that the job runs in, and what was predicted for it: the plan's, else the job's own
// sizes with data parallel where they leave it free. It becomes the job's. kInvalid when it is for
// other ranks, or does not divide the job.
Result<plan::Plan> settle_plan(const TrainWords& words, spec::JobSpec* job) {
  plan::Plan plan;
  if (words.plan.empty()) {
    plan.layout = plan::layout_as_given(*job, words.world);
  } else {
    DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(words.plan));
    DSV3_ASSIGN_OR_RETURN(plan, plan::parse_plan(text));
  }
  *job = plan::settled(std::move(*job), plan);
  const plan::Layout& layout = plan.layout;
  if (layout.world_size() != words.world) {
    return Status(Code::kInvalid,
                  fmt::format("the layout {} is for {} ranks, --world says {}",
                              plan::to_string(layout), layout.world_size(), words.world),
                  fmt::format("start {} ranks, or give sizes under parallel that multiply to {}",
                              layout.world_size(), words.world));
  }
  if (std::string fault = plan::check_layout(*job, layout, /*devices_per_node=*/0); !fault.empty())
    return Status(Code::kInvalid, std::move(fault));
  return plan;
}

// The other ranks of the attempt, met; and this rank's groups.
struct Peers {
  std::unique_ptr<comm::Mesh> mesh;
  std::unique_ptr<comm::RankGroups> owned;
  comm::Groups groups;  // owned's, or those of a rank alone
};

Result<Peers> meet_peers(const TrainWords& words, const plan::Layout& layout,
                         const spec::JobSpec& job, const link::Reporter* reporter) {
  Peers peers;
  peers.groups.layout = layout;
  if (words.world == 1) return peers;
  const int64_t timeout_ms = job.parallel.collective_timeout_s * 1000;
  DSV3_ASSIGN_OR_RETURN(
      peers.mesh, comm::Mesh::connect({.rank = static_cast<int>(words.rank),
                                       .world = static_cast<int>(words.world),
                                       .rendezvous = words.rendezvous,
                                       .token = words.token,
                                       .connect_timeout_ms = std::min<int64_t>(timeout_ms, kMeetMs),
                                       .operation_timeout_ms = timeout_ms,
                                       .stop = [reporter] { return told_to_stop(reporter); }}));
  try {
    peers.owned = std::make_unique<comm::RankGroups>(*peers.mesh, layout,
                                                     plan::copies_embedding(job.model, layout));
  } catch (const Failure& failure) {
    if (failure.code() != Code::kInterrupted) throw;
    return Status(failure.code(), failure.what());  // told to stop, as while the ranks met
  }
  peers.groups = peers.owned->groups();
  return peers;
}

// The first attempt of a job finds no checkpoint: one that is there is of another job with this id,
// say of another state directory that uses the same shared folder.
Status check_folder_is_free(const TrainWords& words, const std::string& dir) {
  if (words.link_fd < 0 || words.attempt > 1 || dir.empty()) return {};
  const auto found = checkpoint::newest_valid(dir);
  if (!found.ok()) return {};
  return Status(
      Code::kCheckpointUnusable,
      fmt::format("{} is there before the first step of job {}", found->path, words.job),
      "it is another job's: choose another checkpoint.path, or go on from it by naming it "
      "in checkpoint.load");
}

void settle_demo_data(spec::JobSpec* job) {
  for (auto& [path, weight] : job->data.path) {
    if (path == kDemoData) path = default_state_dir() + "/data/demo";
  }
}

void say_place(const TrainWords& words, const plan::Layout& layout,
               const plan::RankPosition& position) {
  log::info("rank {} of {}: tp {}, cp {}, pp {}, ep {}, dp {} of {}{}", words.rank, words.world,
            position.tp_rank, position.cp_rank, position.pp_stage, position.ep_rank,
            position.dp_rank, plan::to_string(layout),
            words.rank == 0 ? "" : "; the steps are in rank 0's log");
}

// Trains; what ends this rank by its own fault is told to its peers, who would otherwise only see
// it leave.
Result<train::TrainSummary> train_beside(const Peers& peers, const train::TrainOptions& options,
                                         train::TrainObserver& observer) {
  if (!peers.mesh) return train::train(options, observer);
  try {
    Result<train::TrainSummary> summary = train::train(options, observer);
    if (!summary.ok()) peers.mesh->abort(summary.status().to_string());
    return summary;
  } catch (const std::exception& fault) {
    peers.mesh->abort(fault.what());
    throw;
  }
}

Result<train::TrainSummary> train_job(const TrainWords& words, link::Reporter* reporter,
                                      int64_t* last_step) {
  DSV3_ASSIGN_OR_RETURN(spec::JobSpec job, spec::load_valid(words.spec, words.overrides));
  DSV3_ASSIGN_OR_RETURN(const plan::Plan plan, settle_plan(words, &job));
  DSV3_RETURN_IF_ERROR(plan::check_runnable(job));
  settle_demo_data(&job);
  ObserverOptions observing{.rank = words.rank, .log_interval_steps = job.logging.interval_steps};
  observing.attempt = words.attempt;
  if (job.logging.jsonl && !words.job_dir.empty())
    observing.metrics_path = words.job_dir + "/metrics.jsonl";
  observing.num_moe_layers = count_moe_layers(job.model);
  const plan::RankPosition position = plan::RankGrid(plan.layout).position(words.rank);
  observing.predicted = plan::ledger_of_stage(plan, position.pp_stage);
  train::TrainOptions options{
      .spec = job, .job = words.job, .attempt = words.attempt, .submission = words.submission};
  options.checkpoint_dir = checkpoint_dir(words, job);
  options.resume = words.resume;
  options.saved_step = words.saved_step;
  DSV3_RETURN_IF_ERROR(check_folder_is_free(words, options.checkpoint_dir));
  DSV3_ASSIGN_OR_RETURN(const Peers peers, meet_peers(words, plan.layout, job, reporter));
  options.groups = &peers.groups;
  if (words.world > 1) say_place(words, plan.layout, position);
  RankObserver observer(observing, reporter, &stop_signal);
  struct KeepStep {  // also when train() throws
    const RankObserver& observer;
    int64_t* step;
    ~KeepStep() { *step = observer.last_step(); }
  } keep{observer, last_step};
  return train_beside(peers, options, observer);
}

// Everything that can end a rank, as a value.
Outcome train_caught(const TrainWords& words, link::Reporter* reporter, int64_t* last_step) {
  Outcome outcome;
  try {
    const Result<train::TrainSummary> summary = train_job(words, reporter, last_step);
    const bool before_start = summary.status().code() == Code::kInterrupted;
    if (!before_start) outcome.status = summary.status();
    outcome.stopped = before_start || (summary.ok() && summary->stopped);
  } catch (const Failure& failure) {
    outcome.status = Status(failure.code(), failure.what());
    outcome.operation = failure.operation();
  } catch (const std::bad_alloc&) {
    outcome.status = Status(Code::kOutOfMemory, "the system gave no more memory",
                            "use a smaller micro_batch_size or model");
  } catch (const std::exception& fault) {
    outcome.status = Status(Code::kFailed, fault.what());
  }
  return outcome;
}

void say_hello(link::Reporter* reporter, int64_t rank) {
  wire::RankMessage message;
  wire::RankHello* hello = message.mutable_hello();
  hello->set_rank(static_cast<uint32_t>(rank));
  hello->set_pid(::getpid());
  hello->set_version(DSV3_VERSION);
  reporter->send(std::move(message));
}

void say_goodbye(link::Reporter* reporter, const Outcome& outcome, int64_t step) {
  wire::RankMessage message;
  wire::ExitReport* report = message.mutable_exit_report();
  report->set_code(outcome.exit_code());
  report->set_operation(outcome.operation);
  report->set_message(!outcome.status.ok() ? outcome.status.to_string()
                      : outcome.stopped    ? "stopped on request"
                                           : "all steps are done");
  report->set_step(step);
  reporter->send(std::move(message));
  if (!reporter->drain(kDrainMs)) log::warning("the agent did not take the last reports");
}

}  // namespace

int train_verb(const std::vector<std::string>& arguments) {
  bool help = false;
  const Result<TrainWords> words = parse_train_words(arguments, &help);
  if (help) return 0;
  if (!words.ok()) {
    log::error("{}", words.status().to_string());
    return static_cast<int>(Code::kInvalid);
  }
  log::init(fmt::format("rank {}", words->rank));
  std::unique_ptr<link::Reporter> reporter;
  if (words->link_fd >= 0) {
    Result<std::unique_ptr<link::Reporter>> started = link::Reporter::start(words->link_fd);
    if (!started.ok()) {
      log::error("{}", started.status().to_string());
      return static_cast<int>(Code::kInvalid);
    }
    reporter = std::move(started).value();
    say_hello(reporter.get(), words->rank);
  }
  catch_stop_signals();
  // The next attempt opens the file anew, and then it is refused by what is wrong with it.
  name_bus_errors("dsv3-worker", static_cast<int>(Code::kTemporary));
  int64_t last_step = 0;
  const Outcome outcome = train_caught(*words, reporter.get(), &last_step);
  if (!outcome.status.ok()) log::error("{}", outcome.status.to_string());
  if (outcome.stopped) log::info("stopped on request after step {}", last_step);
  if (reporter) say_goodbye(reporter.get(), outcome, last_step);
  return outcome.exit_code();
}

}  // namespace dsv3::rank
