// MtpModule: one depth of multi-token prediction (DeepSeek-V3 §2.2), Hugging Face's layer
// num_layers + depth − 1.
//
//   x_i = eh_proj(concat[enorm(Emb(t_{i+depth})), hnorm(h^{depth−1}_i)])
//   h^depth = layer(x);  logits = head(norm(h^depth))
// Law: h⁰ is the main model's hidden state after its final norm; embedding and head are the main
// model's, and a deeper module takes h^depth from before this module's norm.
#pragma once

#include "runtime/model/layer.h"

namespace dsv3::model {

struct MtpStash {
  tensor::Tensor embedded;        // [tokens, d_model] act: Emb(t_{i+depth})
  tensor::Tensor previous;        // [tokens, d_model] act: h^{depth−1}, not owned
  tensor::Tensor joined;          // [tokens, 2 · d_model] act: both, normed
  tensor::Tensor e_rstd, h_rstd;  // [tokens] f32
  tensor::Tensor x;               // [tokens, d_model] act: the layer's input
  LayerStash layer;
  tensor::Tensor hidden;       // [tokens, d_model] act: h^depth
  tensor::Tensor normed;       // [tokens, d_model] act: the head's input
  tensor::Tensor normed_rstd;  // [tokens] f32
};

class MtpModule {
 public:
  MtpModule(const spec::ModelSpec& model, const ParamStore& params, int64_t layer, int64_t moe_idx,
            ops::Vector<float> bias);

  // ids [gathered_tokens]: t_{i+depth}, 0 where there is none; previous: h^{depth−1}. Fills the
  // stash.
  void forward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
               ops::Vector<const float> sin, ops::Vector<const int32_t> ids,
               const tensor::Tensor& previous, MtpStash& stash) const;
  // The layer's activations are dropped where pass.keeps_inputs_only(), and made again here.
  // dnormed: gradient of stash.normed. dh: gradient of h^depth from deeper modules when `has_dh`,
  // scratch otherwise; destroyed. dprevious (+)= gradient of h^{depth−1}.
  void backward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
                ops::Vector<const float> sin, ops::Vector<const int32_t> ids, MtpStash& stash,
                ops::ConstMatrix dnormed, ops::Matrix dh, bool has_dh, ops::Matrix dprevious,
                bool accumulate_dprevious) const;
  const TransformerLayer& layer() const { return layer_; }

 private:
  void layer_backward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
                      ops::Vector<const float> sin, MtpStash& stash, ops::Matrix dh) const;

  int64_t d_model_;
  float eps_;
  Weight embedding_, eh_proj_;
  Gain enorm_, hnorm_, norm_;
  TransformerLayer layer_;
};

}  // namespace dsv3::model
