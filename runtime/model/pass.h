// Pass: what every module of the model is told about the micro-batch it works on, and the three
// products of a linear layer.
//
// Laws: modules keep no state but views of parameters; what a forward leaves for its backward is in
// the stash that the caller gave. Every module's forward ADDS its output to the residual stream it
// is given, so a block's output is written once. `backward_input` computes the gradient of the
// input, and of norm gains on the way; `backward_weight` computes what matrix products give;
// running them apart gives the same bits as together (pipeline schedules need that).
// A sequence's tokens are cut over CP, and between the modules over TP too (sequence parallelism,
// Korthikanti et al. 2022, arXiv 2205.05198): what enters and leaves a module is `tokens()` rows,
// the same part of every sequence, sequences in order. Inside, a module gathers what its heads or
// its share of a width need: `gathered_tokens()` rows. Which positions those are:
// token_positions().
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/ops/ops.h"
#include "runtime/comm/groups.h"
#include "runtime/model/params.h"
#include "runtime/tensor/arena.h"

namespace dsv3::model {

// Told while a backward pass runs, so that gradients which are finished can be sent on their way
// while the rest is computed.
class BackwardObserver {
 public:
  virtual ~BackwardObserver() = default;
  // All losses are differentiated: nothing more is added to lm_head's gradient.
  virtual void head_done() = 0;
  // Nothing more is added to the gradients of this Hugging Face layer (MTP modules too).
  virtual void layer_done(int64_t layer) = 0;
};

// Factors of the losses: every micro-batch adds its share of a mean over the GLOBAL batch.
struct LossScales {
  double token = 0;  // 1 / tokens of the global batch
  float aux = 0;     // router_aux_loss_weight / sequences of the global batch
  float z = 0;       // router_z_loss_weight / tokens of the global batch
};

// What a module drops after its forward and computes again for its backward: nothing; the outputs
// of norms, up-projections of the latents and SwiGLU; everything but a layer's input.
enum class Recompute : uint8_t { kNone, kSelective, kFull };

struct Pass {
  tensor::Arena& arena;
  ops::Context ctx;
  DType act = DType::kF32;  // dtype of activations
  int64_t sequences = 0;    // in this micro-batch
  int64_t sequence = 0;     // tokens of each, on all ranks together
  bool training = true;     // losses, counts and gradients; else only the language-model loss
  LossScales scales;
  BackwardObserver* observer = nullptr;  // null: nobody asked
  const comm::Groups* groups = &comm::Groups::alone();
  Recompute recompute = Recompute::kNone;
  // This forward only brings back what was dropped: losses and counts were added the first time.
  bool again = false;
  // Whether something is computed while rows travel to and from their experts.
  bool overlap_experts = true;

  // Often, while something is computed: moves what is on its way.
  void between_operations() const { groups->progress(); }
  // Whether a layer keeps nothing but its input, and whether it drops its norms' outputs.
  bool keeps_inputs_only() const { return training && recompute == Recompute::kFull; }
  bool drops_norms() const { return training && recompute == Recompute::kSelective; }
  int64_t tp() const { return groups->layout.tp; }
  int64_t cp() const { return groups->layout.cp; }
  // Tokens of one sequence that are here: between modules, and gathered over TP.
  int64_t local_sequence() const { return sequence / (cp() * tp()); }
  int64_t gathered_sequence() const { return sequence / cp(); }
  int64_t tokens() const { return sequences * local_sequence(); }
  int64_t gathered_tokens() const { return sequences * gathered_sequence(); }
  // Activations [tokens, cols] act.
  tensor::Tensor push(std::string_view name, int64_t cols) const {
    return arena.push(name, act, {tokens(), cols});
  }
  tensor::Tensor push_rows(std::string_view name, int64_t rows, int64_t cols) const {
    return arena.push(name, act, {rows, cols});
  }
  tensor::Tensor push_f32(std::string_view name, tensor::Shape shape) const {
    return arena.push(name, DType::kF32, shape);
  }
  tensor::Tensor push_i32(std::string_view name, tensor::Shape shape) const {
    return arena.push(name, DType::kI32, shape);
  }
};

// The positions, in the whole sequence, of the tokens that CP rank `cp_rank` holds: parts cp_rank
// and 2·CP − 1 − cp_rank of 2·CP equal parts, so that every rank has as much of a causal triangle
// (Llama 3, arXiv 2407.21783, 3.3.2). CP 1: 0 … sequence − 1. TP rank t then holds the t-th of TP
// equal runs of them. sequence is a multiple of 2·CP where CP > 1.
std::vector<int64_t> token_positions(int64_t sequence, int64_t cp, int64_t cp_rank);

// y (+)= x Wᵀ.   x [rows, in], W [out, in], y [rows, out]
inline void linear(const Pass& pass, ops::ConstMatrix x, const Weight& w, ops::Matrix y,
                   bool accumulate = false) {
  ops::gemm(pass.ctx,
            {.a = x, .b = w.value, .c = y, .transpose_b = true, .accumulate = accumulate});
}
// dx (+)= dy W.
inline void linear_input_grad(const Pass& pass, ops::ConstMatrix dy, const Weight& w,
                              ops::Matrix dx, bool accumulate = false) {
  ops::gemm(pass.ctx, {.a = dy, .b = w.value, .c = dx, .accumulate = accumulate});
  pass.between_operations();
}
// dW += dyᵀ x.
inline void linear_weight_grad(const Pass& pass, ops::ConstMatrix dy, ops::ConstMatrix x,
                               const Weight& w) {
  ops::gemm(pass.ctx, {.a = dy, .b = x, .c = w.grad, .transpose_a = true, .accumulate = true});
  pass.between_operations();
}

}  // namespace dsv3::model
