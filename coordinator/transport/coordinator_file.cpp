// See coordinator_file.h.
#include "coordinator/transport/coordinator_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/process.h"

namespace dsv3::transport {
namespace {

Status no_coordinator(const std::string& state_dir, const std::string& why) {
  return Status(Code::kNoCoordinator,
                fmt::format("no coordinator is running for '{}': {}", state_dir, why),
                "start one with `dsv3ctl up`");
}

}  // namespace

std::string coordinator_file_path(const std::string& state_dir) {
  return state_dir + "/coordinator.json";
}

Result<CoordinatorFile> read_coordinator_file_of_any(const std::string& state_dir) {
  const std::string path = coordinator_file_path(state_dir);
  Result<std::string> text = read_file(path, 1 << 16);
  if (!text.ok()) {
    if (text.status().code() == Code::kNotFound)
      return no_coordinator(state_dir, "there is no coordinator.json");
    return text.status();
  }
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
  CoordinatorFile file;
  const auto text_of = [&](const char* key) {
    return json.contains(key) && json[key].is_string() ? json[key].get<std::string>()
                                                       : std::string();
  };
  if (json.is_object()) {
    file.endpoint = text_of("endpoint");
    file.server_public_key = text_of("server_public_key");
    file.instance = text_of("instance");
    file.version = text_of("version");
    const auto number_of = [&](const char* key) {
      return json.contains(key) && json[key].is_number_integer() ? json[key].get<int64_t>() : 0;
    };
    file.pid = number_of("pid");
    file.start_ticks = number_of("start_ticks");
    file.boot_id = text_of("boot_id");
  }
  if (!file.endpoint.starts_with("tcp://") || file.server_public_key.size() != 40 ||
      file.pid <= 0) {
    return Status(Code::kInvalid, fmt::format("'{}' does not describe a coordinator", path),
                  "remove the file and run `dsv3ctl up`");
  }
  return file;
}

Result<CoordinatorFile> read_coordinator_file(const std::string& state_dir) {
  DSV3_ASSIGN_OR_RETURN(CoordinatorFile file, read_coordinator_file_of_any(state_dir));
  if (!is_alive(file)) {
    return no_coordinator(state_dir, fmt::format("its process {} has ended", file.pid));
  }
  return file;
}

bool is_alive(const CoordinatorFile& file) {
  const auto pid = static_cast<pid_t>(file.pid);
  if (!process_alive(pid)) return false;
  if (!file.boot_id.empty() && file.boot_id != boot_id()) return false;
  return file.start_ticks == 0 || file.start_ticks == process_start_ticks(pid);
}

Status write_coordinator_file(const std::string& state_dir, const CoordinatorFile& file) {
  const nlohmann::json json = {
      {"endpoint", file.endpoint}, {"server_public_key", file.server_public_key},
      {"pid", file.pid},           {"instance", file.instance},
      {"version", file.version},   {"start_ticks", file.start_ticks},
      {"boot_id", file.boot_id}};
  return write_file(coordinator_file_path(state_dir), json.dump(2) + "\n", 0600);
}

}  // namespace dsv3::transport
