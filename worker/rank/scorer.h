// Scoring: the log-probabilities that a checkpoint's model gives to a sequence of tokens.
//
// Laws: everything is computed in fp32, whatever the job trained in, by the same modules as
// training (runtime/model). Memory is the weights, f32, once: no gradients, no moments, no MTP
// modules.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace dsv3::rank {

struct ScoreOptions {
  std::string checkpoint;       // a checkpoint, or a folder of them: the newest valid one
  std::vector<int32_t> tokens;  // at least 2, at most max_context_length
  std::string logits_path;      // gets tensor "logits" [tokens, vocab_size] f32; "": not written
};

struct Score {
  std::string checkpoint;        // that was read
  int64_t step = 0;              // its step
  std::vector<double> logprobs;  // [tokens − 1], natural: of tokens[1], tokens[2], …
  double mean_logprob = 0;
  double perplexity = 0;  // exp(−mean_logprob)
};

// kInvalid for tokens that the model doesn't have, too few or too many; kNotFound,
// kCheckpointUnusable for the checkpoint; kDoesNotFit when the weights are larger than the memory
// that is available; kFailed when the logits can't be written. Throws Failure when memory runs out.
Result<Score> score(const ScoreOptions& options);

}  // namespace dsv3::rank
