// The terms of planner.md 3.3; see activations.h.
#include "cluster/plan/activations.h"

#include <algorithm>

namespace dsv3::plan {
namespace {

// The letters of planner.md 3.3, as doubles: sums of a 671b layer pass 2^31 but not 2^53.
struct Sizes {
  double s;       // tokens of the micro-batch
  double t;       // TP
  double h;       // d_model
  double heads;   // H
  double qr, r;   // q and kv latent ranks
  double dr;      // rope dim
  double dq, dv;  // head dims of q/k and of v
  double slots;   // routed tokens that the busiest rank's experts process
  double width;   // f': what this rank holds of an expert's width
  double shared;  // width of the shared experts together
  double dense;   // F
  double experts, topk;
  double e;  // bytes of an element
};

Sizes sizes_of(const spec::JobSpec& job, const Layout& layout, const ActivationOptions& options) {
  const spec::ModelSpec& model = job.model;
  const spec::MlaSpec& mla = model.mla;
  const spec::MoeSpec& moe = model.moe;
  const bool cut = layout.etp > 1;
  Sizes z{};
  z.s = static_cast<double>(micro_batch_tokens(job, layout));
  z.t = static_cast<double>(layout.tp);
  z.h = static_cast<double>(model.d_model);
  z.heads = static_cast<double>(model.num_heads);
  z.qr = static_cast<double>(mla.q_lora_rank.value_or(0));
  z.r = static_cast<double>(mla.kv_lora_rank);
  z.dr = static_cast<double>(mla.qk_rope_head_dim);
  z.dq = static_cast<double>(mla.qk_head_dim());
  z.dv = static_cast<double>(mla.v_head_dim);
  z.topk = static_cast<double>(moe.num_experts_per_token);
  z.experts = static_cast<double>(moe.num_experts);
  // One rank of all experts gets exactly s·k slots: there is nothing to be unbalanced between.
  const double imbalance =
      layout.ep * layout.tp == 1 ? std::min(options.imbalance, 1.0) : options.imbalance;
  z.slots = imbalance * z.s * z.topk / (cut ? 1.0 : z.t);
  z.width = static_cast<double>(moe.expert_intermediate_size) / (cut ? z.t : 1.0);
  z.shared = static_cast<double>(moe.num_shared_experts * moe.expert_intermediate_size);
  z.dense = static_cast<double>(model.dense_intermediate_size);
  z.e = static_cast<double>(options.element_bytes);
  return z;
}

void attention_terms(const Sizes& z, std::vector<ActivationTerm>* terms) {
  const double tokens = z.s / z.t;
  terms->push_back({"input", z.e * tokens * z.h});
  terms->push_back({"in_norm", z.e * tokens * z.h, true});
  if (z.qr > 0) {
    terms->push_back({"q_a", z.e * tokens * z.qr});
    terms->push_back({"q_a_norm", z.e * tokens * z.qr});
  }
  terms->push_back({"kv_a", z.e * tokens * (z.r + z.dr)});
  terms->push_back({"kv_a_norm", z.e * tokens * z.r});
  terms->push_back({"q", z.e * tokens * z.heads * z.dq, true});
  terms->push_back({"k", z.e * tokens * z.heads * z.dq, true});
  terms->push_back({"v", z.e * tokens * z.heads * z.dv, true});
  terms->push_back({"attn_out", z.e * tokens * z.heads * z.dv});
  terms->push_back({"lse", 4 * tokens * z.heads});
  terms->push_back({"post_attn", z.e * tokens * z.h});
  terms->push_back({"mlp_norm", z.e * tokens * z.h, true});
}

void moe_terms(const Sizes& z, bool save_output, std::vector<ActivationTerm>* terms) {
  const double tokens = z.s / z.t;
  terms->push_back({"router", 13 * tokens * z.experts});  // fp32 scores, int64 row map, bool map
  if (z.shared > 0) {
    terms->push_back({"sh_fc1", 2 * z.e * tokens * z.shared});
    terms->push_back({"sh_act", z.e * tokens * z.shared, true});
  }
  terms->push_back({"ex_in", z.e * z.slots * z.h});
  terms->push_back({"ex_fc1", 2 * z.e * z.slots * z.width});
  terms->push_back({"ex_act", z.e * z.slots * z.width, true});
  terms->push_back({"ex_probs", 4 * z.slots});
  if (save_output) terms->push_back({"ex_out", z.e * z.slots * z.h});
}

}  // namespace

int64_t micro_batch_tokens(const spec::JobSpec& job, const Layout& layout) {
  return layout.micro_batch * job.training.seq_length / layout.cp;
}

std::vector<ActivationTerm> activation_terms(const spec::JobSpec& job, const Layout& layout,
                                             bool moe_layer, const ActivationOptions& options) {
  const Sizes z = sizes_of(job, layout, options);
  std::vector<ActivationTerm> terms;
  attention_terms(z, &terms);
  if (moe_layer) {
    moe_terms(z, options.save_expert_output, &terms);
  } else {
    terms.push_back({"fc1", 2 * z.e * z.s * z.dense / z.t});
    terms.push_back({"act", z.e * z.s * z.dense / z.t, true});
  }
  return terms;
}

double saved_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                         const ActivationOptions& options) {
  double bytes = 0;
  for (const ActivationTerm& term : activation_terms(job, layout, moe_layer, options)) {
    const bool kept = layout.recompute == "none" ||
                      (layout.recompute == "selective" && !term.dropped_by_selective) ||
                      (layout.recompute == "full" && term.name == "input");
    if (kept) bytes += term.bytes;
  }
  return bytes;
}

double transient_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                             const ActivationOptions& options) {
  const Sizes z = sizes_of(job, layout, options);
  // Gradients of q, k, v, the output and one copy; three of the residual stream.
  const double attention = z.e * z.s * z.heads * (2 * z.dq + 2 * z.dv) / z.t + 3 * z.e * z.s * z.h;
  double ffn = 0;
  if (moe_layer) {
    ffn =
        2 * z.e * z.slots * z.h + 3 * z.e * z.slots * z.width + 2 * z.e * z.s * z.topk * z.h / z.t;
  } else {
    ffn = 3 * z.e * z.s * z.dense / z.t + 2 * z.e * z.s * z.h;
  }
  Layout kept_all = layout;
  kept_all.recompute = "none";
  const double recomputed = saved_layer_bytes(job, kept_all, moe_layer, options) -
                            saved_layer_bytes(job, layout, moe_layer, options);
  return std::max(attention, ffn) + recomputed;
}

}  // namespace dsv3::plan
