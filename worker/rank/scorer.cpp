// See scorer.h.
#include "worker/rank/scorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <utility>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/parse.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/model/transformer.h"

namespace dsv3::rank {
namespace {

using checkpoint::Checkpoint;

constexpr int64_t kCopyElements = 2 << 20;  // of a weight, or of logits, on the host at once

Result<spec::ModelSpec> read_model(const Checkpoint& saved) {
  const spec::Parsed parsed = spec::parse_yaml(saved.spec_yaml(), saved.path() + "/manifest.json");
  if (const Status status = spec::to_status(parsed.diagnostics); !status.ok()) {
    return Status(Code::kCheckpointUnusable, fmt::format("the config in '{}' can't be read: {}",
                                                         saved.path(), status.message()));
  }
  spec::ModelSpec model = parsed.job.model;
  model.mtp_layers = 0;  // MTP modules predict further tokens; the next one is the main model's
  return model;
}

Status check_tokens(const std::vector<int32_t>& tokens, const spec::ModelSpec& model) {
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < 2) {
    return Status(Code::kInvalid, fmt::format("{} token{}: scoring needs at least 2", count,
                                              count == 1 ? "" : "s"));
  }
  if (count > model.max_context_length) {
    return Status(Code::kInvalid, fmt::format("{} tokens are more than the model's context of {}",
                                              count, model.max_context_length));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t token = tokens[static_cast<size_t>(i)];
    if (token >= 0 && token < model.vocab_size) continue;
    return Status(Code::kInvalid, fmt::format("token {} (number {} of the sequence) is not one of "
                                              "the vocabulary's 0 … {}",
                                              token, i + 1, model.vocab_size - 1));
  }
  return {};
}

// Bytes that the system could give without swapping; −1 where it doesn't say.
int64_t available_bytes() {
  std::ifstream info("/proc/meminfo");
  std::string word;
  while (info >> word) {
    int64_t kibibytes = 0;
    if (word == "MemAvailable:" && info >> kibibytes) return kibibytes * 1024;
  }
  return -1;
}

Status check_memory(const spec::ModelSpec& model, int64_t num_tokens) {
  const int64_t needed = 4 * (spec::count_params(model).total + num_tokens * model.vocab_size);
  const int64_t available = available_bytes();
  if (available < 0 || needed <= available) return {};
  return Status(Code::kDoesNotFit,
                fmt::format("weights and logits in fp32 take {}, this machine has {} available",
                            human_bytes(needed), human_bytes(available)));
}

// `put` gets the tensor's values in order: from which element on, and the values.
template <typename Put>
Status load_tensor(const Checkpoint& saved, const std::string& name,
                   const std::vector<int64_t>& shape, const Put& put) {
  const checkpoint::TensorInfo* info = saved.find(name);
  if (info == nullptr || info->dtype != DType::kF32 || info->shape != shape) {
    return Status(
        Code::kCheckpointUnusable,
        fmt::format("'{}' {} tensor {} of its own model", saved.path(),
                    info == nullptr ? "lacks" : "holds in another shape or dtype the", name));
  }
  const int64_t total = info->num_elements();
  std::vector<float> values(static_cast<size_t>(std::min(total, kCopyElements)));
  for (int64_t at = 0; at < total; at += kCopyElements) {
    const int64_t count = std::min(kCopyElements, total - at);
    const auto part = std::span(values).first(static_cast<size_t>(count));
    DSV3_RETURN_IF_ERROR(saved.read(name, std::as_writable_bytes(part), at, count));
    put(at, std::span<const float>(part));
  }
  return {};
}

Status load_weights(const Checkpoint& saved, const spec::ModelSpec& spec,
                    model::Transformer& model) {
  model::ParamStore& params = model.params();
  for (const model::ParamSlice& slice : params.layout().slices) {
    DSV3_RETURN_IF_ERROR(load_tensor(
        saved, slice.info.name, slice.info.shape,
        [&](int64_t at, std::span<const float> part) { params.set(slice.offset + at, part); }));
  }
  const int64_t experts = spec.moe.num_experts;
  const int64_t biases = spec.moe.use_aux_loss_free ? model.num_moe_layers() : 0;
  for (int64_t i = 0; i < biases; ++i) {
    DSV3_RETURN_IF_ERROR(load_tensor(saved, model.router_bias_name(i), {experts},
                                     [&](int64_t at, std::span<const float> part) {
                                       params.write(model.router_bias(), i * experts + at, part);
                                     }));
  }
  return {};
}

// log softmax(row)[token], summed in double.
double log_probability(std::span<const float> row, int32_t token) {
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  return static_cast<double>(row[static_cast<size_t>(token)]) - largest - std::log(sum);
}

using LogitsFile = std::optional<checkpoint::SafetensorsWriter>;

Result<LogitsFile> create_logits_file(const std::string& path, int64_t tokens, int64_t vocabulary) {
  if (path.empty()) return LogitsFile();
  checkpoint::SafetensorsTensor entry;
  entry.name = "logits";
  entry.tag = "F32";
  entry.shape = {tokens, vocabulary};
  DSV3_ASSIGN_OR_RETURN(auto writer, checkpoint::SafetensorsWriter::create(path, {entry}));
  return LogitsFile(std::move(writer));
}

// Takes the logits from the device some rows at a time.
Status read_logits(const tensor::Tensor& logits, const device::Device& device,
                   const std::vector<int32_t>& tokens, LogitsFile& file, Score* score) {
  const int64_t rows = logits.shape[0], vocabulary = logits.shape[1];
  const int64_t chunk = std::clamp<int64_t>(kCopyElements / vocabulary, 1, rows);
  std::vector<float> host(static_cast<size_t>(chunk * vocabulary));
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const auto part = std::span(host).first(static_cast<size_t>(count * vocabulary));
    device.backend().copy_to_host(part.data(), logits.as<float>() + begin * vocabulary,
                                  part.size_bytes(), device.stream());
    device.synchronize();
    if (file) DSV3_RETURN_IF_ERROR(file->append(std::as_bytes(part)));
    for (int64_t row = begin; row < std::min(begin + count, rows - 1); ++row) {
      const auto values = part.subspan(static_cast<size_t>((row - begin) * vocabulary),
                                       static_cast<size_t>(vocabulary));
      score->logprobs.push_back(log_probability(values, tokens[static_cast<size_t>(row + 1)]));
    }
  }
  return file ? file->finish() : Status();
}

}  // namespace

