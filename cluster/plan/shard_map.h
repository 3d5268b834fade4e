// Shard map: where a tensor's rows, columns and copies go: stage by layer, cut by TP, experts by
// EP. The one home of shard sizes.
//
// Law: what a rank holds follows from the tensor list (configs/spec/model_tensors.h) and the layout
// alone. Latent projections (q_a, kv_a), norms and the router are whole on every TP rank;
// everything else is cut by TP.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/plan/layout.h"
#include "cluster/plan/rank_grid.h"
#include "configs/spec/job_spec.h"
#include "configs/spec/model_tensors.h"

namespace dsv3::plan {

enum class TpSplit {
  kReplicated,
  kRows,     // dim 0 of [out, in]: column-parallel, and tables by vocabulary
  kColumns,  // dim 1: row-parallel (o_proj, down_proj)
};

// How TP cuts this tensor. Routed experts are kReplicated under etp 1 (they are spread over EP·TP
// ranks instead).
TpSplit tp_split(const spec::TensorInfo& tensor, bool cut_experts = false);

// Whose gradients are summed over which ranks: of what TP replicates (latent projections, norms,
// the router: every TP rank sees other tokens) over TP·CP·EP·DP; of everything else outside the
// experts over CP·EP·DP; of routed experts over CP·DP. With TP 1 nothing is kReplicated.
enum class ParamClass { kReplicated, kDense, kExpert };
ParamClass param_class(const spec::TensorInfo& tensor, const Layout& layout);
// Whether a tensor is read in f32 whatever is computed in: norms' gains and other vectors, and the
// router's weight. All of them are whole on every TP rank.
bool read_in_f32(const spec::TensorInfo& tensor);

// A part of a tensor [out, in]: rows [row, row + rows), columns [col, col + cols). A vector [n] is
// one row of n columns.
struct Box {
  int64_t row = 0, rows = 0;
  int64_t col = 0, cols = 0;
  int64_t num_elements() const { return rows * cols; }
  bool operator==(const Box&) const = default;
};
// What one rank holds of one tensor.
struct TensorShard {
  spec::TensorInfo tensor;  // the whole
  Box box;
  ParamClass cls = ParamClass::kDense;
};
// What the rank at `position` holds before ZeRO, in model_tensors() order: the tensors of its
// chunks' layers, cut by TP; of the experts its share (experts are spread over EP·TP under etp 1,
// in order of tp, then ep; over EP and cut along their width under etp = TP). The first stage holds
// the embedding, the last one norm, head and MTP modules, and a copy of the embedding where MTP
// modules or a tied head need it. Sums of these are ShardedCounts'.
std::vector<TensorShard> rank_shards(const spec::ModelSpec& model, const Layout& layout,
                                     const RankPosition& position);
// Whether the last stage of a pipeline holds a copy of the embedding.
bool copies_embedding(const spec::ModelSpec& model, const Layout& layout);

// Layers of each stage; they differ by at most one, and the last stage (head, MTP) then the first
// (embedding) get fewer first: 61 layers over 16 stages → 3 4×13 3 3. Requires 1 ≤ stages ≤ layers.
std::vector<int64_t> split_layers(int64_t num_layers, int64_t stages);

// Layers [first, end) of a stage.
struct StageLayers {
  int64_t first = 0;
  int64_t end = 0;
};
StageLayers stage_layers(int64_t num_layers, int64_t stages, int64_t stage);

// Ranks that share out the routed experts: EP·TP under etp 1, EP under etp = TP.
int64_t expert_ranks(const Layout& layout);
// Parts into which a rank's experts are cut while rows travel to and from them, so that one part's
// rows travel while another part is computed (Hwang et al. 2023, arXiv 2206.03382): runs of equal
// length, to one expert. 1: all rows at once, without `overlap` or where one rank has all experts.
inline constexpr int64_t kExpertParts = 4;
int64_t expert_parts(const Layout& layout, int64_t num_experts, bool overlap);

// How many model chunks a rank really holds: layout.virtual_stages under "interleaved" with a
// pipeline, where there are layers enough, else 1.
int64_t chunks_of(const Layout& layout, int64_t num_layers);
// The layers of chunk `chunk` of a stage; a rank's chunks lie stages apart (Narayanan et al. 2021,
// arXiv 2104.04473). 8 layers, PP 2, 2 chunks: stage 0 has layers 0, 1 and 4, 5. As
// layout.pipeline_layers says where that is given.
StageLayers chunk_layers(const Layout& layout, int64_t num_layers, int64_t stage, int64_t chunk);

// How many layers of each kind.
struct LayerMix {
  int64_t dense = 0;
  int64_t routed = 0;
};
// Of the main model's layers [first, end): the first `first_k_dense` are dense, all without
// experts.
LayerMix layers_by_kind(const spec::ModelSpec& model, StageLayers layers);

// Parameters that one rank of a stage holds before ZeRO.
struct LocalParams {
  int64_t dense = 0;
  int64_t experts = 0;     // routed
  int64_t replicated = 0;  // of dense, what every TP rank has whole (kReplicated); 0 without TP
  int64_t in_f32 = 0;      // of dense, what is read_in_f32()
  int64_t total() const { return dense + experts; }
  bool operator==(const LocalParams&) const = default;
};

// Parameter counts of a model sorted by how a layout cuts them; made once, asked for many layouts:
// nothing here allocates after that.
class ShardedCounts {
 public:
  explicit ShardedCounts(const spec::ModelSpec& model);
  // Of some of the model's tensors alone.
  ShardedCounts(const spec::ModelSpec& model, const std::vector<spec::TensorFamily>& families);

  // Of the rank at any position of `stage`. MTP modules live on the last stage, with copies of a
  // shared embedding where PP > 1. Example, 10b TP2 PP2 EP2: stage 0 holds 634,982,400 dense and
  // 924,844,032 expert parameters.
  LocalParams stage(const Layout& layout, int64_t stage) const;
  // One layer (0 … num_layers − 1, or num_layers for the MTP module) alone.
  LocalParams layer(const Layout& layout, int64_t layer) const;
  // The layer with the most local parameters (MTP included).
  LocalParams largest_layer(const Layout& layout) const;

 private:
  struct Counts {
    int64_t replicated = 0;  // whole on every TP rank
    int64_t cut = 0;         // divided by TP
    int64_t experts = 0;     // divided by EP·TP
    int64_t in_f32 = 0;      // of replicated
    LocalParams local(const Layout& layout) const;
    void add(const Counts& other, int64_t times = 1);
    bool operator==(const Counts&) const = default;
  };
  // Sums over the layers before each: prefix_[i] is of layers 0 … i − 1.
  std::vector<Counts> prefix_;
  std::vector<Counts> kinds_;  // the layers that differ, MTP's too
  Counts mtp_;
  Counts embedding_;
  Counts final_;  // norm and head
  bool tied_ = false;
  bool has_mtp_ = false;
};

}  // namespace dsv3::plan
