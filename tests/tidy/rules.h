// The house's rules as data: who may include whom, which headers are confined to one room, how long
// things may be.
//
// Law: dependencies point down only (DESIGN.md, "Rooms"). Adding a room or a dependency is an edit
// here, seen in review.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace dsv3::tidy {

// Room (longest matching folder) → folders whose headers it may include beside its own.
inline const std::map<std::string, std::vector<std::string>>& allowed_includes() {
  static const std::map<std::string, std::vector<std::string>> rules = {
      {"base", {}},
      {"configs/spec", {"base"}},
      {"cluster/plan", {"base", "configs/spec"}},
      {"cluster/inventory", {"base", "cluster/plan"}},
      {"cluster/launch", {"base", "cluster/plan"}},
      {"cluster/launch/local", {"base", "cluster/plan", "cluster/launch"}},
      {"kernels/ops", {"base"}},
      {"kernels/cpu", {"base", "kernels/ops", "kernels/cpu/avx512"}},
      {"kernels/cpu/avx512", {"base"}},
      {"kernels/cuda", {"base", "kernels/ops"}},
      {"runtime/device", {"base", "kernels/ops", "kernels/cpu"}},
      {"runtime/tensor", {"base", "kernels/ops", "runtime/device"}},
      {"runtime/model",
       {"base", "kernels/ops", "configs/spec", "cluster/plan", "runtime/device", "runtime/tensor",
        "runtime/comm"}},
      {"runtime/optim",
       {"base", "kernels/ops", "configs/spec", "cluster/plan", "runtime/device", "runtime/tensor",
        "runtime/model", "runtime/parallel"}},
      {"runtime/data", {"base", "configs/spec"}},
      {"runtime/checkpoint", {"base"}},
      {"runtime/comm", {"base", "cluster/plan"}},
      {"runtime/comm/cpu", {"base", "cluster/plan", "runtime/comm"}},
      {"runtime/parallel",
       {"base", "kernels/ops", "configs/spec", "cluster/plan", "runtime/device", "runtime/tensor",
        "runtime/model", "runtime/comm"}},
      {"runtime/convert", {"base", "configs/spec", "runtime/checkpoint"}},
      {"runtime/train",
       {"base", "kernels/ops", "configs/spec", "cluster/plan", "runtime/device", "runtime/tensor",
        "runtime/model", "runtime/optim", "runtime/data", "runtime/checkpoint", "runtime/comm",
        "runtime/parallel"}},
      {"coordinator/protocol", {"base"}},
      {"coordinator/core", {"base", "coordinator/protocol"}},
      {"coordinator/store", {"base", "coordinator/protocol", "coordinator/core"}},
      {"coordinator/transport", {"base", "coordinator/protocol"}},
      {"coordinator/daemon",
       {"base", "configs/spec", "cluster/plan", "cluster/inventory", "cluster/launch",
        "cluster/launch/local", "coordinator/protocol", "coordinator/core", "coordinator/store",
        "coordinator/transport"}},
      {"coordinator/cli",
       {"base", "configs/spec", "cluster/plan", "cluster/launch", "cluster/inventory",
        "coordinator/protocol", "coordinator/core", "coordinator/transport"}},
      {"worker/link", {"base", "coordinator/protocol"}},
      {"worker/agent",
       {"base", "cluster/plan", "cluster/inventory", "coordinator/protocol",
        "coordinator/transport", "worker/link"}},
      {"worker/rank/bin", {"worker/rank"}},
      {"worker/agent/bin", {"worker/agent"}},
      {"worker/rank",
       {"base", "configs/spec", "cluster/plan", "coordinator/protocol", "worker/link",
        "runtime/device", "runtime/tensor", "runtime/model", "runtime/data", "runtime/checkpoint",
        "runtime/comm", "runtime/comm/cpu", "runtime/convert", "runtime/train"}},
  };
  return rules;
}

// Text in an #include → the only folders where it may stand.
inline const std::map<std::string, std::vector<std::string>>& confined_headers() {
  static const std::map<std::string, std::vector<std::string>> rules = {
      {"<zmq", {"coordinator/transport"}},
      {"<SQLiteCpp", {"coordinator/store"}},
      {"<sqlite3", {"coordinator/store"}},
      {"<CLI/", {"coordinator/cli", "worker/rank", "worker/agent", "coordinator/daemon"}},
      {"<spdlog", {"base"}},
      {"<oneapi/dnnl", {"kernels/cpu"}},
      {"<dnnl", {"kernels/cpu"}},
      {"<sentencepiece", {"runtime/data"}},
      {"<yaml-cpp", {"configs/spec"}},
      {"<xxhash", {"base"}},
      {"<sodium", {"coordinator/transport"}},
      {"<cuda", {"kernels/cuda"}},
      {"<dlfcn", {"runtime/device", "cluster/inventory"}},
  };
  return rules;
}

// Rooms that decide: no files, processes, threads, sockets or clocks.
inline const std::vector<std::string>& pure_rooms() {
  static const std::vector<std::string> rooms = {"cluster/plan", "coordinator/protocol",
                                                 "coordinator/core"};
  return rooms;
}
inline const std::vector<std::string>& impure_headers() {
  static const std::vector<std::string> headers = {
      "<thread>",       "<mutex>",         "<future>",        "<condition_variable>",
      "<chrono>",       "<fstream>",       "<filesystem>",    "<unistd.h>",
      "<fcntl.h>",      "<poll.h>",        "<sys/",           "<cstdio>",
      "<iostream>",     "<ctime>",         "\"base/file.h\"", "\"base/process.h\"",
      "\"base/log.h\"", "\"base/clock.h\""};
  return headers;
}

inline constexpr int kFileLinesMax = 500;
inline constexpr int kMainLinesMax = 60;
inline constexpr int kFunctionLinesMax = 70;
inline constexpr int kKernelLinesMax = 150;

// Exceptions, each with its reason.
inline const std::map<std::string, std::string>& long_files() {
  static const std::map<std::string, std::string> files = {};
  return files;
}

}  // namespace dsv3::tidy
