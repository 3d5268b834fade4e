// See doctor_checks.h.
#include "coordinator/cli/doctor_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/text.h"

namespace dsv3::cli {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;
// The demo's worker takes 0.4 GiB; its first build of data, the tokenizer's training, more.
constexpr int64_t kMemoryMinBytes = 1 * kGib;
// A checkpoint of the demo is 0.2 GiB, and two are kept.
constexpr int64_t kDiskMinBytes = 2 * kGib;
// Less holds no database, log and program of a job: its coordinator ends at once.
constexpr int64_t kDiskLeastBytes = int64_t{64} << 20;
// More threads than that a core can't be meant.
constexpr int kThreadsPerCoreMax = 4;
// The coordinator holds a few descriptors for each agent and client, a worker one for each peer.
constexpr uint64_t kOpenFilesMin = 1024;

std::string joined(const std::vector<std::string>& words, const char* between = ", ") {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

// What is wrong with OMP_NUM_THREADS, "" for nothing: it is a number, or one a level of nesting.
std::string thread_fault(std::string_view value, int cores) {
  const int64_t most = int64_t{kThreadsPerCoreMax} * std::max(cores, 1);
  for (const std::string& text : split(std::string(value), ',')) {
    int64_t threads = 0;
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, threads);
    if (text.empty() || at != end || (error == std::errc() && threads < 1))
      return fmt::format("OMP_NUM_THREADS={} is not a number of threads", value);
    if (error != std::errc() || threads > most)
      return fmt::format("OMP_NUM_THREADS={} is too much for {} core{}", value, cores,
                         cores == 1 ? "" : "s");
  }
  return {};
}

}  // namespace

Check check_cpu(const inventory::MachineFacts& facts) {
  const std::string name = facts.cpu_name.empty() ? "unknown model" : facts.cpu_name;
  const std::string cores = fmt::format("{} core{}", facts.cores, facts.cores == 1 ? "" : "s");
  if (!facts.has_avx2_fma) {
    return {"cpu", Level::kError, fmt::format("{}, {}: without AVX2 and FMA", name, cores),
            "the CPU kernels need both: use another machine"};
  }
  const char* unit = facts.has_amx_bf16      ? "AMX"
                     : facts.has_avx512_bf16 ? "AVX512-BF16"
                                             : "no AMX, no AVX512-BF16";
  return {"cpu", Level::kOk,
          fmt::format("{}, {}, {}: products run in {}", name, cores, unit,
                      inventory::multiplies_in_bf16(facts) ? "bf16" : "fp32"),
          ""};
}

Check check_memory(const inventory::Memory& memory) {
  const std::string text = fmt::format("{}, {} available", human_bytes(memory.total_bytes),
                                       human_bytes(memory.available_bytes));
  if (memory.available_bytes >= kMemoryMinBytes) return {"memory", Level::kOk, text, ""};
  return {"memory", Level::kWarning, text,
          fmt::format("the demo needs {}: end other programs", human_bytes(kMemoryMinBytes))};
}

Check check_gpus(const inventory::MachineFacts& facts, const Plugin& plugin) {
  const std::string plug_in = !plugin.is_there       ? "no CUDA plug-in"
                              : plugin.fault.empty() ? "CUDA plug-in loads"
                                                     : "CUDA plug-in: " + plugin.fault;
  if (facts.gpus.empty()) {
    const std::string note = facts.gpu_note.empty() ? "no GPU" : facts.gpu_note;
    return {"gpu", Level::kOk, fmt::format("{}; {}; jobs run on the CPU", note, plug_in), ""};
  }
  const std::string found = fmt::format("{} × {} ({}); {}", facts.gpus.size(), facts.gpus[0].name,
                                        human_bytes(facts.gpus[0].memory_bytes), plug_in);
  if (!plugin.is_there) {
    return {"gpu", Level::kWarning, found,
            "install the CUDA toolkit and build again with -DDSV3_CUDA=ON"};
  }
  if (!plugin.fault.empty())
    return {"gpu", Level::kWarning, found, "install the libraries it names, or build again"};
  return {"gpu", Level::kOk, found, ""};
}

Check check_binaries(const std::string& dir, const std::string& own_version,
                     const std::vector<Binary>& found) {
  std::vector<std::string> faults;
  for (const Binary& binary : found) {
    if (!binary.fault.empty()) {
      faults.push_back(fmt::format("{}: {}", binary.name, binary.fault));
    } else if (binary.version != own_version) {
      faults.push_back(fmt::format("{} is of version {}, dsv3ctl of {}", binary.name,
                                   binary.version.empty() ? "unknown" : binary.version,
                                   own_version));
    }
  }
  if (faults.empty()) {
    std::vector<std::string> names;
    for (const Binary& binary : found) names.push_back(binary.name);
    return {"binaries", Level::kOk,
            fmt::format("{}, all of version {}, in {}", joined(names), own_version, dir), ""};
  }
  return {"binaries", Level::kError, joined(faults, "; "),
          fmt::format("build or install all of them into {}", dir)};
}

Check check_presets(const std::string& dir, size_t count, const std::string& fault) {
  if (!fault.empty())
    return {"presets", Level::kError, fault, "set DSV3CTL_CONFIG_DIR, or install again"};
  return {"presets", Level::kOk, fmt::format("{} in {}", count, dir), ""};
}

