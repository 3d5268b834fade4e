// See rehearsal_gang.h.
#include "coordinator/cli/rehearsal_gang.h"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "cluster/plan/plan.h"
#include "configs/spec/render.h"
#include "coordinator/cli/interrupt.h"

namespace dsv3::cli {
namespace {

constexpr int64_t kPollUs = 20'000;
// After a rank has lost a peer: so long may the one that is to blame take to end.
constexpr int64_t kEndTogetherNs = int64_t{10} * 1'000'000'000;

// The last line of a log that says something, without its time and rank, which is named beside it;
// "" where there is none.
std::string last_line(const std::string& path) {
  const auto text = read_file(path);
  if (!text.ok()) return {};
  std::string last;
  for (const std::string& line : split(*text, '\n')) {
    if (!line.empty()) last = line;
  }
  constexpr std::string_view kError = " error ";
  const size_t error = last.find(kError), rank = last.find(" rank ");
  if (rank < error && error != std::string::npos) last.erase(0, error + kError.size());
  return one_line(last);
}

// Ranks that only lost a peer, or were killed here, are not to blame while another is.
bool is_consequence(int code) {
  return code == static_cast<int>(Code::kPeerLost) ||
         code == static_cast<int>(Code::kCollectiveTimeout);
}

// One child for each rank; those that are left die with the object.
struct Children {
  struct Child {
    pid_t pid = -1;
    std::string name;  // "rank 3"
    std::string log;
    std::optional<int> code;  // 128 + signal when one ended it
  };
  std::vector<Child> all;

  Children() = default;
  Children(const Children&) = delete;
  ~Children() { kill_and_reap(); }

  void kill_and_reap() {
    for (const Child& child : all) {
      if (!child.code) ::kill(child.pid, SIGKILL);
    }
    for (Child& child : all) {
      while (!child.code && !(child.code = try_reap(child.pid))) ::usleep(1000);
    }
  }
  // Newly ended ones; true when none runs any more.
  bool reap() {
    bool over = true;
    for (Child& child : all) {
      if (!child.code) child.code = try_reap(child.pid);
      over = over && child.code.has_value();
    }
    return over;
  }
  bool any_failed() const {
    return std::any_of(all.begin(), all.end(),
                       [](const Child& c) { return c.code.value_or(0) != 0; });
  }
  // One failed by itself: there is nothing to wait for.
  bool any_to_blame() const {
    return std::any_of(all.begin(), all.end(), [](const Child& c) {
      return c.code.value_or(0) != 0 && !is_consequence(*c.code);
    });
  }
};

Status failure_of(const Children& children) {
  const Children::Child* blamed = nullptr;
  for (const auto& child : children.all) {
    if (child.code.value_or(0) == 0) continue;
    if (blamed == nullptr || (is_consequence(*blamed->code) && !is_consequence(*child.code)))
      blamed = &child;
  }
  if (blamed == nullptr) return {};
  const int code = *blamed->code;
  const std::string how = code > 128 ? fmt::format("was killed by signal {}", code - 128)
                                     : fmt::format("ended with code {}", code);
  const std::string line = last_line(blamed->log);
  return Status(
      Code::kFailed,
      fmt::format("{} {}: {}", blamed->name, how, line.empty() ? "it said nothing" : line),
      "--keep keeps the logs of all ranks");
}

Status was_interrupted() {
  if (interrupted() == 0) return {};
  return Status(interrupted() == SIGINT ? Code::kInterrupted : Code::kTerminated,
                "interrupted: all ranks are ended");
}

// Waits for all; the failure of one, the deadline or Ctrl-C ends the others.
Status wait_for(Children& children, int64_t deadline_ns) {
  int64_t failed_ns = 0;
  while (!children.reap()) {
    const int64_t now_ns = system_clock().steady_ns();
    DSV3_RETURN_IF_ERROR(was_interrupted());
    if (now_ns > deadline_ns) {
      return Status(Code::kTimeout, "the rehearsal took longer than --timeout allows",
                    "give more seconds, or fewer ranks with --ranks-max");
    }
    if (children.any_failed() && failed_ns == 0) failed_ns = now_ns;
    if (children.any_to_blame()) break;
    if (failed_ns > 0 && now_ns - failed_ns > kEndTogetherNs) break;
    ::usleep(kPollUs);
  }
  DSV3_RETURN_IF_ERROR(was_interrupted());  // a terminal's Ctrl-C reaches the ranks, too
  return failure_of(children);
}

Status start(Children* children, std::string name, std::string log, SpawnOptions options) {
  options.stdout_path = options.stderr_path = log;
  options.die_with_parent = true;
  DSV3_ASSIGN_OR_RETURN(const pid_t pid, spawn(options));
  children->all.push_back({pid, std::move(name), std::move(log), std::nullopt});
  return {};
}

std::string worker() {
  return executable_dir() + "/dsv3-worker";
}

// Words in no particular order, in paragraphs.
std::string some_text() {
  constexpr const char* kWords[] = {"the ",  "router ", "sends ",   "tokens ", "to ",   "experts ",
                                    "and ",  "counts ", "them; ",   "every ",  "rank ", "keeps ",
                                    "what ", "others ", "forget. ", "a ",      "loss "};
  std::string text;
  uint64_t state = 1;
  for (int paragraph = 0; paragraph < 400; ++paragraph) {
    for (int word = 0; word < 40; ++word) {
      state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX
      text += kWords[(state >> 33) % std::size(kWords)];
    }
    text += "\n\n";
  }
  return text;
}

// The steps after `first` in a file of logging.jsonl.
Result<Losses> read_losses(const std::string& path, int64_t first, int64_t last) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  Losses losses;
  for (const std::string& line : split(text, '\n')) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("step") || !object["loss"].is_number()) continue;
    const int64_t step = object["step"];
    if (step > first && step <= last) losses[step] = object["loss"];
  }
  if (static_cast<int64_t>(losses.size()) == last - first) return losses;
  return Status(Code::kFailed,
                fmt::format("{} has {} steps of {} to {}", path, losses.size(), first + 1, last));
}

}  // namespace

