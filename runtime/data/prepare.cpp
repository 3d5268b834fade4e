// The steps of `data prepare`; see prepare.h.
#include "runtime/data/prepare.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "base/leftovers.h"
#include "base/rng.h"
#include "base/text.h"
#include "runtime/data/dataset_info.h"
#include "runtime/data/documents.h"
#include "runtime/data/indexed_dataset.h"
#include "runtime/data/tokenizer.h"

namespace dsv3::data {
namespace {

constexpr int64_t kModelBytesMax = int64_t{1} << 30;
constexpr size_t kBatchBytes = size_t{2}
                               << 20;  // of text, encoded at once and between two calls of progress
constexpr size_t kWorkersMax = 16;

constexpr std::array<std::pair<std::string_view, DocumentSplit>, 6> kSplits = {{
    {"auto", DocumentSplit::kAuto},
    {"paragraphs", DocumentSplit::kParagraphs},
    {"lines", DocumentSplit::kLines},
    {"files", DocumentSplit::kFiles},
    {"separator", DocumentSplit::kSeparator},
    {"jsonl", DocumentSplit::kJsonl},
}};

struct Input {
  Source source;
  MappedFile file;

  std::string_view text() const {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }
};

// A document on its way: text in, ids (with the end-of-document id) out.
struct Encoded {
  std::string text;
  std::vector<int32_t> ids = {};
  bool valid_utf8 = true;
};

// One run: the inputs, mapped, and what has been read of them.
class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options) : options_(options) {}

  Status open_inputs();
  Status open_tokenizer_model();
  std::string recipe() const;
  Status make_tokenizer();
  Result<DatasetInfo> tokenize();
  // Puts the outputs in their places: until then an older dataset is as it was.
  Status publish(const DatasetInfo& info, const std::string& recipe);

 private:
  DocumentReader reader(const Input& input) const {
    return {input.text(), input.source.path, options_.documents, options_.separator};
  }
  Status train();
  // Encodes a batch, adds it to the dataset and to the counts, and empties it.
  Status append(std::vector<Encoded>& batch, IndexedDatasetBuilder& builder,
                std::vector<int64_t>& counts, DatasetInfo& info) const;
  void progress(std::string_view phase, int64_t done_bytes) const {
    if (options_.progress) options_.progress(phase, done_bytes, total_bytes_);
  }

  const PrepareOptions& options_;
  TokenizerSpec spec_;
  std::vector<Input> inputs_;
  int64_t total_bytes_ = 0;
  std::string model_;           // SentencePiece: the model file's bytes
  std::string model_checksum_;  // of a model that was brought along
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<IndexedDatasetBuilder> builder_;
};

// Those of the outputs that were not there before: on the way out they go again, unless keep() was
// called; a signal takes them too.
class NewOutputs {
 public:
  explicit NewOutputs(const std::string& prefix) {
    for (const char* suffix : {".tokenizer.model", ".bin", ".idx", ".json"}) {
      if (path_exists(prefix + suffix)) continue;
      paths_.push_back(prefix + suffix);
      leftovers_.emplace_back(paths_.back());
    }
  }
  NewOutputs(const NewOutputs&) = delete;
  NewOutputs& operator=(const NewOutputs&) = delete;
  ~NewOutputs() {
    for (const std::string& path : paths_) ::unlink(path.c_str());
  }
  void keep() {
    paths_.clear();
    leftovers_.clear();
  }

 private:
  std::vector<std::string> paths_;
  std::vector<Leftover> leftovers_;
};

Status Preparation::open_inputs() {
  DSV3_ASSIGN_OR_RETURN(spec_, parse_tokenizer_spec(options_.tokenizer));
  for (const std::string& path : options_.inputs) {
    DSV3_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
    const auto bytes = static_cast<int64_t>(file.bytes().size());
    std::error_code error;
    const std::string absolute = std::filesystem::absolute(path, error).lexically_normal().string();
    Input input{{absolute, bytes, checksum(file.bytes())}, std::move(file)};
    inputs_.push_back(std::move(input));
    total_bytes_ += bytes;
  }
  return {};
}

Status Preparation::open_tokenizer_model() {
  if (spec_.kind != TokenizerSpec::Kind::kSentencePieceFile) return {};
  DSV3_ASSIGN_OR_RETURN(model_, read_file(spec_.path, kModelBytesMax));
  model_checksum_ = checksum(std::as_bytes(std::span<const char>(model_)));
  return {};
}

