// explain(): a layout's memory taken apart: the ledger of every stage, and of the worst one what
// each part of the model and each kind of tensor takes.
//
// Laws: PURE. No formula stands here: the ledgers are memory_ledger()'s; a part is ShardedCounts of
// its tensors alone through held_state(); a kind of tensor is its activation_terms() times the
// micro-batches in flight. Parts sum to the lines weights, gradients and optimizer but for what
// divisions round down, a few bytes a part. Tensors sum to the line activations: what it holds
// beside layers' terms is the difference, under a name of its own. Tensors carry the arena's names
// ("activations/attention/q").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/plan/memory.h"

namespace dsv3::plan {

// One stage; all ranks of it hold the same.
struct StageMemory {
  int64_t stage = 0;
  int64_t first_rank = 0;  // PP is the slowest axis: its ranks stand side by side
  int64_t last_rank = 0;
  LayerMix layers;
  LocalParams params;             // of a rank, before ZeRO
  double micro_batches = 1;       // in flight
  std::vector<LedgerLine> lines;  // every line of any stage, zero where this one has none
  int64_t peak_bytes = 0;
};

// What one part of the model ("attention", "routed_experts") takes on a rank.
struct PartMemory {
  std::string part;
  int64_t params = 0;
  int64_t weights_bytes = 0;
  int64_t gradients_bytes = 0;
  int64_t optimizer_bytes = 0;
};

// Saved activations of one kind of tensor, of one layer and of the whole stage in flight.
struct TensorMemory {
  std::string name;               // the arena's
  int64_t dense_layer_bytes = 0;  // 0 where the stage has no such layer
  int64_t moe_layer_bytes = 0;
  int64_t stage_bytes = 0;
};

struct Explanation {
  std::vector<StageMemory> stages;
  int64_t worst_stage = 0;
  std::vector<PartMemory> parts;      // of the worst stage; largest first
  std::vector<TensorMemory> tensors;  // of the worst stage; largest first; kept ones only
};

Explanation explain(const MemoryModel& model, const Layout& layout);

// The ranks of a stage as text: "rank 3", "ranks 0-7".
std::string ranks_text(const StageMemory& stage);

}  // namespace dsv3::plan
