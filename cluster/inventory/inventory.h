// Local probe: what this machine has, as plan::ClusterSpec facts.
//
// Law: probing never fails and never needs a driver: what can't be read is left out (no GPUs,
// unknown name). Reading files is kept apart from understanding them: the parsers below are pure
// and take text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/plan/cluster_spec.h"

namespace dsv3::inventory {

struct Memory {
  int64_t total_bytes = 0;  // of the machine, or the control group's limit where that is smaller
  int64_t available_bytes = 0;  // now, without swapping
};

struct MachineFacts {
  std::string hostname;
  std::string cpu_name;  // "" when unknown
  int cores = 1;         // that this process may run on
  bool has_amx_bf16 = false;
  bool has_avx512_bf16 = false;
  bool has_avx2_fma = false;  // without them the CPU kernels refuse to start
  bool is_amd = false;
  Memory memory;
  std::vector<plan::Device> gpus;  // in NVML's order
  std::string gpu_note;            // why there are none ("no NVIDIA driver"), "" when there are
};

// Reads /proc, the control group and NVML (libnvidia-ml.so.1, opened at run time). Some
// milliseconds; thread-safe.
MachineFacts probe_machine();
// Whether the CPU kernels multiply in bf16: with AMX, and on AMD with AVX512-BF16 (on Intel without
// AMX fp32 is faster). Pure; the rule is that of kernels/cpu/cpu_backend.cpp.
bool multiplies_in_bf16(const MachineFacts& facts);
// "" when the shared library at `path` can be loaded and has `symbol`, else why not.
std::string try_library(const std::string& path, const char* symbol);
// One node named after the host: its CPU with all cores and memory.total_bytes, then its GPUs.
// Pure.
plan::ClusterSpec cluster_of(const MachineFacts& facts);
// This machine: cluster_of(probe_machine()).
plan::ClusterSpec local_cluster();

// The first "model name" of /proc/cpuinfo, "" when there is none.
std::string parse_cpu_name(std::string_view cpuinfo);
// Whether the first "flags" line of /proc/cpuinfo has this flag.
bool parse_cpu_flag(std::string_view cpuinfo, std::string_view flag);
// MemTotal and MemAvailable of /proc/meminfo (kB); zeros when absent.
Memory parse_meminfo(std::string_view meminfo);
// memory.max (v2) or memory.limit_in_bytes (v1): bytes; nullopt for "max", v1's "no limit" number,
// or nonsense.
std::optional<int64_t> parse_cgroup_limit(std::string_view text);
// The path of the memory controller in /proc/self/cgroup: "/user.slice/…" of the v2 line "0::…" or
// of v1's memory line. nullopt when there is none. *version2 says which.
std::optional<std::string> parse_cgroup_path(std::string_view cgroup, bool* version2);

// GPUs by NVML; empty with *note set when there is no driver or it refuses.
std::vector<plan::Device> probe_gpus(std::string* note);

}  // namespace dsv3::inventory
