// Reading /proc and the control group; see inventory.h.
#include "cluster/inventory/inventory.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <thread>

namespace dsv3::inventory {
namespace {

// Files of /proc have no size: read them as a stream. "" when unreadable.
std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::optional<int64_t> parse_number(std::string_view text) {
  text = trim(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

// The value of the first line "key<blanks>: value", trimmed; "" when absent.
std::string_view field(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    const auto colon = line.find(':');
    if (colon != std::string_view::npos && trim(line.substr(0, colon)) == key) {
      return trim(line.substr(colon + 1));
    }
  }
  return {};
}

// The tightest limit of the own group and its ancestors; nullopt when none is set.
std::optional<int64_t> read_cgroup_limit() {
  bool version2 = false;
  const std::optional<std::string> own =
      parse_cgroup_path(read_text("/proc/self/cgroup"), &version2);
  const std::string root = version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
  const std::string name = version2 ? "/memory.max" : "/memory.limit_in_bytes";
  std::string path = own.value_or("/");
  std::optional<int64_t> tightest;
  while (true) {
    // Inside a container the path may not exist below the mount; its root then is the own group.
    const std::optional<int64_t> limit =
        parse_cgroup_limit(read_text(root + (path == "/" ? "" : path) + name));
    if (limit) tightest = std::min(tightest.value_or(*limit), *limit);
    if (path.size() <= 1) return tightest;
    const auto slash = path.rfind('/');
    path = slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
  }
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

std::string parse_cpu_name(std::string_view cpuinfo) {
  return std::string(field(cpuinfo, "model name"));
}

bool parse_cpu_flag(std::string_view cpuinfo, std::string_view flag) {
  std::istringstream flags{std::string(field(cpuinfo, "flags"))};
  std::string word;
  while (flags >> word) {
    if (word == flag) return true;
  }
  return false;
}

Memory parse_meminfo(std::string_view meminfo) {
  Memory memory;
  memory.total_bytes = parse_number(field(meminfo, "MemTotal")).value_or(0) * 1024;
  memory.available_bytes = parse_number(field(meminfo, "MemAvailable")).value_or(0) * 1024;
  return memory;
}

std::optional<int64_t> parse_cgroup_limit(std::string_view text) {
  const std::optional<int64_t> limit = parse_number(text);
  constexpr int64_t kNoLimit = int64_t{1} << 60;  // v1 writes 2^63 less a page
  if (!limit || *limit <= 0 || *limit >= kNoLimit) return std::nullopt;
  return limit;
}

std::optional<std::string> parse_cgroup_path(std::string_view cgroup, bool* version2) {
  *version2 = true;
  std::optional<std::string> unified;
  while (!cgroup.empty()) {
    const auto end = cgroup.find('\n');
    const std::string_view line = cgroup.substr(0, end);
    cgroup = end == std::string_view::npos ? std::string_view{} : cgroup.substr(end + 1);
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string path(trim(line.substr(second + 1)));
    if (controllers == "memory") {
      *version2 = false;
      return path;
    }
    if (controllers.empty()) unified = path;
  }
  return unified;
}

MachineFacts probe_machine() {
  MachineFacts facts;
  char host[256] = {};
  if (::gethostname(host, sizeof host - 1) == 0) facts.hostname = host;
  if (facts.hostname.empty()) facts.hostname = "localhost";
  const std::string cpuinfo = read_text("/proc/cpuinfo");
  facts.cpu_name = parse_cpu_name(cpuinfo);
  facts.has_amx_bf16 = parse_cpu_flag(cpuinfo, "amx_bf16");
  facts.has_avx512_bf16 = parse_cpu_flag(cpuinfo, "avx512_bf16");
  facts.has_avx2_fma = parse_cpu_flag(cpuinfo, "avx2") && parse_cpu_flag(cpuinfo, "fma");
  facts.is_amd = field(cpuinfo, "vendor_id") == "AuthenticAMD";
  facts.cores = usable_cores();
  facts.memory = parse_meminfo(read_text("/proc/meminfo"));
  if (const std::optional<int64_t> limit = read_cgroup_limit()) {
    facts.memory.total_bytes = std::min(facts.memory.total_bytes, *limit);
    facts.memory.available_bytes = std::min(facts.memory.available_bytes, *limit);
  }
  facts.gpus = probe_gpus(&facts.gpu_note);
  return facts;
}

bool multiplies_in_bf16(const MachineFacts& facts) {
  return facts.has_amx_bf16 || (facts.has_avx512_bf16 && facts.is_amd);
}

plan::ClusterSpec cluster_of(const MachineFacts& facts) {
  plan::Device cpu{.kind = plan::DeviceKind::kCpu, .name = facts.cpu_name};
  cpu.memory_bytes = facts.memory.total_bytes;
  cpu.cores = facts.cores;
  cpu.multiplies_in_bf16 = multiplies_in_bf16(facts);
  plan::Node node{.name = facts.hostname, .devices = {cpu}};
  node.devices.insert(node.devices.end(), facts.gpus.begin(), facts.gpus.end());
  return {{node}};
}

plan::ClusterSpec local_cluster() {
  return cluster_of(probe_machine());
}

}  // namespace dsv3::inventory
