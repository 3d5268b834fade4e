// Groups: a rank's communicators, by what they are for.
//
// Laws: (1) who is in a group follows from cluster/plan's rank grid alone. (2) All of them are made
// at the start, in one order, the same on every rank: nothing connects in a step. (3) A group of
// one rank is null: nobody to talk to.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/plan/rank_grid.h"
#include "runtime/comm/communicator.h"

namespace dsv3::comm {

// Communicators that take the buckets of one gradient sum in turn: while one waits for the last
// bytes of a sum, another keeps the link busy.
using Lanes = std::vector<Communicator*>;

struct Groups {
  plan::Layout layout;
  plan::RankPosition position;

  Communicator* world = nullptr;    // every rank: losses, counts, norms, agreement
  Communicator* tensor = nullptr;   // TP: heads, widths, vocabulary
  Communicator* context = nullptr;  // CP: latents of a sequence's other parts
  // TP·CP: the ranks that hold parts of the same sequences (per-sequence statistics of the router).
  Communicator* sequence = nullptr;
  // The ranks that hold one layer's experts between them: EP·TP (etp 1) or EP (etp = TP), in the
  // order of the experts.
  Communicator* experts = nullptr;
  // The pipeline's stages, in order. Activations travel in `forward` (from the last stage to the
  // first too, with several chunks), their gradients in `backward`: each of them one stream.
  Communicator* forward = nullptr;
  Communicator* backward = nullptr;
  // The first and the last stage, where both hold the embedding (MTP or tied, PP > 1).
  Communicator* embedding = nullptr;
  // Sums of gradients (plan::ParamClass): replicated over TP·CP·EP·DP, dense over CP·EP·DP, experts
  // over CP·DP. Empty: one rank.
  Lanes replicated, dense, expert;

  // A rank alone: every group null, every size 1.
  static const Groups& alone();

  // Moves what is under way in any group.
  void progress() const {
    if (world) world->progress();
  }
  int64_t data_ranks() const { return layout.dense_dp(); }
  // Which share of the global batch: ep + EP·dp.
  int64_t data_rank() const { return position.ep_rank + layout.ep * position.dp_rank; }
  bool is_first_stage() const { return position.pp_stage == 0; }
  bool is_last_stage() const { return position.pp_stage == layout.pp - 1; }
  // Time spent waiting in any group, ever: exposed communication.
  int64_t wait_ns() const;
};

}  // namespace dsv3::comm
