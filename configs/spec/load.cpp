// Finding what FILE names, and the presets: the only code of this folder that touches the file
// system.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
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

// Names of the YAML files of a folder, without suffix; empty when it can't be read.
std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    if (it->path().extension() == ".yaml") names.push_back(it->path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool is_file(const std::string& path) {
  std::error_code ec;
  return fs::is_regular_file(path, ec);
}

// "there is no overlay named X (did you mean …? overlays: …)".
Status no_such(const char* what, const std::string& name, const std::vector<std::string>& names) {
  const std::vector<std::string_view> views(names.begin(), names.end());
  const std::string near = did_you_mean(name, views);
  std::string hint = near.empty() ? "" : fmt::format("did you mean '{}'? ", near);
  hint += names.empty() ? "set DSV3CTL_CONFIG_DIR to the folder of the presets"
                        : fmt::format("{}s:", what);
  for (const std::string& n : names) hint += " " + n;
  return Status(Code::kNotFound, fmt::format("there is no {} or file named {}", what, name), hint);
}

// The path that FILE means; kNotFound with the presets' names.
Result<std::string> locate(const std::string& file_or_preset) {
  std::error_code ec;
  const std::string preset = preset_name(file_or_preset);
  const bool bare = !preset.empty();
  std::vector<std::string> names;
  const bool exists = fs::exists(file_or_preset, ec);
  // A preset's own name wins over a file of that name; its other spellings don't.
  if (bare && (preset == file_or_preset || !exists)) {
    if (const Result<std::string> dir = configs_dir(); dir.ok()) {
      names = names_in(*dir);
      for (const std::string& n : names) {
        if (lower(n) == preset) return *dir + "/" + n + ".yaml";
      }
    }
  }
  if (exists) return file_or_preset;
  if (!bare) {
    return Status(Code::kNotFound, fmt::format("there is no file {}", file_or_preset),
                  "give a YAML file, a config.json or a preset's name (dsv3ctl configs)");
  }
  return no_such("preset", file_or_preset, names);
}

// A file beside the presets, or one of the user's: `name` as given, or in `folder` of configs/.
Result<std::string> locate_beside(const char* what, const std::string& name,
                                  const std::string& folder, const std::string& suffix) {
  const bool bare = !name.empty() && name.find('/') == std::string::npos;
  std::vector<std::string> names;
  if (bare) {
    if (const Result<std::string> dir = configs_dir(); dir.ok()) {
      const std::string path = *dir + folder + name;
      if (is_file(path + suffix)) return path + suffix;
      if (is_file(path) && !is_file(name)) return path;
      names = names_in(*dir + folder);
    }
  }
  if (is_file(name)) return name;
  if (bare && !suffix.empty()) return no_such(what, name, names);
  return Status(Code::kNotFound, fmt::format("there is no file {}", name),
                fmt::format("give the path of the {}", what));
}

Result<std::string> text_of(const std::string& path) {
  Result<std::string> read = read_file(path, static_cast<int64_t>(kFileBytesMax));
  std::error_code ec;
  if (!read.ok() && read.status().code() == Code::kInvalid && !fs::is_directory(path, ec)) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' is larger than {}, the limit of a configuration", path,
                              human_bytes(static_cast<int64_t>(kFileBytesMax))),
                  "a configuration is a few kilobytes: is it the right file?");
  }
  return read;
}

Format format_of(const std::string& path) {
  return fs::path(path).extension() == ".json" ? Format::kJson : Format::kYaml;
}

// The texts that lie over FILE.
Result<Layers> layers_of(const LoadRequest& request) {
  Layers layers;
  layers.set = request.set;
  if (!request.deepspeed.empty()) {
    DSV3_ASSIGN_OR_RETURN(const std::string path,
                          locate_beside("DeepSpeed json", request.deepspeed, "/", ""));
    DSV3_ASSIGN_OR_RETURN(std::string text, text_of(path));
    layers.texts.push_back({"--deepspeed", path, std::move(text), Format::kDeepSpeed});
  }
  for (const std::string& overlay : request.overlays) {
    if (overlay.empty()) {
      std::string hint = "give a YAML file or one of the overlays:";
      if (const Result<std::string> dir = configs_dir(); dir.ok()) {
        for (const std::string& name : names_in(*dir + "/overlays")) hint += " " + name;
      }
      return Status(Code::kInvalid, "the name of an overlay is empty", hint);
    }
    DSV3_ASSIGN_OR_RETURN(const std::string path,
                          locate_beside("overlay", overlay, "/overlays/", ".yaml"));
    DSV3_ASSIGN_OR_RETURN(std::string text, text_of(path));
    layers.texts.push_back(
        {"overlay " + fs::path(path).stem().string(), path, std::move(text), format_of(path)});
  }
  return layers;
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

std::string preset_name(const std::string& name) {
  std::string stem = lower(name);
  const bool given_file = stem.ends_with(".yaml");
  if (given_file) stem = fs::path(stem).stem().string();
  const std::string_view prefixes[] = {"deepseek_v3_", "deepseek-v3-"};
  for (const std::string_view prefix : prefixes) {
    if (!stem.starts_with(prefix)) continue;
    const std::string size = stem.substr(prefix.size());
    return size == "base" ? "671b" : size;
  }
  return given_file || stem.find_first_of("/.") != std::string::npos ? "" : stem;
}

Result<std::vector<std::string>> list_overlays() {
  DSV3_ASSIGN_OR_RETURN(const std::string dir, configs_dir());
  return names_in(dir + "/overlays");
}

Result<Parsed> load(const LoadRequest& request) {
  DSV3_ASSIGN_OR_RETURN(const std::string path, locate(request.file));
  DSV3_ASSIGN_OR_RETURN(const std::string text, text_of(path));
  DSV3_ASSIGN_OR_RETURN(const Layers layers, layers_of(request));
  return parse(text, path, format_of(path), layers);
}

Result<Parsed> load(const std::string& file_or_preset, const std::vector<std::string>& overrides) {
  return load(LoadRequest{file_or_preset, {}, "", overrides});
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
  for (const std::string& name : names_in(dir)) {
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
  // Equal totals stay in the order of their names.
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Preset> presets;
  for (auto& [total, preset] : found) presets.push_back(std::move(preset));
  return presets;
}

}  // namespace dsv3::spec
