// The order of samples against a second, plain implementation of its law, and what must not change
// it.
#include "runtime/data/sample_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "base/rng.h"
#include "runtime/data/blend.h"
#include "runtime/data/indexed_dataset.h"
#include "runtime/data/permutation.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::data {
namespace {

constexpr int64_t kVocab = 50000;

// Documents of growing and shrinking lengths (some empty) whose tokens all differ.
std::vector<std::vector<int32_t>> make_documents(int64_t count, int32_t first_token = 0) {
  std::vector<std::vector<int32_t>> documents;
  int32_t token = first_token;
  for (int64_t d = 0; d < count; ++d) {
    documents.emplace_back(static_cast<size_t>(d * 7 % 23));
    for (int32_t& t : documents.back()) t = token++;
  }
  return documents;
}

void write_dataset(const std::string& prefix, const std::vector<std::vector<int32_t>>& documents) {
  auto builder = IndexedDatasetBuilder::create(prefix, TokenType::kU16);
  ASSERT_TRUE(builder.ok());
  for (const auto& document : documents) ASSERT_TRUE(builder->add_document(document).ok());
  ASSERT_TRUE(builder->finish().ok());
}

spec::DataSpec spec_of(const std::string& prefix, std::vector<double> split = {0.8, 0.2}) {
  spec::DataSpec spec;
  spec.path = {{prefix, 1.0}};
  spec.split = std::move(split);
  return spec;
}

std::vector<int32_t> read(const SampleReader& reader, Split split, int64_t idx,
                          int64_t seq_length) {
  std::vector<int32_t> tokens(static_cast<size_t>(seq_length + 1), -1);
  const Status status = reader.read(split, idx, tokens);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return tokens;
}

// The law again, without caches or searches: whole epochs as one vector of tokens.
struct Oracle {
  std::vector<std::vector<int32_t>> documents;
  std::vector<size_t> split;  // the split's documents

  static std::vector<size_t> shuffled(std::vector<size_t> items, uint64_t seed,
                                      const std::string& key) {
    const CounterRng rng(seed, name_key(key));
    for (size_t i = items.size() - 1; i >= 1; --i) std::swap(items[i], items[rng.below(i, i + 1)]);
    return items;
  }
  Oracle(const std::vector<std::vector<int32_t>>& all, size_t begin, size_t count)
      : documents(all) {
    std::vector<size_t> order(all.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    order = shuffled(order, 0, "data.split");
    split.assign(order.begin() + begin, order.begin() + begin + count);
  }
  std::vector<int32_t> stream(uint64_t seed, const std::string& name, int64_t epoch) const {
    std::vector<int32_t> tokens;
    for (const size_t d :
         shuffled(split, seed, "data.documents/" + name + "/" + std::to_string(epoch))) {
      tokens.insert(tokens.end(), documents[d].begin(), documents[d].end());
    }
    return tokens;
  }
};

TEST(SampleReader, FollowsTheLawOverTwoEpochs) {
  const TemporaryFolder folder;
  const auto documents = make_documents(60);
  write_dataset(folder / "d", documents);
  constexpr int64_t kSeq = 9;
  const auto reader = SampleReader::open(spec_of(folder / "d"), kSeq, 77, kVocab);
  ASSERT_TRUE(reader.ok()) << reader.status().to_string();
  const Oracle oracle(documents, 0, 48);  // 80 % of 60
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    const auto stream = oracle.stream(77, "train/0", epoch);
    const int64_t n = (static_cast<int64_t>(stream.size()) - 1) / kSeq;
    ASSERT_EQ(reader->num_samples(Split::kTrain), n);
    EXPECT_EQ(reader->num_tokens(Split::kTrain), static_cast<int64_t>(stream.size()));
    std::set<int64_t> windows;
    for (int64_t i = 0; i < n; ++i) {
      const auto tokens = read(*reader, Split::kTrain, epoch * n + i, kSeq);
      const auto at =
          std::search(stream.begin(), stream.end(), tokens.begin(), tokens.end()) - stream.begin();
      ASSERT_LT(at, static_cast<int64_t>(stream.size()))
          << "sample " << i << " is not of the stream";
      EXPECT_EQ(at % kSeq, 0);
      windows.insert(at / kSeq);
    }
    EXPECT_EQ(static_cast<int64_t>(windows.size()), n) << "each window of an epoch once";
  }
}

TEST(SampleReader, OrderDependsOnTheSeedAndTheIndexAlone) {
  const TemporaryFolder folder;
  write_dataset(folder / "d", make_documents(60));
  const auto a = SampleReader::open(spec_of(folder / "d"), 8, 1, kVocab).value();
  const auto b = SampleReader::open(spec_of(folder / "d"), 8, 1, kVocab).value();
  const auto other = SampleReader::open(spec_of(folder / "d"), 8, 2, kVocab).value();
  const int64_t n = a.num_samples(Split::kTrain);
  int64_t different = 0;
  int64_t epochs_different = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto first = read(a, Split::kTrain, i, 8);
    EXPECT_EQ(first, read(b, Split::kTrain, i, 8));
    different += first != read(other, Split::kTrain, i, 8) ? 1 : 0;
  }
  // Backwards, and from far away: the same as forwards.
  for (int64_t i = 3 * n; i-- > 2 * n;) {
    EXPECT_EQ(read(b, Split::kTrain, i, 8), read(a, Split::kTrain, i, 8));
    epochs_different +=
        read(a, Split::kTrain, i, 8) != read(a, Split::kTrain, i - 2 * n, 8) ? 1 : 0;
  }
  EXPECT_GT(different, n / 2);
  EXPECT_GT(epochs_different, n / 2);
}

