// Splits, epochs and windows; the order's law is in sample_reader.h.
#include "runtime/data/sample_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "runtime/data/blend.h"
#include "runtime/data/indexed_dataset.h"
#include "runtime/data/permutation.h"
#include "runtime/data/prepare.h"

namespace dsv3::data {
namespace {

// Tokens that unigram_entropy() counts at most, of each dataset without a PREFIX.json.
constexpr int64_t kEntropyTokensMax = int64_t{1} << 26;

// One dataset's documents in the order of one epoch.
struct EpochOrder {
  int64_t epoch = 0;
  std::vector<uint32_t> documents;
  std::vector<int64_t>
      begins;                // [documents + 1]: where each begins in the epoch's stream of tokens
  CounterRng windows{0, 0};  // permutes the windows
};

// The documents of one dataset that belong to one split.
struct Part {
  const IndexedDataset* dataset = nullptr;
  std::string key;  // names the random streams
  uint64_t seed = 0;
  bool one_order = false;           // validation: every epoch is epoch 0
  std::vector<uint32_t> documents;  // in the split's fixed order
  int64_t num_tokens = 0;
  int64_t num_windows = 0;
  mutable std::mutex mutex;
  mutable std::array<std::shared_ptr<const EpochOrder>, 2> recent;  // by epoch mod 2
};

int64_t document_tokens(const IndexedDataset& dataset, int64_t document) {
  return dataset.document_begin(document + 1) - dataset.document_begin(document);
}

std::shared_ptr<const EpochOrder> make_order(const Part& part, int64_t epoch) {
  auto order = std::make_shared<EpochOrder>();
  order->epoch = epoch;
  order->documents = part.documents;
  shuffle(order->documents,
          CounterRng(part.seed, name_key(fmt::format("data.documents/{}/{}", part.key, epoch))));
  order->begins.reserve(order->documents.size() + 1);
  int64_t begin = 0;
  for (const uint32_t document : order->documents) {
    order->begins.push_back(begin);
    begin += document_tokens(*part.dataset, document);
  }
  order->begins.push_back(begin);
  order->windows =
      CounterRng(part.seed, name_key(fmt::format("data.windows/{}/{}", part.key, epoch)));
  return order;
}

std::shared_ptr<const EpochOrder> order_of(const Part& part, int64_t epoch) {
  const std::lock_guard lock(part.mutex);
  auto& slot = part.recent[epoch % 2];
  if (slot == nullptr || slot->epoch != epoch) slot = make_order(part, epoch);
  return slot;
}

Status read_window(const Part& part, int64_t sample_idx, int64_t seq_length, int64_t vocab_size,
                   std::span<int32_t> tokens) {
  const int64_t epoch = part.one_order ? 0 : sample_idx / part.num_windows;
  const auto order = order_of(part, epoch);
  const int64_t window = permuted(sample_idx % part.num_windows, part.num_windows, order->windows);
  int64_t at = window * seq_length;
  // The document that holds the first token; documents without tokens are stepped over.
  auto place =
      std::upper_bound(order->begins.begin(), order->begins.end(), at) - order->begins.begin() - 1;
  while (!tokens.empty()) {
    const int64_t skipped = at - order->begins[place];
    const int64_t count =
        std::min<int64_t>(order->begins[place + 1] - at, static_cast<int64_t>(tokens.size()));
    const int64_t from = part.dataset->document_begin(order->documents[place]) + skipped;
    DSV3_RETURN_IF_ERROR(part.dataset->read(from, vocab_size, tokens.first(count)));
    tokens = tokens.subspan(count);
    at += count;
    ++place;
  }
  return {};
}

// How many of `num_documents` go to training and to validation: shares of all, at least one each
// where asked for.
std::pair<int64_t, int64_t> split_counts(int64_t num_documents, const std::vector<double>& split) {
  const double sum = std::accumulate(split.begin(), split.end(), 0.0);
  const double validation_share = split.size() > 1 ? split[1] : 0.0;
  const auto n = static_cast<double>(num_documents);
  int64_t train = std::llround(n * split[0] / sum);
  int64_t validation = std::llround(n * (split[0] + validation_share) / sum) - train;
  if (validation_share > 0.0 && validation == 0 && num_documents > 1) {
    validation = 1;
    train = std::min(train, num_documents - 1);
  }
  if (train == 0 && num_documents > validation) train = 1;
  return {train, validation};
}

Status check_request(const spec::DataSpec& data, int64_t seq_length, int64_t vocab_size) {
  if (data.path.empty()) return Status(Code::kInvalid, "data.path names no dataset");
  if (seq_length < 1)
    return Status(Code::kInvalid, fmt::format("seq_length {} is not positive", seq_length));
  if (vocab_size < 1 || vocab_size > int64_t{1} << 31) {
    return Status(Code::kInvalid, fmt::format("vocab_size {} is not within 1 to 2^31", vocab_size));
  }
  for (const auto& [prefix, weight] : data.path) {
    if (!(weight > 0.0) || !std::isfinite(weight)) {
      return Status(Code::kInvalid, fmt::format("data.path: the weight {} of '{}' is not positive",
                                                weight, prefix));
    }
  }
  const bool negative = std::any_of(data.split.begin(), data.split.end(),
                                    [](double s) { return !(s >= 0.0) || !std::isfinite(s); });
  if (data.split.empty() || data.split.size() > 3 || negative || data.split[0] <= 0.0) {
    return Status(Code::kInvalid,
                  "data.split is [train, validation] or [train, validation, rest], none negative, "
                  "train above 0");
  }
  return {};
}

// −Σ p ln p of a histogram of any scale.
double entropy_of(const std::vector<double>& histogram) {
  const double sum = std::accumulate(histogram.begin(), histogram.end(), 0.0);
  double entropy = 0.0;
  for (const double count : histogram) {
    if (count > 0.0) entropy -= count / sum * std::log(count / sum);
  }
  return entropy;
}

}  // namespace

struct SampleReader::Impl {
  int64_t seq_length = 0;
  int64_t vocab_size = 0;
  std::vector<double> weights;
  std::vector<std::unique_ptr<IndexedDataset>> datasets;
  std::array<std::vector<std::unique_ptr<Part>>, 2>
      parts;  // per split; validation: those with a whole sample
  std::array<std::unique_ptr<Blend>, 2> blends;
  mutable std::once_flag entropy_once;
  mutable double entropy = 0.0;

