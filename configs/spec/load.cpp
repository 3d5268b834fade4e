// Finding what FILE names, and the presets: the only code of this folder that touches the file
// system.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/parse.h"
#include "configs/spec/presets.h"
#include "configs/spec/validate.h"

namespace dsv3::spec {
namespace {

namespace fs = std::filesystem;

// Names of the preset files, without suffix; empty when the folder can't be read.
std::vector<std::string> preset_names(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    if (it->path().extension() == ".yaml") names.push_back(it->path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The path that FILE means; kNotFound with the presets' names.
Result<std::string> locate(const std::string& file_or_preset) {
  std::error_code ec;
  const bool bare =
      !file_or_preset.empty() && file_or_preset.find_first_of("/.") == std::string::npos;
  std::vector<std::string> names;
  if (bare) {
    if (const Result<std::string> dir = configs_dir(); dir.ok()) {
      const std::string path = *dir + "/" + file_or_preset + ".yaml";
      if (fs::is_regular_file(path, ec)) return path;
      names = preset_names(*dir);
    }
  }
  if (fs::exists(file_or_preset, ec)) return file_or_preset;
  if (!bare) {
    return Status(Code::kNotFound, fmt::format("there is no file {}", file_or_preset),
                  "give a YAML file, a config.json or a preset's name (dsv3ctl configs)");
  }
  std::vector<std::string_view> views(names.begin(), names.end());
  const std::string near = did_you_mean(file_or_preset, views);
  std::string hint = near.empty() ? "" : fmt::format("did you mean '{}'? ", near);
  hint += names.empty() ? "set DSV3CTL_CONFIG_DIR to the folder of the presets" : "presets:";
  for (const std::string& name : names) hint += " " + name;
  return Status(Code::kNotFound, fmt::format("there is no preset or file named {}", file_or_preset),
                hint);
}

}  // namespace

Result<std::string> configs_dir() {
  std::vector<std::string> tried;
  if (const char* env = std::getenv("DSV3CTL_CONFIG_DIR"); env != nullptr && *env != '\0')
    tried.push_back(env);
  tried.push_back(executable_dir() + "/../share/dsv3ctl/configs");
#ifdef DSV3_CONFIG_DIR
  tried.push_back(DSV3_CONFIG_DIR);
#endif
  std::string all;
  for (const std::string& dir : tried) {
    std::error_code ec;
    if (fs::is_directory(dir, ec)) return fs::absolute(dir, ec).lexically_normal().string();
    all += (all.empty() ? "" : ", ") + dir;
  }
  return Status(Code::kNotFound, "no folder with the presets; tried " + all,
                "set DSV3CTL_CONFIG_DIR to it");
}

Result<Parsed> load(const std::string& file_or_preset, const std::vector<std::string>& overrides) {
  DSV3_ASSIGN_OR_RETURN(const std::string path, locate(file_or_preset));
  const Result<std::string> read = read_file(path, static_cast<int64_t>(kFileBytesMax));
  std::error_code ec;
  if (!read.ok() && read.status().code() == Code::kInvalid && !fs::is_directory(path, ec)) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' is larger than {}, the limit of a configuration", path,
                              human_bytes(static_cast<int64_t>(kFileBytesMax))),
                  "a configuration is a few kilobytes: is it the right file?");
  }
  DSV3_RETURN_IF_ERROR(read.status());
  const std::string& text = *read;
  const bool json = fs::path(path).extension() == ".json";
  return json ? parse_json(text, path, overrides) : parse_yaml(text, path, overrides);
}

Result<JobSpec> load_valid(const std::string& file_or_preset,
                           const std::vector<std::string>& overrides) {
  DSV3_ASSIGN_OR_RETURN(Parsed parsed, load(file_or_preset, overrides));
  DSV3_RETURN_IF_ERROR(to_status(parsed.diagnostics));
  ValidateOptions options;
  options.origins = &parsed.origins;
  DSV3_RETURN_IF_ERROR(to_status(validate(parsed.job, options)));
  return std::move(parsed.job);
}

Result<std::vector<Preset>> list_presets() {
  DSV3_ASSIGN_OR_RETURN(const std::string dir, configs_dir());
  std::vector<std::pair<int64_t, Preset>> found;
  for (const std::string& name : preset_names(dir)) {
    Preset preset;
    preset.name = name;
    preset.file = dir + "/" + name + ".yaml";
    DSV3_ASSIGN_OR_RETURN(preset.job, load_valid(preset.file));
    preset.use_case = preset.job.preset.use_case;
    preset.gpus_min = preset.job.preset.gpus_min;
    preset.gpu_memory_gb = preset.job.preset.gpu_memory_gb;
    const int64_t total = count_params(preset.job.model).total;
    found.emplace_back(total, std::move(preset));
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Preset> presets;
  for (auto& [total, preset] : found) presets.push_back(std::move(preset));
  return presets;
}

}  // namespace dsv3::spec
