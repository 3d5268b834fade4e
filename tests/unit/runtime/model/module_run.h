// One module of a small model, run alone or by the ranks of a TP × CP layout, on the same numbers.
//
// Law: inputs are made for whole sequences and each rank takes its tokens by pass.h's rule, so what
// the ranks leave, added up over them, is what one process leaves: rows of tokens are one rank's
// each, gradients of weights are shares of a sum.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "configs/spec/job_spec.h"
#include "runtime/comm/groups.h"
#include "runtime/model/params.h"
#include "runtime/model/pass.h"

namespace dsv3::model {

struct ModuleCase {
  int64_t tp = 1, cp = 1;
  int64_t sequences = 2, sequence = 24;
  DType dtype = DType::kF32;
  bool direct_query = false;
  Recompute recompute = Recompute::kNone;
};
std::string name_of(const ModuleCase& c);

// Rows are those of whole sequences, gradients lie as in the whole model's parameters.
struct Outcome {
  std::vector<float> y, dx, grads;
  double loss = 0;
  // Bytes that the fullest rank's TP and CP groups sent in the forward and in the backward.
  int64_t tensor_forward = 0, tensor_backward = 0, context_forward = 0, context_backward = 0;
};

// What a module's body works with: parameters, pass and inputs of one rank.
class ModuleRun {
 public:
  ModuleRun(const ModuleCase& c, const comm::Groups& groups);
  static spec::ModelSpec model_of(const ModuleCase& c);

  const spec::ModelSpec& model() const { return model_; }
  const ParamStore& params() const { return *params_; }
  const Pass& pass() const { return *pass_; }
  Pass& pass() { return *pass_; }
  // This rank's rows [tokens, cols] act of a random matrix of all tokens; `seed` names it.
  tensor::Tensor rows(uint64_t seed, int64_t cols, double scale = 1.0);
  // Random integers in [0, bound) of the gathered tokens; every seventh −1 with `gaps`.
  ops::Vector<const int32_t> ids(uint64_t seed, int64_t bound, bool gaps = false);
  // The rotary angles of the gathered tokens of one sequence.
  ops::Vector<const float> cos() const { return cos_.vector<const float>(); }
  ops::Vector<const float> sin() const { return sin_.vector<const float>(); }
  double* loss() { return loss_.as<double>(); }

  void keep_y(const tensor::Tensor& y) { outcome_.y = spread(y); }
  void keep_dx(const tensor::Tensor& dx) { outcome_.dx = spread(dx); }
  // Between forward and backward.
  void forward_done();
  // With the gradients, the loss and the traffic.
  Outcome finish();

 private:
  std::vector<float> spread(const tensor::Tensor& rows) const;
  int64_t row_of(int64_t sequence, int64_t gathered) const;

  ModuleCase case_;
  const comm::Groups& groups_;
  spec::ModelSpec model_;
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<tensor::Arena> arena_;
  std::unique_ptr<ParamStore> params_;
  std::unique_ptr<Pass> pass_;
  std::vector<int64_t> positions_;  // of the gathered tokens of a sequence
  tensor::Tensor cos_, sin_, loss_;
  Outcome outcome_;
};

using ModuleBody = std::function<void(ModuleRun&)>;

// In this process.
Outcome run_alone(const ModuleCase& c, const ModuleBody& body);
// In tp · cp processes; the sum of what they leave.
Outcome run_on_ranks(const ModuleCase& c, const ModuleBody& body);
// Every value of `actual` is within `tolerance` of the largest of `expected`.
void expect_near(const std::vector<float>& actual, const std::vector<float>& expected,
                 double tolerance, const std::string& what);

}  // namespace dsv3::model