  Status add_dataset(const std::string& prefix, const std::vector<double>& split, int64_t seed);
  std::unique_ptr<Part> make_part(const IndexedDataset& dataset, Split split,
                                  std::span<const uint32_t> documents, int64_t seed) const;
  double count_entropy() const;
};

std::unique_ptr<Part> SampleReader::Impl::make_part(const IndexedDataset& dataset, Split split,
                                                    std::span<const uint32_t> documents,
                                                    int64_t seed) const {
  auto part = std::make_unique<Part>();
  part->dataset = &dataset;
  part->key =
      fmt::format("{}/{}", split == Split::kTrain ? "train" : "validation", datasets.size() - 1);
  part->one_order = split == Split::kValidation;
  part->seed = part->one_order ? 0 : static_cast<uint64_t>(seed);
  part->documents.assign(documents.begin(), documents.end());
  for (const uint32_t document : documents) part->num_tokens += document_tokens(dataset, document);
  part->num_windows = part->num_tokens > 0 ? (part->num_tokens - 1) / seq_length : 0;
  return part;
}

Status SampleReader::Impl::add_dataset(const std::string& prefix, const std::vector<double>& split,
                                       int64_t seed) {
  if (auto info = read_dataset_info(prefix); info.ok() && info->vocab_size > vocab_size) {
    return Status(
        Code::kInvalid,
        fmt::format("'{}' was made with a vocabulary of {}, more than model.vocab_size {}", prefix,
                    info->vocab_size, vocab_size));
  }
  DSV3_ASSIGN_OR_RETURN(IndexedDataset opened, IndexedDataset::open(prefix));
  if (opened.num_documents() > std::numeric_limits<uint32_t>::max()) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' has {} documents; at most 2^32 − 1 can be shuffled", prefix,
                              opened.num_documents()));
  }
  datasets.push_back(std::make_unique<IndexedDataset>(std::move(opened)));
  const IndexedDataset& dataset = *datasets.back();
  std::vector<uint32_t> documents(dataset.num_documents());
  std::iota(documents.begin(), documents.end(), 0u);
  shuffle(documents, CounterRng(0, name_key("data.split")));
  const auto [num_train, num_validation] = split_counts(dataset.num_documents(), split);
  const std::span<const uint32_t> all = documents;
  auto train = make_part(dataset, Split::kTrain, all.first(num_train), seed);
  if (train->num_windows == 0) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' has {} tokens for training, less than one sample of {} + 1",
                              prefix, train->num_tokens, seq_length),
                  "more data, or a smaller training.seq_length");
  }
  auto validation =
      make_part(dataset, Split::kValidation, all.subspan(num_train, num_validation), seed);
  parts[0].push_back(std::move(train));
  if (validation->num_windows > 0) parts[1].push_back(std::move(validation));
  return {};
}

