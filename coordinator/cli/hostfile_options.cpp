// See hostfile_options.h; the format is cluster/inventory/hostfile.h's.
#include "coordinator/cli/hostfile_options.h"

#include <fmt/format.h>

#include "base/file.h"
#include "cluster/inventory/hostfile.h"
#include "coordinator/cli/config_options.h"

namespace dsv3::cli {

std::string shell_word(const std::string& text) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,@+=";
  if (text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += "'\\'";
    out += c;
  }
  return out + "'";
}

std::vector<Option> hostfile_options(HostfileOptions* target) {
  return {{"--hostfile", &target->file, "Count the GPUs of this hostfile (lines HOST slots=N)"},
          {"--include", &target->include, "Only these of its GPUs: HOST:0,1@HOST"},
          {"--exclude", &target->exclude, "All but these"}};
}

Result<std::optional<plan::ClusterSpec>> read_cluster(const HostfileOptions& options, int64_t gpus,
                                                      double gpu_memory_gb,
                                                      const std::string& gpu_name) {
  DSV3_ASSIGN_OR_RETURN(const std::string file, one_text("--hostfile", options.file));
  DSV3_ASSIGN_OR_RETURN(const std::string include, one_text("--include", options.include));
  DSV3_ASSIGN_OR_RETURN(const std::string exclude, one_text("--exclude", options.exclude));
  if (file.empty()) {
    if (include.empty() && exclude.empty()) return std::optional<plan::ClusterSpec>();
    const char* option = include.empty() ? "--exclude" : "--include";
    return Status(Code::kInvalid, fmt::format("{} needs --hostfile FILE", option),
                  "it chooses among the hosts of that file");
  }
  if (gpus > 0)
    return Status(Code::kInvalid, "--hostfile and --gpus cannot be given together",
                  "the hostfile says how many GPUs there are");
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(file, inventory::kHostfileBytesMax));
  DSV3_ASSIGN_OR_RETURN(const auto all, inventory::parse_hostfile(text, file));
  DSV3_ASSIGN_OR_RETURN(const auto hosts, inventory::filter_hosts(all, include, exclude));
  DSV3_ASSIGN_OR_RETURN(plan::ClusterSpec cluster,
                        inventory::cluster_of_hosts(hosts, gpu_memory_gb, gpu_name));
  return std::optional(std::move(cluster));
}

std::string hostfile_words(const HostfileOptions& options) {
  std::string out;
  const auto add = [&](const char* name, const std::vector<std::string>& given) {
    for (const std::string& word : given)
      out += (out.empty() ? "" : " ") + std::string(name) + " " + shell_word(word);
  };
  add("--hostfile", options.file);
  add("--include", options.include);
  add("--exclude", options.exclude);
  return out;
}

}  // namespace dsv3::cli
