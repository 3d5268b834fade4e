// See paths.h.
#include "configs/spec/paths.h"

#include <filesystem>

namespace dsv3::spec {
namespace {

std::string absolute(const std::string& path, const std::string& from) {
  if (path.empty()) return {};
  return (std::filesystem::path(from) / path).lexically_normal().string();
}

}  // namespace

void settle_paths(const std::string& working_dir, const std::string& demo_prefix, JobSpec* job) {
  for (auto& [path, weight] : job->data.path)
    path = path == kDemoData ? demo_prefix : absolute(path, working_dir);
  for (std::string* path : {&job->checkpoint.path, &job->checkpoint.load})
    *path = absolute(*path, working_dir);
}

}  // namespace dsv3::spec