double SampleReader::Impl::count_entropy() const {
  if (datasets.size() == 1) {
    const auto info = read_dataset_info(datasets[0]->prefix());
    if (info.ok() && info->num_tokens == datasets[0]->num_tokens())
      return info->unigram_entropy_nats;
  }
  std::vector<double> mixture(vocab_size, 0.0);
  std::vector<int64_t> counts(vocab_size);
  std::vector<int32_t> tokens(1 << 16);
  for (size_t i = 0; i < datasets.size(); ++i) {
    std::fill(counts.begin(), counts.end(), 0);
    const int64_t limit = std::min(datasets[i]->num_tokens(), kEntropyTokensMax);
    for (int64_t at = 0; at < limit;) {
      const auto piece = std::span(tokens).first(
          std::min<int64_t>(limit - at, static_cast<int64_t>(tokens.size())));
      if (!datasets[i]->read(at, vocab_size, piece).ok())
        return std::numeric_limits<double>::quiet_NaN();
      for (const int32_t token : piece) ++counts[token];
      at += static_cast<int64_t>(piece.size());
    }
    for (int64_t t = 0; t < vocab_size; ++t) {
      mixture[t] += weights[i] * static_cast<double>(counts[t]) / static_cast<double>(limit);
    }
  }
  return entropy_of(mixture);
}

Result<SampleReader> SampleReader::open(const spec::DataSpec& data, int64_t seq_length,
                                        int64_t seed, int64_t vocab_size) {
  DSV3_RETURN_IF_ERROR(check_request(data, seq_length, vocab_size));
  auto impl = std::make_unique<Impl>();
  impl->seq_length = seq_length;
  impl->vocab_size = vocab_size;
  std::vector<double> validation_weights;
  for (const auto& [prefix, weight] : data.path) {
    const size_t had = impl->parts[1].size();
    DSV3_RETURN_IF_ERROR(impl->add_dataset(prefix, data.split, seed));
    impl->weights.push_back(weight);
    if (impl->parts[1].size() > had) validation_weights.push_back(weight);
  }
  const double sum = std::accumulate(impl->weights.begin(), impl->weights.end(), 0.0);
  for (double& weight : impl->weights) weight /= sum;
  impl->blends[0] = std::make_unique<Blend>(impl->weights);
  if (!validation_weights.empty()) impl->blends[1] = std::make_unique<Blend>(validation_weights);
  return SampleReader(std::move(impl));
}

SampleReader::SampleReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SampleReader::SampleReader(SampleReader&&) noexcept = default;
SampleReader& SampleReader::operator=(SampleReader&&) noexcept = default;
SampleReader::~SampleReader() = default;

int64_t SampleReader::num_samples(Split split) const {
  const auto& parts = impl_->parts[static_cast<size_t>(split)];
  if (parts.size() == 1) return parts[0]->num_windows;
  int64_t samples = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < parts.size(); ++i) {
    const double weight =
        impl_->blends[static_cast<size_t>(split)]->weight(static_cast<int64_t>(i));
    samples = std::min(samples,
                       static_cast<int64_t>(static_cast<double>(parts[i]->num_windows) / weight));
  }
  return parts.empty() ? 0 : std::max<int64_t>(samples, 1);
}

int64_t SampleReader::num_tokens(Split split) const {
  int64_t tokens = 0;
  for (const auto& part : impl_->parts[static_cast<size_t>(split)]) tokens += part->num_tokens;
  return tokens;
}

Status SampleReader::read(Split split, int64_t sample_idx, std::span<int32_t> tokens) const {
  DSV3_CHECK(sample_idx >= 0);
  DSV3_CHECK(static_cast<int64_t>(tokens.size()) == impl_->seq_length + 1);
  const auto& parts = impl_->parts[static_cast<size_t>(split)];
  if (parts.empty()) {
    return Status(Code::kInvalid,
                  fmt::format("the validation documents hold no whole sample of {} + 1 tokens",
                              impl_->seq_length),
                  "a larger second number in data.split");
  }
  const Blend::Pick pick = impl_->blends[static_cast<size_t>(split)]->at(sample_idx);
  return read_window(*parts[pick.dataset_idx], pick.sample_idx, impl_->seq_length,
                     impl_->vocab_size, tokens);
}

double SampleReader::unigram_entropy() const {
  std::call_once(impl_->entropy_once, [this] { impl_->entropy = impl_->count_entropy(); });
  return impl_->entropy;
}

}  // namespace dsv3::data