Check check_state_dir(const StateDir& dir) {
  const Filesystem& fs = dir.filesystem;
  const auto error = [&](std::string message, std::string hint) {
    return Check{"state dir", Level::kError, std::move(message), std::move(hint)};
  };
  if (dir.exists && !dir.is_dir) {
    return error(fmt::format("{} is a file", dir.path), "remove it, or choose another --state-dir");
  }
  if (!dir.filesystem_status.ok())
    return error(dir.filesystem_status.message(), "choose another --state-dir");
  if (!can_hold_state(fs.kind)) {
    return error(
        fmt::format("{} is on {}, where SQLite's locks can't be trusted", dir.path, fs.name),
        "choose a --state-dir on a local disk");
  }
  if (fs.read_only) {
    return error(fmt::format("{} is on a file system that is mounted read-only", dir.path),
                 "choose another --state-dir");
  }
  if (!dir.writable) {
    return error(dir.exists ? fmt::format("{} can't be written by this user", dir.path)
                            : fmt::format("{} can't be made: {} can't be written by this user",
                                          dir.path, dir.nearest),
                 "choose another --state-dir, or set XDG_STATE_HOME");
  }
  const std::string text =
      fmt::format("{} ({}), {}, {} free", dir.path,
                  dir.exists ? fmt::format("mode {:04o}", dir.mode) : std::string("not made yet"),
                  fs.name, human_bytes(fs.free_bytes));
  if (fs.free_bytes < kDiskLeastBytes)
    return error(text + ": too little for any job", "free some, or choose another --state-dir");
  const auto warning = [&](std::string hint) {
    return Check{"state dir", Level::kWarning, text, std::move(hint)};
  };
  if (dir.exists && !dir.own)
    return warning("it belongs to another user: is this one's HOME right?");
  if (dir.exists && (dir.mode & 022) != 0)
    return warning(fmt::format("others can write into it: chmod 700 {}", dir.path));
  if (fs.free_bytes < kDiskMinBytes)
    return warning("little space for checkpoints: free some, or choose another --state-dir");
  if (fs.kind == FilesystemKind::kMemory)
    return warning("it is in memory: jobs and checkpoints are lost at a restart of the machine");
  return {"state dir", Level::kOk, text, ""};
}

Check check_keys(bool any, const std::vector<std::string>& open_to_others) {
  if (!any) return {"keys", Level::kOk, "none yet: made at the coordinator's first start", ""};
  if (open_to_others.empty()) return {"keys", Level::kOk, "private to this user", ""};
  return {"keys", Level::kError, fmt::format("other users can read {}", joined(open_to_others)),
          fmt::format("chmod 600 {}", joined(open_to_others, " "))};
}

Check check_coordinator(const Status& status, int64_t pid, const std::string& version,
                        const std::string& own_version) {
  if (status.code() == Code::kNoCoordinator)
    return {"coordinator", Level::kOk, "none is running: submit starts one", ""};
  if (!status.ok()) {
    return {"coordinator", Level::kError, status.message(),
            status.hint().empty() ? "look into dsv3d.log in the state dir" : status.hint()};
  }
  const std::string text = fmt::format("running (pid {}), answers, version {}", pid, version);
  if (version == own_version) return {"coordinator", Level::kOk, text, ""};
  return {"coordinator", Level::kWarning, fmt::format("{}, dsv3ctl is {}", text, own_version),
          "start it again with this version: dsv3ctl down; dsv3ctl up"};
}

Check check_open_files(uint64_t soft_limit, uint64_t hard_limit) {
  const std::string text = fmt::format("{} (ulimit -n)", soft_limit);
  if (soft_limit >= kOpenFilesMin) return {"open files", Level::kOk, text, ""};
  return {"open files", Level::kWarning, text,
          hard_limit >= kOpenFilesMin
              ? fmt::format("before the coordinator is started: ulimit -n {}", kOpenFilesMin)
              : std::string("ask the administrator for more (limits.conf: nofile)")};
}

bool is_tuning_variable(std::string_view name) {
  constexpr std::array<std::string_view, 9> kPrefixes = {
      "OMP_",       "GOMP_", "KMP_", "NCCL_", "DNNL_", "ONEDNN_", "CUDA_VISIBLE_DEVICES",
      "LD_PRELOAD", "DSV3_"};
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

Check check_environment(const std::vector<std::string>& left_over, int cores) {
  if (left_over.empty())
    return {"environment", Level::kOk, "nothing set that changes how workers run", ""};
  constexpr std::string_view kThreads = "OMP_NUM_THREADS=";
  for (const std::string& entry : left_over) {
    if (!entry.starts_with(kThreads)) continue;
    const std::string fault = thread_fault(std::string_view(entry).substr(kThreads.size()), cores);
    if (!fault.empty())
      return {"environment", Level::kError, fault,
              fmt::format("every worker inherits that: unset OMP_NUM_THREADS, or set it to at "
                          "most {}",
                          std::max(cores, 1))};
  }
  std::string names;
  for (const std::string& entry : left_over)
    names += (names.empty() ? "" : " ") + entry.substr(0, entry.find('='));
  return {"environment", Level::kWarning, joined(left_over),
          fmt::format("every worker inherits that: unset {}, unless it is meant", names)};
}

Check check_clock(int64_t now_s, int64_t built_s, bool synchronised) {
  // A minute: the file system's clock may be another machine's.
  if (now_s + 60 < built_s) {
    return {"clock", Level::kWarning,
            fmt::format("{} behind the time at which dsv3ctl was built",
                        human_duration(static_cast<double>(built_s - now_s))),
            "set the machine's clock"};
  }
  return {"clock", Level::kOk,
          synchronised ? "plausible, synchronised"
                       : "plausible; not synchronised (matters with several machines)",
          ""};
}

Check check_tools(const std::vector<std::string>& found, const std::vector<std::string>& absent) {
  return {"tools", Level::kOk,
          fmt::format("found: {}; absent: {}", found.empty() ? "none" : joined(found),
                      absent.empty() ? "none" : joined(absent)),
          ""};
}

}  // namespace dsv3::cli
