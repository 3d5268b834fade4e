// `dsv3-worker calibrate`: measures this machine for predicting step times, alone and shared by
// several ranks, and writes the calibration file.
//
// Law: each way of sharing is measured by processes of its own with the threads that ranks of a job
// would have there; all measure the same at the same time, and rank 0's times are taken.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "cluster/plan/calibration.h"
#include "runtime/comm/cpu/mesh.h"
#include "runtime/device/device.h"
#include "runtime/train/calibrate.h"
#include "worker/rank/verb_io.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

struct Words {
  std::string out, machine;
  int64_t cores = 1;
  std::vector<int64_t> ranks = {1};
  bool quick = false;
  bool json = false;
  // Of the processes that measure.
  int64_t rank = -1, world = 0;
  std::string meeting, way;
};

std::string today() {
  const std::time_t now = static_cast<std::time_t>(system_clock().wall_ns() / 1'000'000'000);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday);
}

// "2 of 3: 2 ranks: measuring attention, about 20 s left of this"; the time from what has passed.
std::string progress_text(const Words& words, std::string_view phase, double passed_s, int64_t done,
                          int64_t total) {
  std::string text = words.way.empty() ? "" : words.way + ": ";
  if (words.world > 1) text += fmt::format("{} ranks: ", words.world);
  text += fmt::format("measuring {}", phase);
  if (done > 0) {
    const double left_s = passed_s * static_cast<double>(total - done) / static_cast<double>(done);
    text += fmt::format(", about {:.0f} s left{}", left_s, words.way.empty() ? "" : " of this");
  }
  return text;
}

// One of `world` processes; rank 0 writes a calibration of one set to words.out.
Status measure(const Words& words) {
  DSV3_ASSIGN_OR_RETURN(const std::unique_ptr<device::Device> device, device::open_device("cpu"));
  std::unique_ptr<comm::Mesh> mesh;
  std::unique_ptr<comm::Communicator> group;
  if (words.world > 1) {
    DSV3_ASSIGN_OR_RETURN(mesh, comm::Mesh::connect({.rank = static_cast<int>(words.rank),
                                                     .world = static_cast<int>(words.world),
                                                     .rendezvous = "local:" + words.meeting,
                                                     .token = words.meeting}));
    std::vector<int> members;
    for (int rank = 0; rank < words.world; ++rank) members.push_back(rank);
    group = mesh->create_group("calibrate", members);
  }
  train::CalibrateOptions options{.quick = words.quick,
                                  .threads = std::max<int64_t>(1, words.cores / words.world),
                                  .passes = words.world > words.cores ? 1 : 2,
                                  .group = group.get()};
  ProgressLine line;
  const int64_t began_ns = system_clock().steady_ns();
  if (words.rank == 0) {
    options.progress = [&](std::string_view phase, int64_t done, int64_t total) {
      line.show(progress_text(words, phase,
                              static_cast<double>(system_clock().steady_ns() - began_ns) * 1e-9,
                              done, total),
                done, total);
    };
  }
  plan::Calibration calibration{.machine = words.machine, .date = today(), .cores = words.cores};
  calibration.sets.push_back(train::calibrate(*device, options));
  line.end();
  if (words.rank != 0) return {};
  return write_file(words.out, plan::calibration_json(calibration));
}

// Until all have ended; the first fault ends the others.
Status wait_for(std::vector<pid_t> children) {
  Status fault;
  while (!children.empty()) {
    for (size_t i = 0; i < children.size();) {
      const std::optional<int> code = try_reap(children[i]);
      if (!code) {
        ++i;
        continue;
      }
      if (*code != 0 && fault.ok())
        fault = Status(Code::kFailed, fmt::format("a process that measures ended with {}", *code));
      children.erase(children.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (!children.empty()) ::usleep(20'000);
  }
  return fault;
}

// `way`: "2 of 3", or "" of the only one.
Result<plan::CalibrationSet> measure_shared(const Words& words, int64_t world,
                                            const std::string& way) {
  const std::string part = fmt::format("{}.{}.part", words.out, ::getpid());
  const std::string meeting = fmt::format("calibrate-{}-{}", ::getpid(), world);
  const int64_t threads = std::max<int64_t>(1, words.cores / world);
  // Better now than after a minute.
  DSV3_RETURN_IF_ERROR(write_file(part, ""));
  std::vector<pid_t> children;
  for (int64_t rank = 0; rank < world; ++rank) {
    std::vector<std::string> argv = {executable_dir() + "/dsv3-worker",
                                     "calibrate",
                                     "--out=" + part,
                                     fmt::format("--cores={}", words.cores),
                                     fmt::format("--rank={}", rank),
                                     fmt::format("--world={}", world),
                                     "--meeting=" + meeting};
    // An empty value would take the next word for its own.
    if (!words.machine.empty()) argv.push_back("--machine=" + words.machine);
    if (!way.empty()) argv.push_back("--way=" + way);
    if (words.quick) argv.emplace_back("--quick");
    DSV3_ASSIGN_OR_RETURN(const pid_t pid,
                          spawn({.argv = argv,
                                 .extra_env = {{"OMP_NUM_THREADS", std::to_string(threads)}},
                                 .die_with_parent = true}));
    children.push_back(pid);
  }
  const Status status = wait_for(std::move(children));
  const Result<std::string> text = status.ok() ? read_file(part) : Result<std::string>(status);
  ::unlink(part.c_str());
  if (!text.ok()) return text.status();
  DSV3_ASSIGN_OR_RETURN(plan::Calibration calibration, plan::parse_calibration(*text));
  return std::move(calibration.sets.front());
}

void print_summary(const plan::Calibration& calibration, const std::string& path) {
  for (const plan::CalibrationSet& set : calibration.sets) {
    fmt::print("{} rank{} of {} thread{}: GEMM bf16 {:.0f}, f32 {:.0f} GFLOP/s, copy {:.1f} GB/s",
               set.ranks, set.ranks == 1 ? "" : "s", set.threads, set.threads == 1 ? "" : "s",
               set.peak_bf16_flops_per_s * 1e-9, set.peak_f32_flops_per_s * 1e-9,
               set.copy_bytes_per_s * 1e-9);
    if (!set.all_reduce.empty())
      fmt::print(", all-reduce {:.2f} GB/s",
                 set.all_reduce.back().bytes / set.all_reduce.back().seconds * 1e-9);
    fmt::print(
        "; in a step a call takes {:.2f} (f32), {:.2f} (bf16) of its time alone and {:.0f}, {:.0f} "
        "us; {} points\n",
        set.in_step_f32.factor, set.in_step_bf16.factor, 1e6 * set.in_step_f32.call_s,
        1e6 * set.in_step_bf16.call_s, set.points.size());
  }
  fmt::print("written to {}\n", path);
}

Status calibrate_all(const Words& words) {
  plan::Calibration calibration{.machine = words.machine, .date = today(), .cores = words.cores};
  for (size_t i = 0; i < words.ranks.size(); ++i) {
    const std::string way =
        words.ranks.size() == 1 ? "" : fmt::format("{} of {}", i + 1, words.ranks.size());
    DSV3_ASSIGN_OR_RETURN(plan::CalibrationSet set, measure_shared(words, words.ranks[i], way));
    calibration.sets.push_back(std::move(set));
  }
  const std::string text = plan::calibration_json(calibration);
  DSV3_RETURN_IF_ERROR(write_file(words.out, text));
  if (!words.json) {
    print_summary(calibration, words.out);
    return {};
  }
  // The file's own object, with counts in place of its lists.
  auto summary = nlohmann::ordered_json::parse(text);
  for (auto& set : summary["sets"]) {
    set["points"] = set["points"].size();
    set["all_reduce"] = set["all_reduce"].size();
  }
  summary["path"] = words.out;
  print_object(summary);
  return {};
}

}  // namespace

int calibrate_verb(const std::vector<std::string>& arguments) {
  Words words;
  CLI::App app("Measures this machine, so that step times can be predicted");
  app.name("dsv3ctl calibrate");
  app.add_option("--out", words.out, "file to write")->required();
  app.add_option("--machine", words.machine, "its name");
  app.add_option("--cores", words.cores, "that ranks share")->check(CLI::Range(1, 1 << 16));
  app.add_option("--ranks", words.ranks, "how many ranks at once, several with commas between")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_flag("--quick", words.quick, "fewer sizes");
  app.add_flag("--json", words.json, "print one JSON object");
  app.add_option("--rank", words.rank)->group("");
  app.add_option("--world", words.world)->group("")->check(CLI::Range(1, 1024));
  app.add_option("--meeting", words.meeting)->group("");
  app.add_option("--way", words.way)->group("");
  return run_verb(app, arguments, words.json,
                  [&] { return words.rank >= 0 ? measure(words) : calibrate_all(words); });
}

}  // namespace dsv3::rank
