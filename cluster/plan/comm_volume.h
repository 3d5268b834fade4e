// Communication volume: what one rank sends in a step, exchange by exchange, in payload bytes as
// runtime/comm's Traffic counts them (its COMM.md says how each operation goes on the wire).
//
// Laws: PURE. The one home of volumes: layer_time.h turns the same lists into seconds, and a test
// of the runtime holds them against what its communicators count. Only what the experts exchange
// depends on the data: the rows that leave and arrive are given.
//
// Letters: t tokens of the micro-batch on one CP rank (gathered over TP), T = t·CP, h d_model, e
// bytes of an activation, L = kv_lora_rank + rope dimensions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "cluster/plan/layout.h"
#include "cluster/plan/rank_grid.h"
#include "cluster/plan/shard_map.h"
#include "cluster/plan/step_ops.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// An all-gather whose result, or a reduce-scatter whose input, has `bytes` on each of `ranks`:
// every rank keeps its own part, (ranks − 1)/ranks · bytes go out. Example: 8 MiB over 4 ranks: 6
// MiB.
double gather_sent_bytes(double bytes, int64_t ranks);
// Up to this many bytes an all-reduce is one round of each to each, (ranks − 1) · bytes; above it a
// reduce-scatter and an all-gather, 2 (ranks − 1)/ranks · bytes. The limit is the CPU
// communicators' (runtime/comm/COMM.md, Operations on the wire); with two ranks both are the same.
// Example, 4 ranks: 16 KiB → 48 KiB; 8 MiB → 12 MiB.
inline constexpr double kOneRoundBytesMax = 32.0 * 1024;
double all_reduce_sent_bytes(double bytes, int64_t ranks);

// One exchange of a layer's pass over one micro-batch: an all-gather or a reduce-scatter, or an
// all-to-all that turns a cut by columns into a cut by rows, which sends as much.
struct Exchange {
  std::string_view name;
  AxisSet axes = 0;  // of the group that exchanges
  double bytes = 0;  // of the whole
};
// Ranks of the group over `axes`.
int64_t group_size(const Layout& layout, AxisSet axes);
double sent_bytes(const Exchange& exchange, const Layout& layout);
// Of those over exactly `axes`.
double sent_bytes(const std::vector<Exchange>& exchanges, const Layout& layout, AxisSet axes);

// One layer, one micro-batch, without what the experts exchange over their group (expert_volume());
// nothing over groups of one rank. Forward: attention gathers the query's latent over TP
// (t·q_lora·e; the residual stream t·h·e where there is none), the latents with the rotary key over
// CP (T/TP·L·e) and then over TP (T·L·e), and scatters its output (t·h·e); a feed-forward gathers
// and scatters t·h·e; with ETP the experts gather and scatter the rows of a TP group, here as even
// routing gives them; the router's counts of a sequence go over TP·CP where a loss or a capacity
// needs them. Backward: the mirror image, and the inputs gathered once more for the weight
// gradients, which were not kept; under full recomputation the exchanges of the layer's forward
// pass too (not those of MTP's projection, whose input is kept). Example, DeepSeek-V3, bf16, 4096
// tokens, TP 2: attention's inputs 4096·2112·2 B = 16.5 MiB, of which a rank sends half.
std::vector<Exchange> layer_exchanges(const spec::JobSpec& job, const Layout& layout,
                                      LayerKind kind, bool backward);
// The embedding on the first stage: rows of t tokens scattered, their gradient gathered.
std::vector<Exchange> embedding_exchanges(const spec::JobSpec& job, const Layout& layout,
                                          bool backward);
// Norm, head and loss on the last, for the model and each MTP module: the input gathered, three f32
// of every row and rank; backward its gradient scattered (loss and gradient are computed together:
// the input is not gathered again).
std::vector<Exchange> head_exchanges(const spec::JobSpec& job, const Layout& layout, bool backward);

// Rows (a token for one expert) of one layer and micro-batch that leave this rank for experts
// elsewhere, and that arrive here.
struct ExpertRows {
  double leave = 0;
  double arrive = 0;
};
// What even routing gives: of the rank's k·t/TP rows all but a share of 1/members, both ways.
ExpertRows even_expert_rows(const spec::JobSpec& job, const Layout& layout);
// Over the experts' group, with the routing weight (4 bytes) beside each row, and its gradient:
// forward leave·(h·e + 4) + arrive·h·e, and 4 bytes a count of rows for each expert elsewhere;
// backward leave·h·e + arrive·(h·e + 4). FP8 dispatch (deep_ep_fp8) sends h bytes for h·e.
double expert_sent_bytes(const spec::JobSpec& job, const Layout& layout, const ExpertRows& rows,
                         bool backward);

// A part of this rank's gradients that the same ranks sum and that lies at one place in the
// runtime's buffer (runtime/model/param_layout.h): what is multiplied (of class replicated, dense
// without a copied embedding, expert), then what is read_in_f32(). Neighbours of the same ranks are
// one, and its buckets (runtime/parallel/buckets.h) are of this run alone.
struct GradientRun {
  ParamClass cls = ParamClass::kDense;  // whose ranks sum it: experts count as dense where EP is 1
  double elements = 0;
  double in_f32 = 0;    // of them
  double gains = 0;     // of in_f32, vectors: without weight decay
  double outside = 0;   // of them, what is no layer's matrix
  bool copied = false;  // the embedding that the first and the last stage hold, a run of its own
};
std::vector<GradientRun> gradient_runs(const spec::ModelSpec& model, const Layout& layout,
                                       const RankPosition& position);

// Sums of gradients. ZeRO 0: all-reduce once a step. A run is one bucket up to kBucketBytesMin, and
// one round up to kOneRoundBytesMax; of a larger one the matrices are on their way before the pass
// ends, and the gains, which wait for its end, are a bucket of their own. (Of matrices no bucket is
// taken to be small enough for one round; what the first layer leaves of a tiny model may be.)
// ZeRO 1: reduce-scatter once a step, and the updated weights are gathered, in the compute dtype
// but for what is read in f32. ZeRO 2: the reduce-scatter of the layers' matrices after each of the
// micro-batches, of the rest once. Example, 4 ranks, f32 gradients, a run of 1 M elements in bf16,
// ZeRO 1: 3/4 · (4 MB + 2 MB) = 4.5 MB.
inline constexpr double kBucketBytesMin = 1 << 20;  // runtime/parallel/buckets.h
struct GradientSums {
  int64_t zero_stage = 0;
  int64_t micro_batches = 1;
  double gradient_bytes = 4;  // of an element
  double weight_bytes = 4;    // of an element that is multiplied
};
double gradient_sent_bytes(const GradientRun& run, int64_t ranks, const GradientSums& sums);

// One rank's step, by communicator (runtime/comm/groups.h). Without the few bytes of agreement on
// requests and on checkpoints.
struct StepVolume {
  double tensor = 0, context = 0, sequence = 0, experts = 0;
  double forward = 0, backward = 0;  // between stages
  double replicated = 0, dense = 0, expert = 0, embedding = 0;
  double world = 0;  // losses and norms (8 f64), tokens per expert (i64)
  double total() const {
    return tensor + context + sequence + experts + forward + backward + replicated + dense +
           expert + embedding + world;
  }
};
// `rows`: of every MoE layer and micro-batch alike.
StepVolume step_volume(const spec::JobSpec& job, const Layout& layout, const RankPosition& position,
                       const ExpertRows& rows);

// Bytes that a stage sends to the next one for one micro-batch: t/TP·h·e.
double stage_output_bytes(const spec::JobSpec& job, const Layout& layout);

}  // namespace dsv3::plan