std::string Preparation::recipe() const {
  std::vector<Source> sources;
  for (const Input& input : inputs_) sources.push_back(input.source);
  return make_recipe(options_, sources, model_checksum_);
}

// Trains on about sample_bytes of text: every document is taken with the same probability.
Status Preparation::train() {
  const double share = total_bytes_ == 0 ? 1.0
                                         : static_cast<double>(options_.sample_bytes) /
                                               static_cast<double>(total_bytes_);
  const CounterRng rng(static_cast<uint64_t>(options_.seed), name_key("data.tokenizer_sample"));
  size_t input_idx = 0;
  uint64_t document_idx = 0;
  std::unique_ptr<DocumentReader> documents;
  Status failure;
  const auto next = [&](std::string_view& text) {
    while (input_idx < inputs_.size()) {
      if (documents == nullptr)
        documents = std::make_unique<DocumentReader>(reader(inputs_[input_idx]));
      while (documents->next(text)) {
        // The first is always taken, so that a small text never gives an empty sample.
        const uint64_t index = document_idx++;
        if (index == 0 || rng.uniform(index) < share) return true;
      }
      if (!documents->status().ok()) failure = documents->status();
      documents.reset();
      ++input_idx;
    }
    return false;
  };
  progress("training the tokenizer", 0);
  auto model = train_sentencepiece(spec_, next);
  DSV3_RETURN_IF_ERROR(failure);
  if (!model.ok()) return model.status();
  model_ = std::move(model).value();
  return {};
}

Status Preparation::make_tokenizer() {
  if (spec_.kind == TokenizerSpec::Kind::kByte) {
    tokenizer_ = make_byte_tokenizer();
    return {};
  }
  if (spec_.kind == TokenizerSpec::Kind::kSentencePieceTrain) DSV3_RETURN_IF_ERROR(train());
  DSV3_ASSIGN_OR_RETURN(tokenizer_, load_sentencepiece(model_));
  return {};
}

// Encodes a batch's texts, each worker every n-th of them; the first error, if any.
Status encode_batch(const Tokenizer& tokenizer, std::vector<Encoded>& batch) {
  const size_t num_workers =
      std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kWorkersMax);
  std::vector<Status> outcomes(num_workers);
  const auto work = [&](size_t worker) {
    for (size_t i = worker; i < batch.size() && outcomes[worker].ok(); i += num_workers) {
      batch[i].valid_utf8 = valid_utf8(batch[i].text);
      batch[i].ids.clear();
      outcomes[worker] = tokenizer.encode(batch[i].text, batch[i].ids);
      batch[i].ids.push_back(tokenizer.eod());
    }
  };
  std::vector<std::thread> workers;
  for (size_t worker = 1; worker < num_workers; ++worker) workers.emplace_back(work, worker);
  work(0);
  for (std::thread& worker : workers) worker.join();
  for (const Status& outcome : outcomes) DSV3_RETURN_IF_ERROR(outcome);
  return {};
}

Status Preparation::append(std::vector<Encoded>& batch, IndexedDatasetBuilder& builder,
                           std::vector<int64_t>& counts, DatasetInfo& info) const {
  DSV3_RETURN_IF_ERROR(encode_batch(*tokenizer_, batch));
  for (const Encoded& document : batch) {
    for (const int32_t id : document.ids) ++counts[id];
    DSV3_RETURN_IF_ERROR(builder.add_document(document.ids));
    info.input_bytes += static_cast<int64_t>(document.text.size());
    info.invalid_utf8_documents +=
        document.valid_utf8 || spec_.kind == TokenizerSpec::Kind::kByte ? 0 : 1;
  }
  batch.clear();
  return {};
}

