// One multi-token-prediction depth; see mtp.h.
#include "runtime/model/mtp.h"

#include <fmt/core.h>

#include "runtime/model/embedding.h"
#include "runtime/model/joined.h"
#include "runtime/model/norm.h"

namespace dsv3::model {

MtpModule::MtpModule(const spec::ModelSpec& model, const ParamStore& params, int64_t layer,
                     int64_t moe_idx, ops::Vector<float> bias)
    : d_model_(model.d_model),
      eps_(static_cast<float>(model.rms_norm_eps)),
      embedding_(params.weight("model.embed_tokens")),
      eh_proj_(params.weight(fmt::format("model.layers.{}.eh_proj", layer))),
      enorm_(params.gain(fmt::format("model.layers.{}.enorm", layer))),
      hnorm_(params.gain(fmt::format("model.layers.{}.hnorm", layer))),
      norm_(params.gain(fmt::format("model.layers.{}.shared_head.norm", layer))),
      layer_(model, params, layer, moe_idx, bias) {}

void MtpModule::forward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
                        ops::Vector<const float> sin, ops::Vector<const int32_t> ids,
                        const tensor::Tensor& previous, MtpStash& stash) const {
  stash.previous = previous;
  stash.embedded = pass.push("activations/mtp", d_model_);
  stash.joined = pass.push("activations/mtp", 2 * d_model_);
  stash.e_rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  stash.h_rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});
  stash.x = pass.push("activations/residual", d_model_);
  stash.hidden = pass.push("activations/residual", d_model_);
  stash.normed = pass.push("activations/norm", d_model_);
  stash.normed_rstd = pass.push_f32("activations/norm/statistics", {pass.tokens()});

  embed(pass, embedding_, ids, stash.embedded);
  const ops::Matrix joined = stash.joined;
  norm_forward(pass, enorm_, eps_, stash.embedded, joined.col_range(0, d_model_), stash.e_rstd);
  norm_forward(pass, hnorm_, eps_, previous, joined.col_range(d_model_, d_model_), stash.h_rstd);
  project_joined(pass, eh_proj_, joined, stash.x);
  const size_t mark = pass.arena.mark();
  layer_.forward(pass, step, cos, sin, stash.x, stash.hidden, stash.layer);
  if (pass.keeps_inputs_only()) pass.arena.release(mark);
  norm_forward(pass, norm_, eps_, stash.hidden, stash.normed, stash.normed_rstd);
}

void MtpModule::layer_backward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
                               ops::Vector<const float> sin, MtpStash& stash,
                               ops::Matrix dh) const {
  const tensor::Scope scope(pass.arena);
  if (pass.keeps_inputs_only()) {
    Pass again = pass;
    again.again = true;
    layer_.forward(again, step, cos, sin, stash.x, stash.hidden, stash.layer);
  }
  layer_.backward(pass, cos, sin, stash.layer, dh);
}

void MtpModule::backward(const Pass& pass, StepState& step, ops::Vector<const float> cos,
                         ops::Vector<const float> sin, ops::Vector<const int32_t> ids,
                         MtpStash& stash, ops::ConstMatrix dnormed, ops::Matrix dh, bool has_dh,
                         ops::Matrix dprevious, bool accumulate_dprevious) const {
  norm_backward(pass, norm_, dnormed, stash.hidden, stash.normed_rstd, dh, has_dh);
  layer_backward(pass, step, cos, sin, stash, dh);
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor djoined = pass.push("transient/mtp", 2 * d_model_);
  const tensor::Tensor dembedded = pass.push("transient/mtp", d_model_);
  JoinedGrad grad;
  project_joined_input_grad(pass, eh_proj_, dh, djoined, grad);
  project_joined_weight_grad(pass, eh_proj_, stash.joined, dh, grad);
  const ops::Matrix d = djoined;
  norm_backward(pass, hnorm_, d.col_range(d_model_, d_model_), stash.previous, stash.h_rstd,
                dprevious, accumulate_dprevious);
  norm_backward(pass, enorm_, d.col_range(0, d_model_), stash.embedded, stash.e_rstd, dembedded,
                false);
  embed_backward(pass, embedding_, ids, dembedded);
}

}  // namespace dsv3::model
