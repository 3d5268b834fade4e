// One MoE block cut over forked ranks, beside the same block on one rank: the fixture of
// moe_parallel_test.cpp.
//
// Law: the oracle is the block with every token of the global batch on a rank alone (whose numbers
// tests/golden checks); a rank compares the part that it holds, and the gradients after summing
// every rank's share of every element.
#pragma once

#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/model/moe.h"
#include "tests/unit/runtime/tiny_job.h"

namespace dsv3::model {

struct MoeCase {
  std::string name;
  plan::Layout layout;
  bool shared = true;                   // one shared expert
  bool skewed = false;                  // the first two experts get everything
  std::optional<double> capacity = {};  // factor
  Recompute recompute = Recompute::kNone;
  DType compute = DType::kF32;
  bool training = true;
  bool overlap = true;
};

inline void PrintTo(const MoeCase& c, std::ostream* out) {
  *out << c.name;
}

inline constexpr int64_t kSequences = 8;  // of the global batch
inline constexpr int64_t kSequence = 16;
inline constexpr int64_t kWidth = 32;  // d_model

// The block, its weights and what it computes on one rank: of all tokens, or of this rank's.
class MoeRun {
 public:
  MoeRun(const MoeCase& c, const comm::Groups& groups);
  // One forward and backward; `again`: the forward is made twice.
  void run(bool again = false);

  int64_t num_tokens() const { return static_cast<int64_t>(rows_.size()); }
  // Which token of the global batch each row is.
  const std::vector<int64_t>& rows() const { return rows_; }
  const std::vector<float>& y() const { return y_; }
  const std::vector<float>& dx() const { return dx_; }
  const MoeStash& stash() const { return stash_; }
  const ParamStore& params() const { return params_; }
  StepState& step() { return step_; }
  tensor::Arena& arena() { return arena_; }
  // Gradients of this rank's shards, put where the whole layout has them.
  std::vector<float> gradients_in(const ParamLayout& whole);
  const comm::Groups& groups() const { return groups_; }

 private:
  Pass pass();
  tensor::Tensor filled(const char* name, uint64_t salt);
  std::vector<float> to_floats(const tensor::Tensor& t) const;

  MoeCase case_;
  const comm::Groups& groups_;
  spec::ModelSpec model_;
  std::unique_ptr<device::Device> device_;
  tensor::Arena arena_;
  ParamStore params_;
  StepState step_;
  tensor::Tensor bias_;
  MoeBlock block_;
  std::vector<int64_t> rows_;
  std::vector<float> y_, dx_;
  MoeStash stash_;
};

// What a rank's `experts` and `tensor` groups send, by the formula in expert_exchange.h, from the
// choices of the whole batch.
struct MoeTraffic {
  int64_t experts = 0;
  int64_t tensor = 0;
};
MoeTraffic expected_traffic(const MoeRun& mine, MoeRun& whole);

// Forks the layout's ranks and gives each its groups.
void with_ranks(const plan::Layout& layout, const std::function<void(const comm::Groups&)>& body);
// Throws unless |a − b| ≤ tolerance · max |b| everywhere.
void expect_near(const std::vector<float>& a, const std::vector<float>& b, float tolerance,
                 const std::string& what);
// The rows of `whole` [tokens, cols] that `mine` has.
std::vector<float> rows_of(const std::vector<float>& whole, const MoeRun& mine);

}  // namespace dsv3::model
