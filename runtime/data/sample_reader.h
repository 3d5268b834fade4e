// Training samples: which tokens are sample number i of a job.
//
// Law: a sample is a function of (data, split, seed, sample index) alone — never of ranks, batch
// sizes or restarts — so the position to keep in a checkpoint is one number. The order of one
// dataset:
//   1. A fixed permutation of its documents gives the split (train first, then validation); it
//   ignores the seed, so
//      that runs with other seeds validate on the same text.
//   2. Each epoch permutes the split's documents by CounterRng(seed, epoch), lays them end to end
//   (they carry their own
//      end-of-document tokens) and cuts windows of seq_length tokens, each with one more token for
//      the last label.
//   3. The windows of an epoch are visited in a permuted order, so that parts of a long document
//   are not neighbours.
// Blends draw from their datasets by Tijdeman's rule: after k samples each has had k·weight of
// them, within one sample.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::data {

enum class Split : uint8_t { kTrain = 0, kValidation = 1 };

// Thread-safe after open(). Validation is read in one fixed order, whatever the seed.
class SampleReader {
 public:
  // Opens every dataset of data.path. kNotFound or kInvalid for the data; kInvalid when the
  // training documents hold no whole sample, when data.split is not [train, validation(, rest)], or
  // PREFIX.json names a larger vocabulary.
  static Result<SampleReader> open(const spec::DataSpec& data, int64_t seq_length, int64_t seed,
                                   int64_t vocab_size);
  SampleReader(SampleReader&&) noexcept;
  SampleReader& operator=(SampleReader&&) noexcept;
  ~SampleReader();

  // Samples in one epoch: of a blend, the least number in which no dataset repeats itself. 0 only
  // for validation.
  int64_t num_samples(Split split) const;
  // Tokens in one epoch of the split, over all datasets.
  int64_t num_tokens(Split split) const;
  // Fills tokens[seq_length + 1]: inputs are the first seq_length, labels the last. sample_idx ≥ 0
  // has no upper bound: past the end a new epoch begins. kInvalid, naming file and position, for a
  // token outside the vocabulary. Allocates only where a dataset enters an epoch that was not read
  // lately.
  Status read(Split split, int64_t sample_idx, std::span<int32_t> tokens) const;
  // Entropy of single tokens, −Σ p ln p in nats: the loss of the best model that ignores context.
  // Of a blend, that of the weighted mixture. From PREFIX.json, or counted once.
  double unigram_entropy() const;

 private:
  struct Impl;
  explicit SampleReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv3::data