Result<DatasetInfo> Preparation::tokenize() {
  DatasetInfo info;
  info.tokenizer = options_.tokenizer;
  info.vocab_size = tokenizer_->vocab_size();
  info.eod = tokenizer_->eod();
  DSV3_ASSIGN_OR_RETURN(builder_, IndexedDatasetBuilder::create(
                                      options_.prefix, token_type_for_vocab(info.vocab_size)));
  IndexedDatasetBuilder& builder = *builder_;
  std::vector<int64_t> counts(info.vocab_size, 0);
  std::vector<Encoded> batch;
  size_t batch_bytes = 0;
  int64_t before_bytes = 0;
  for (const Input& input : inputs_) {
    DocumentReader documents = reader(input);
    std::string_view text;
    while (documents.next(text)) {
      batch.push_back({std::string(text)});
      batch_bytes += text.size();
      if (batch_bytes < kBatchBytes) continue;
      DSV3_RETURN_IF_ERROR(append(batch, builder, counts, info));
      batch_bytes = 0;
      progress("tokenizing", before_bytes + documents.position_bytes());
    }
    DSV3_RETURN_IF_ERROR(documents.status());
    before_bytes += input.source.bytes;
  }
  DSV3_RETURN_IF_ERROR(append(batch, builder, counts, info));
  if (builder.num_documents() == 0) return Status(Code::kInvalid, "the inputs hold no documents");
  info.num_documents = builder.num_documents();
  info.num_tokens = builder.num_tokens();
  for (const int64_t count : counts) {
    const double p = static_cast<double>(count) / static_cast<double>(info.num_tokens);
    if (count > 0) info.unigram_entropy_nats -= p * std::log(p);
  }
  progress("tokenizing", total_bytes_);
  return info;
}

Status Preparation::publish(const DatasetInfo& info, const std::string& recipe) {
  NewOutputs outputs(options_.prefix);
  const std::string model_path = options_.prefix + ".tokenizer.model";
  // From here to the end the outputs are not to be relied on.
  ::unlink((options_.prefix + ".json").c_str());
  if (model_.empty()) {
    ::unlink(model_path.c_str());
  } else {
    DSV3_RETURN_IF_ERROR(write_file(model_path, model_));
  }
  DSV3_RETURN_IF_ERROR(builder_->finish());
  DSV3_RETURN_IF_ERROR(write_dataset_info(options_.prefix, info, recipe));
  outputs.keep();
  return {};
}

Status check_options(const PrepareOptions& options) {
  if (options.inputs.empty()) return Status(Code::kInvalid, "no input files");
  if (options.prefix.empty() || options.prefix.ends_with('/')) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' is not a prefix for the outputs", options.prefix),
                  "give a path without extension, such as data/corpus");
  }
  if (options.documents == DocumentSplit::kSeparator && options.separator.empty()) {
    return Status(Code::kInvalid, "documents are to be cut at a separator, but there is none");
  }
  if (options.sample_bytes < 1) {
    return Status(Code::kInvalid,
                  fmt::format("a sample of {} bytes trains no tokenizer", options.sample_bytes));
  }
  return {};
}

// True when the files beside an up-to-date PREFIX.json are there and fit it.
bool outputs_whole(const std::string& prefix, const DatasetInfo& info) {
  const auto dataset = IndexedDataset::open(prefix);
  if (!dataset.ok() || dataset->num_tokens() != info.num_tokens ||
      dataset->num_documents() != info.num_documents) {
    return false;
  }
  return open_dataset_tokenizer(prefix).ok();
}

}  // namespace

Result<DocumentSplit> parse_document_split(std::string_view text) {
  std::vector<std::string_view> names;
  for (const auto& [name, split] : kSplits) {
    if (name == text) return split;
    names.push_back(name);
  }
  const std::string near = did_you_mean(text, names);
  return Status(Code::kInvalid, fmt::format("'{}' is not a way to cut documents", text),
                near.empty() ? "auto, paragraphs, lines, files, separator or jsonl"
                             : fmt::format("did you mean '{}'?", near));
}

const char* document_split_name(DocumentSplit split) {
  for (const auto& [name, value] : kSplits) {
    if (value == split) return name.data();
  }
  return "";
}

Result<PrepareReport> prepare(const PrepareOptions& options) {
  DSV3_RETURN_IF_ERROR(check_options(options));
  Preparation preparation(options);
  DSV3_RETURN_IF_ERROR(preparation.open_inputs());
  DSV3_RETURN_IF_ERROR(preparation.open_tokenizer_model());
  const std::string recipe = preparation.recipe();
  if (!options.force && same_recipe(options.prefix, recipe)) {
    const auto info = read_dataset_info(options.prefix);
    if (info.ok() && outputs_whole(options.prefix, *info)) return PrepareReport{*info, true};
  }
  const std::string folder = std::filesystem::path(options.prefix).parent_path().string();
  if (!folder.empty()) DSV3_RETURN_IF_ERROR(make_dirs(folder));
  DSV3_RETURN_IF_ERROR(preparation.make_tokenizer());
  DSV3_ASSIGN_OR_RETURN(const DatasetInfo info, preparation.tokenize());
  DSV3_RETURN_IF_ERROR(preparation.publish(info, recipe));
  return PrepareReport{info, false};
}

}  // namespace dsv3::data