TEST(SampleReader, ValidationIsDisjointAndTheSameForEverySeedAndEpoch) {
  const TemporaryFolder folder;
  write_dataset(folder / "d", make_documents(60));
  const auto a = SampleReader::open(spec_of(folder / "d"), 5, 1, kVocab).value();
  const auto b = SampleReader::open(spec_of(folder / "d"), 5, 2, kVocab).value();
  std::set<int32_t> train;
  for (int64_t i = 0; i < a.num_samples(Split::kTrain); ++i) {
    for (const int32_t token : read(a, Split::kTrain, i, 5)) train.insert(token);
  }
  const int64_t n = a.num_samples(Split::kValidation);
  ASSERT_GT(n, 3);
  for (int64_t i = 0; i < n; ++i) {
    const auto tokens = read(a, Split::kValidation, i, 5);
    EXPECT_EQ(tokens, read(b, Split::kValidation, i, 5));
    EXPECT_EQ(tokens, read(a, Split::kValidation, n + i, 5));
    for (const int32_t token : tokens) EXPECT_FALSE(train.contains(token));
  }
}

TEST(SampleReader, SplitsOfFewDocumentsGiveValidationOne) {
  const TemporaryFolder folder;
  write_dataset(folder / "d", {std::vector<int32_t>(50, 1), std::vector<int32_t>(50, 2),
                               std::vector<int32_t>(50, 3)});
  const auto reader = SampleReader::open(spec_of(folder / "d", {0.99, 0.01}), 9, 1, kVocab).value();
  EXPECT_EQ(reader.num_tokens(Split::kTrain), 100);
  EXPECT_EQ(reader.num_tokens(Split::kValidation), 50);
  const auto all = SampleReader::open(spec_of(folder / "d", {1.0}), 9, 1, kVocab).value();
  EXPECT_EQ(all.num_tokens(Split::kTrain), 150);
  EXPECT_EQ(all.num_samples(Split::kValidation), 0);
  std::vector<int32_t> tokens(10);
  EXPECT_EQ(all.read(Split::kValidation, 0, tokens).code(), Code::kInvalid);
}

TEST(SampleReader, RefusesWhatCannotBeTrainedOn) {
  const TemporaryFolder folder;
  write_dataset(folder / "d", make_documents(20, 100));
  const auto code = [&](const spec::DataSpec& spec, int64_t seq_length, int64_t vocab) {
    const auto reader = SampleReader::open(spec, seq_length, 1, vocab);
    return reader.ok() ? Code::kOk : reader.status().code();
  };
  const spec::DataSpec good = spec_of(folder / "d");
  EXPECT_EQ(code(good, 8, kVocab), Code::kOk);
  EXPECT_EQ(code(good, 1000, kVocab), Code::kInvalid) << "a sample longer than the data";
  EXPECT_EQ(code(good, 0, kVocab), Code::kInvalid);
  EXPECT_EQ(code(spec_of(folder / "absent"), 8, kVocab), Code::kNotFound);
  EXPECT_EQ(code(spec_of(folder / "d", {0.0, 1.0}), 8, kVocab), Code::kInvalid);
  EXPECT_EQ(code(spec_of(folder / "d", {0.9, -0.1}), 8, kVocab), Code::kInvalid);
  EXPECT_EQ(code(spec::DataSpec{}, 8, kVocab), Code::kInvalid);
  spec::DataSpec weightless = good;
  weightless.path[0].second = 0.0;
  EXPECT_EQ(code(weightless, 8, kVocab), Code::kInvalid);
  const auto small = SampleReader::open(good, 8, 1, 101);
  ASSERT_TRUE(small.ok());
  std::vector<int32_t> tokens(9);
  const Status status = small->read(Split::kTrain, 0, tokens);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find(folder / "d.bin"), std::string::npos);
}

TEST(SampleReader, UnigramEntropyIsThatOfTheTokens) {
  const TemporaryFolder folder;
  std::vector<int32_t> tokens(80, 7);
  tokens.insert(tokens.end(), 20, 9);
  write_dataset(folder / "d", {tokens, tokens});
  const auto reader = SampleReader::open(spec_of(folder / "d"), 8, 1, 100).value();
  EXPECT_NEAR(reader.unigram_entropy(), -(0.8 * std::log(0.8) + 0.2 * std::log(0.2)), 1e-12);
}

