// A DeepSpeed json as a layer over a configuration: it has no model, only how to train one.
//
// Law: every key is taken over, or said to have no effect and why, or refused with what to write
// instead; "auto" leaves what the configuration says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "configs/spec/diagnostic.h"
#include "configs/spec/document.h"
#include "configs/spec/parse.h"

namespace dsv3::spec {

// What a DeepSpeed json says of the batch that is no key of ours.
struct DeepSpeedBatch {
  std::optional<int64_t> accumulation;  // gradient_accumulation_steps
  std::string where;
  bool batch_given = false;  // train_batch_size stands beside it
};

// The layer in our keys, each at the place of the key that it comes from. Faults and keys without
// effect (NO_EFFECT) go to `out`. `batch` may not be null.
Node from_deepspeed(const Node& root, DeepSpeedBatch* batch, std::vector<Diagnostic>& out);

// Gradient accumulation follows from the batch here, so the json's must agree:
// global_batch_size = micro_batch_size · accumulation · EP·DP (DeepSpeed's data-parallel width).
// An error GRAD_ACCUMULATION_MISMATCH where all of them are known and differ; the global batch is
// computed where it alone is missing (OUT_OF_RANGE beyond its range); NO_EFFECT where the widths
// are the planner's choice.
void check_accumulation(const DeepSpeedBatch& batch, Parsed& parsed);

// True when the importer takes the path over ("zero_optimization.stage").
bool deepspeed_takes(std::string_view path);

}  // namespace dsv3::spec
