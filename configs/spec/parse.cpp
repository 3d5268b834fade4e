// From texts to one JobSpec: each text becomes a tree, the trees are read one over the other
// (reader.h).
#include "configs/spec/parse.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/deepspeed.h"
#include "configs/spec/document.h"
#include "configs/spec/reader.h"
#include "configs/spec/render.h"

namespace dsv3::spec {
namespace {

// A file's tree; `hf`: a config.json.
struct Source {
  Node root;
  bool hf = false;
};

// FILE's tree with the first `count` layers over it and the words of --set.
void read_into(Parsed& parsed, const Source& file, const std::vector<Node>& layers, size_t count,
               const std::vector<std::string>& set) {
  Reader reader(parsed, file.hf);
  const bool is_map = reader.document(file.root);
  for (size_t i = 0; i < count; ++i) reader.layer(layers[i]);
  reader.overrides(set);
  if (is_map) reader.finish();
}

// An overlay made for another model: its sizes are larger than those below it. max-quality's wider
// latent is no such size.
void check_enlarges(const LayerText& layer, const JobSpec& below, const JobSpec& above,
                    Parsed& parsed) {
  const ModelSpec &small = below.model, &large = above.model;
  const bool grows = large.d_model > small.d_model || large.num_layers > small.num_layers ||
                     large.moe.num_experts > small.moe.num_experts;
  const int64_t from = count_params(small).total, to = count_params(large).total;
  const std::vector<std::string> accepted = split(parsed.job.preset.accepts, ' ');
  constexpr const char* kCode = "OVERLAY_ENLARGES";
  if (!grows || to <= from || std::count(accepted.begin(), accepted.end(), kCode) > 0) return;
  parsed.diagnostics.push_back({Severity::kWarning, kCode, layer.file, "model",
                                fmt::format("{} makes the model larger: {} parameters become {}",
                                            layer.name, human_count(from), human_count(to)),
                                "it is made for a larger configuration: leave its model keys out, "
                                "or write preset.accepts: OVERLAY_ENLARGES"});
}

// What each layer changed of what lay below it, --set left out.
void note_changes(const Source& file, const std::vector<Node>& layers, const Layers& over,
                  Parsed& parsed) {
  JobSpec below;
  bool whole = false;  // `below` is a configuration without faults
  for (size_t i = 0; i <= layers.size(); ++i) {
    Parsed scratch;
    read_into(scratch, file, layers, i, {});
    if (i > 0) {
      parsed.applied.push_back({over.texts[i - 1].name, diff(below, scratch.job)});
      if (whole && scratch.ok()) check_enlarges(over.texts[i - 1], below, scratch.job, parsed);
    }
    whole = scratch.ok();
    below = std::move(scratch.job);
  }
}

// What no reader should see: a text beyond the limit, or bytes that are no text. yaml-cpp would
// take UTF-16, end at a NUL, and pass on bytes that no message or database takes.
bool refused(std::string_view text, const std::string& file, Parsed& parsed) {
  const auto refuse = [&](const char* code, std::string where, std::string message,
                          const char* hint) {
    parsed.diagnostics.push_back(
        {Severity::kError, code, std::move(where), "", std::move(message), hint});
    return true;
  };
  if (text.size() > kFileBytesMax) {
    return refuse("FILE_TOO_LARGE", file,
                  fmt::format("the file has {} bytes; the limit is {}", text.size(), kFileBytesMax),
                  "a configuration is a few kilobytes");
  }
  const size_t nul = text.find('\0');
  const size_t at = std::min(nul, find_not_utf8(text));
  if (at == std::string_view::npos) return false;
  const std::string_view before = text.substr(0, at);
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t column = at - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  return refuse("NOT_UTF8", fmt::format("{}:{}:{}", file, line, column),
                at == nul ? std::string("the file holds a NUL byte: it is no text")
                          : fmt::format("the file is not UTF-8 (byte 0x{:02x})",
                                        static_cast<unsigned char>(text[at])),
                "save it as UTF-8 text");
}

Source source_of(std::string_view text, const std::string& file, Format format,
                 std::vector<Diagnostic>& out) {
  if (format == Format::kYaml) return {read_yaml(text, file, out), false};
  Source source{read_json(text, file, out), true};
  const auto& entries = source.root.entries;
  source.hf = std::none_of(entries.begin(), entries.end(), [](const auto& entry) {
    return entry.key.text == "model" && entry.value.kind == Node::Kind::kMap;
  });
  return source;
}

// A DeepSpeed json has no model: read as a config.json it would be DeepSeek-V3 by its defaults.
bool is_deepspeed(const Source& source) {
  const auto has = [&](std::string_view key) {
    const auto& entries = source.root.entries;
    return std::any_of(entries.begin(), entries.end(),
                       [&](const auto& entry) { return entry.key.text == key; });
  };
  const bool model = has("model_type") || has("hidden_size") || has("num_hidden_layers");
  return source.hf && !model &&
         (has("zero_optimization") || has("train_batch_size") ||
          has("train_micro_batch_size_per_gpu") || has("gradient_accumulation_steps"));
}

Node layer_of(const LayerText& layer, DeepSpeedBatch* batch, std::vector<Diagnostic>& out) {
  if (layer.format == Format::kYaml) return read_yaml(layer.text, layer.file, out);
  const Node root = read_json(layer.text, layer.file, out);
  return layer.format == Format::kDeepSpeed ? from_deepspeed(root, batch, out) : root;
}

}  // namespace

Parsed parse(std::string_view text, const std::string& file_name, Format format,
             const Layers& over) {
  Parsed parsed;
  parsed.file = file_name;
  if (refused(text, file_name, parsed)) return parsed;
  const Source file = source_of(text, file_name, format, parsed.diagnostics);
  if (is_deepspeed(file)) {
    parsed.diagnostics.push_back(
        {Severity::kError, "NO_MODEL", file.root.where, "",
         "this is a DeepSpeed json, which has no model",
         "lay it over a configuration: dsv3ctl validate 671b --deepspeed " + file_name});
    return parsed;
  }
  std::vector<Node> layers;
  DeepSpeedBatch batch;
  for (const LayerText& layer : over.texts) {
    if (refused(layer.text, layer.file, parsed)) return parsed;
    layers.push_back(layer_of(layer, &batch, parsed.diagnostics));
  }
  const bool readable = !has_errors(parsed.diagnostics);
  read_into(parsed, file, layers, layers.size(), over.set);
  check_accumulation(batch, parsed);
  if (readable && !layers.empty()) note_changes(file, layers, over, parsed);
  if (text.find(kWrittenMark) != std::string_view::npos) parsed.origins.written_file = file_name;
  return parsed;
}

Parsed parse_yaml(std::string_view text, const std::string& file_name,
                  const std::vector<std::string>& overrides) {
  return parse(text, file_name, Format::kYaml, {{}, overrides});
}

Parsed parse_json(std::string_view text, const std::string& file_name,
                  const std::vector<std::string>& overrides) {
  return parse(text, file_name, Format::kJson, {{}, overrides});
}

}  // namespace dsv3::spec