Result<Score> score(const ScoreOptions& options) {
  Score score;
  DSV3_ASSIGN_OR_RETURN(score.checkpoint, checkpoint::find_checkpoint(options.checkpoint));
  // A checkpoint that was looked for has been verified on the way.
  DSV3_ASSIGN_OR_RETURN(const Checkpoint saved,
                        Checkpoint::open(score.checkpoint, score.checkpoint == options.checkpoint));
  score.step = saved.step();
  DSV3_ASSIGN_OR_RETURN(const spec::ModelSpec spec, read_model(saved));
  DSV3_RETURN_IF_ERROR(check_tokens(options.tokens, spec));
  const auto num_tokens = static_cast<int64_t>(options.tokens.size());
  DSV3_RETURN_IF_ERROR(check_memory(spec, num_tokens));
  DSV3_ASSIGN_OR_RETURN(LogitsFile file,
                        create_logits_file(options.logits_path, num_tokens, spec.vocab_size));
  DSV3_ASSIGN_OR_RETURN(const auto device, device::open_device("cpu"));
  tensor::Arena arena(*device);
  model::Transformer model(
      spec, {.sequence = num_tokens, .compute = DType::kF32, .gradients = false}, arena);
  DSV3_RETURN_IF_ERROR(load_weights(saved, spec, model));
  std::vector<int32_t> sample = options.tokens;
  sample.push_back(0);  // the last token's label, which nothing reads
  const tensor::Scope scope(arena);
  const tensor::Tensor logits = model.score(sample);
  DSV3_RETURN_IF_ERROR(read_logits(logits, *device, options.tokens, file, &score));
  double sum = 0;
  for (const double logprob : score.logprobs) sum += logprob;
  score.mean_logprob = sum / static_cast<double>(score.logprobs.size());
  score.perplexity = std::exp(-score.mean_logprob);
  return score;
}

}  // namespace dsv3::rank