TEST(SampleReader, BlendsDrawFromTheirDatasetsByWeight) {
  const TemporaryFolder folder;
  write_dataset(folder / "a", make_documents(40, 0));
  write_dataset(folder / "b", make_documents(40, 20000));
  spec::DataSpec spec = spec_of(folder / "a", {1.0});
  spec.path = {{folder / "a", 3.0}, {folder / "b", 1.0}};
  const auto blend = SampleReader::open(spec, 8, 5, kVocab).value();
  const auto a = SampleReader::open(spec_of(folder / "a", {1.0}), 8, 5, kVocab).value();
  int64_t from_a = 0;
  for (int64_t i = 0; i < 400; ++i) {
    const auto tokens = read(blend, Split::kTrain, i, 8);
    if (tokens[0] < 20000) {
      EXPECT_EQ(tokens, read(a, Split::kTrain, from_a, 8)) << "its own order goes on";
      ++from_a;
    }
    EXPECT_LT(std::abs(static_cast<double>(from_a) - 0.75 * static_cast<double>(i + 1)), 1.0);
  }
  EXPECT_EQ(blend.num_samples(Split::kTrain),
            static_cast<int64_t>(a.num_samples(Split::kTrain) / 0.75));
}

TEST(SampleReader, ManyThreadsReadTheSame) {
  const TemporaryFolder folder;
  write_dataset(folder / "a", make_documents(40, 0));
  write_dataset(folder / "b", make_documents(40, 20000));
  spec::DataSpec spec = spec_of(folder / "a");
  spec.path.emplace_back(folder / "b", 0.7);
  const auto reader = SampleReader::open(spec, 8, 5, kVocab).value();
  std::vector<std::vector<int32_t>> expected;
  for (int64_t i = 0; i < 300; ++i) expected.push_back(read(reader, Split::kTrain, i, 8));
  const auto shared = SampleReader::open(spec, 8, 5, kVocab).value();
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = t; i < 300; i += 3)
        EXPECT_EQ(read(shared, Split::kTrain, i, 8), expected[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Permutation, IsABijectionOfEverySize) {
  for (int64_t size = 1; size <= 300; ++size) {
    const CounterRng rng(9, static_cast<uint64_t>(size));
    std::set<int64_t> seen;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t to = permuted(i, size, rng);
      ASSERT_GE(to, 0);
      ASSERT_LT(to, size);
      seen.insert(to);
    }
    ASSERT_EQ(static_cast<int64_t>(seen.size()), size);
  }
}

TEST(Permutation, MovesNeighboursApart) {
  const CounterRng rng(1, 2);
  int64_t near = 0;
  for (int64_t i = 0; i + 1 < 10000; ++i) {
    near += std::abs(permuted(i, 10000, rng) - permuted(i + 1, 10000, rng)) < 100 ? 1 : 0;
  }
  EXPECT_LT(near, 400) << "about 2 % of the pairs by chance";
}

TEST(Blend, StaysWithinOneSampleOfEveryWeightAtEveryPrefix) {
  for (const auto& weights : std::vector<std::vector<double>>{{1.0},
                                                              {1, 1},
                                                              {1e-6, 1.0},
                                                              {0.5, 0.3, 0.2},
                                                              {1, 2, 3, 5, 8, 13, 21},
                                                              {100, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                                              std::vector<double>(20, 1.0)}) {
    const Blend blend(weights);
    double sum = 0;
    for (const double w : weights) sum += w;
    std::vector<int64_t> counts(weights.size(), 0);
    for (int64_t k = 0; k < 1500; ++k) {
      const auto pick = blend.at(k);
      ASSERT_EQ(pick.sample_idx, counts[pick.dataset_idx]) << "no sample is left out";
      ++counts[pick.dataset_idx];
      for (size_t i = 0; i < weights.size(); ++i) {
        const double due = weights[i] / sum * static_cast<double>(k + 1);
        ASSERT_LT(std::abs(static_cast<double>(counts[i]) - due), 1.0)
            << "dataset " << i << " at " << k;
      }
    }
  }
}

TEST(Blend, AnswersInAnyOrder) {
  const std::vector<double> weights = {0.2, 0.5, 0.3};
  const Blend forward(weights);
  const Blend jumping(weights);
  std::vector<Blend::Pick> picks;
  for (int64_t k = 0; k <= 5000; ++k) picks.push_back(forward.at(k));
  for (const int64_t k : {5000, 3, 511, 512, 513, 4999, 0}) {
    EXPECT_EQ(jumping.at(k).dataset_idx, picks[k].dataset_idx);
    EXPECT_EQ(jumping.at(k).sample_idx, picks[k].sample_idx);
  }
}

}  // namespace
}  // namespace dsv3::data
