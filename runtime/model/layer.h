// TransformerLayer: x_mid = x + attention(norm(x)); x_out = x_mid + ffn(norm(x_mid)), the ffn
// dense or MoE.
//
// Laws: the gradient of the residual stream is one buffer, updated in place on the way down; what a
// deferred backward_weight needs of it is copied before it changes. With selective recomputation
// the norms' outputs lie aside (tensor/arena.h) while they are needed, and are made again for the
// weight gradients from what is kept: the same bits.
#pragma once

#include <optional>
#include <string>

#include "runtime/model/mla.h"
#include "runtime/model/moe.h"

namespace dsv3::model {

struct LayerStash {
  tensor::Tensor x;                         // [tokens, d_model] act: the input, not owned
  tensor::Tensor attention_in, ffn_in;      // [tokens, d_model] act: normed; dropped when selective
  tensor::Tensor x_mid;                     // [tokens, d_model] act
  tensor::Tensor attention_rstd, ffn_rstd;  // [tokens] f32
  MlaStash attention;
  FfnStash dense;
  MoeStash moe;
};
// What a deferred backward_weight needs.
struct LayerGrad {
  tensor::Tensor dattention_out, dffn_out;  // [tokens, d_model] act
  MlaGrad attention;
  FfnGrad dense;
  MoeGrad moe;
};

class TransformerLayer {
 public:
  // Hugging Face layer `layer`; moe_idx counts MoE layers. bias as for MoeBlock.
  TransformerLayer(const spec::ModelSpec& model, const ParamStore& params, int64_t layer,
                   int64_t moe_idx, ops::Vector<float> bias);

  bool is_moe() const { return moe_.has_value(); }
  // y = layer(x); both [tokens, d_model] act; y may not be x. The stash refers to x until the
  // backward is done.
  void forward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
               ops::Vector<const float> sin, const tensor::Tensor& x, const tensor::Tensor& y,
               LayerStash& stash) const;
  // dh: gradient of y on entry, of x on return. Accumulates all of the layer's gradients; leaves
  // nothing on the arena.
  void backward(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                const LayerStash& stash, ops::Matrix dh) const;
  // The same in two parts: what backward_weight needs stays on the arena. Bitwise equal to
  // backward().
  void backward_input(const Pass& pass, ops::Vector<const float> cos, ops::Vector<const float> sin,
                      const LayerStash& stash, ops::Matrix dh, LayerGrad& grad) const;
  void backward_weight(const Pass& pass, const LayerStash& stash, const LayerGrad& grad) const;

 private:
  // The output of a norm in the forward: kept on the stack or, to be dropped, aside.
  tensor::Tensor push_normed(const Pass& pass) const;
  // It in the backward: what was kept or, aside, made again from the norm's input x.
  tensor::Tensor normed_again(const Pass& pass, const Gain& gain, const tensor::Tensor& kept,
                              const tensor::Tensor& x, const tensor::Tensor& rstd) const;
  void attention_backward_weight(const Pass& pass, const LayerStash& stash, ops::ConstMatrix dy,
                                 const LayerGrad& grad) const;
  void ffn_backward_input(const Pass& pass, const LayerStash& stash, ops::ConstMatrix dy,
                          ops::Matrix dx, LayerGrad& grad) const;
  void ffn_backward_weight(const Pass& pass, const LayerStash& stash, ops::ConstMatrix dy,
                           const LayerGrad& grad) const;

  int64_t d_model_, moe_idx_;
  float eps_;
  Gain attention_norm_, ffn_norm_;
  MlaBlock attention_;
  std::optional<DenseFfn> dense_;
  std::optional<MoeBlock> moe_;
};

}  // namespace dsv3::model