Result<RehearsalFolder> RehearsalFolder::create(bool keep, int64_t deadline_ns) {
  const char* base = ::getenv("TMPDIR");
  std::string path =
      std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/dsv3-rehearsal-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr)
    return Status(Code::kFailed,
                  fmt::format("cannot create a folder like {}: {}", path, std::strerror(errno)),
                  "name a folder that can be written in TMPDIR");
  return RehearsalFolder(std::move(path), keep, deadline_ns);
}

RehearsalFolder::RehearsalFolder(RehearsalFolder&& other) noexcept
    : path_(std::exchange(other.path_, {})), keep_(other.keep_), deadline_ns_(other.deadline_ns_) {}

RehearsalFolder::~RehearsalFolder() {
  std::error_code ignored;
  if (!path_.empty() && !keep_) std::filesystem::remove_all(path_, ignored);
}

Result<std::string> RehearsalFolder::prepare_text() const {
  DSV3_RETURN_IF_ERROR(write_file(path_ + "/text.txt", some_text()));
  const std::string prefix = path_ + "/text";
  Children children;
  DSV3_RETURN_IF_ERROR(start(&children, "dsv3-worker data-prepare", path_ + "/prepare.log",
                             {.argv = {worker(), "data-prepare", "--input", path_ + "/text.txt",
                                       "--tokenizer", "byte", "--out", prefix}}));
  DSV3_RETURN_IF_ERROR(wait_for(children, deadline_ns_));
  return prefix;
}

Result<Losses> RehearsalFolder::train(const Run& run) const {
  const std::string dir = path_ + "/" + run.name;
  DSV3_RETURN_IF_ERROR(make_dirs(dir));
  const std::string tag = fmt::format("{}-{}", run.name, run.steps_max);
  plan::Plan plan;
  plan.feasible = plan.runnable = true;
  plan.layout = run.layout;
  spec::JobSpec job = plan::settled(run.job, plan);
  job.training.max_steps = run.steps_max;
  const std::string spec_path = fmt::format("{}/{}.yaml", path_, tag);
  const std::string plan_path = fmt::format("{}/{}.json", path_, tag);
  DSV3_RETURN_IF_ERROR(write_file(spec_path, spec::to_yaml(job)));
  DSV3_RETURN_IF_ERROR(write_file(plan_path, plan::plan_json(plan)));
  const int64_t world = run.layout.world_size();
  Children children;
  for (int64_t rank = 0; rank < world; ++rank) {
    SpawnOptions options{.argv = {worker(), "train", "--spec", spec_path, "--plan", plan_path,
                                  "--rank", std::to_string(rank), "--world", std::to_string(world),
                                  "--job", "rehearsal", "--job-dir", dir, "--saved-step",
                                  std::to_string(run.saved_step)}};
    if (world > 1) {
      // The folder's name is nobody else's.
      options.argv.insert(options.argv.end(), {"--rendezvous", "local:" + path_ + "/" + tag});
    }
    options.extra_env = {{"OMP_NUM_THREADS", "1"}};
    DSV3_RETURN_IF_ERROR(start(&children, fmt::format("rank {} of {}", rank, world),
                               fmt::format("{}/{}-rank-{}.log", path_, tag, rank),
                               std::move(options)));
  }
  DSV3_RETURN_IF_ERROR(wait_for(children, deadline_ns_));
  return read_losses(dir + "/metrics.jsonl", run.saved_step, run.steps_max);
}

}  // namespace dsv3::cli
