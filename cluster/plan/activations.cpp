// The terms of PLAN.md; see activations.h.
#include "cluster/plan/activations.h"

#include <algorithm>
#include <string_view>

#include "cluster/plan/shard_map.h"

namespace dsv3::plan {
namespace {

// The letters of PLAN.md, as doubles: sums of a 671b layer pass 2^31 but not 2^53.
struct Sizes {
  double s;         // tokens of the micro-batch
  double t;         // TP
  double cp;        // whose ranks all have keys and values of whole sequences
  double h;         // d_model
  double heads;     // H
  double qr, r;     // q and kv latent ranks
  double dr;        // rope dim
  double dq, dv;    // head dims of q/k and of v
  double slots;     // routed tokens that the busiest rank's experts process
  double exchange;  // rows that a TP group's rank sends to experts elsewhere; 0: none are
  double leave;     // of our runtime: of its own tokens; 0: none
  double part;      // of the rows here, those of the experts that are computed at once
  double width;     // f': what this rank holds of an expert's width
  double shared;    // width of the shared experts together
  double dense;     // F
  double experts, topk;
  double e;      // bytes of an element
  double input;  // bytes of an element of a product's input
  bool strips;   // ETP: experts get a TP group's rows
};

Sizes sizes_of(const spec::JobSpec& job, const Layout& layout, const ActivationOptions& options) {
  const spec::ModelSpec& model = job.model;
  const spec::MlaSpec& mla = model.mla;
  const spec::MoeSpec& moe = model.moe;
  const bool cut = layout.etp > 1;
  Sizes z{};
  z.s = static_cast<double>(micro_batch_tokens(job, layout));
  z.t = static_cast<double>(layout.tp);
  z.cp = static_cast<double>(layout.cp);
  z.h = static_cast<double>(model.d_model);
  z.heads = static_cast<double>(model.num_heads);
  z.qr = static_cast<double>(mla.q_lora_rank.value_or(0));
  z.r = static_cast<double>(mla.kv_lora_rank);
  z.dr = static_cast<double>(mla.qk_rope_head_dim);
  z.dq = static_cast<double>(mla.qk_head_dim());
  z.dv = static_cast<double>(mla.v_head_dim);
  z.topk = static_cast<double>(moe.num_experts_per_token);
  z.experts = static_cast<double>(moe.num_experts);
  // Where a rank has all experts, whole or their slices, it gets exactly s·k slots: there is
  // nothing to be unbalanced between, and nothing is exchanged.
  const bool has_all = layout.ep * (cut ? 1 : layout.tp) == 1;
  const double rows = z.s * z.topk / (cut ? 1.0 : z.t);
  z.slots = has_all ? std::min(options.imbalance, 1.0) * rows : options.imbalance * rows;
  z.exchange = has_all ? 0 : rows;
  z.leave = has_all ? 0 : z.s * z.topk / z.t;
  const int64_t ranks = expert_ranks(layout);
  const int64_t here = std::max<int64_t>(1, moe.num_experts / ranks);
  const int64_t parts = std::max<int64_t>(
      1, expert_parts(layout, moe.num_experts, job.parallel.overlap_expert_exchange));
  z.part = static_cast<double>((here + parts - 1) / parts) / static_cast<double>(here);
  z.width = static_cast<double>(moe.expert_intermediate_size) / (cut ? z.t : 1.0);
  z.shared = static_cast<double>(moe.num_shared_experts * moe.expert_intermediate_size);
  z.dense = static_cast<double>(model.dense_intermediate_size);
  z.e = static_cast<double>(options.element_bytes);
  z.strips = cut;
  z.input = options.fp8_inputs ? 1.0 + 1.0 / 32 : z.e;
  return z;
}

struct Term {
  const char* name;
  const char* booked;
  double bytes;
  uint8_t recompute = kRecomputeNothing;
  bool product_input = false;
  bool product_output = false;
};

constexpr bool kIn = true;  // product_input
// Our runtime's keys and values under CP, which every rank has of whole sequences: made again
// whatever the layout says.
constexpr uint8_t kAlwaysAgain = 8;
constexpr bool kOut = true;  // product_output

// Calls take(Term) for every term of attention and of both norms.
template <typename Take>
void attention_terms(const Sizes& z, bool own_runtime, const Take& take) {
  const double n = z.s / z.t;
  const char* latent = "activations/attention/latent";
  const char* statistics = "activations/attention/statistics";
  const bool direct = z.qr == 0;
  take({"input", "activations/residual", z.e * n * z.h, 0, false, kOut});
  take({"in_norm", "activations/norm", z.input * n * z.h, kRecomputeNorms, kIn});
  if (!direct) {
    take({"q_a", latent, z.e * n * z.qr, 0, false, kOut});
    take({"q_a_norm", latent, z.input * n * z.qr, 0, kIn});
  }
  take({"kv_a", latent, z.e * n * (z.r + z.dr), 0, false, kOut});
  take({"kv_a_norm", latent, z.input * n * z.r, 0, kIn});
  const bool in_latent = direct && own_runtime && z.t == 1;  // one product with the latents
  take({"q", in_latent ? latent : "activations/attention/q", z.e * n * z.heads * z.dq,
        kRecomputeMlaUp, false, kOut});
  const double key_dim = own_runtime ? z.dq - z.dr : z.dq;
  const double keys = z.cp * n * z.heads;
  const uint8_t up = kRecomputeMlaUp | (own_runtime && z.cp > 1 ? kAlwaysAgain : 0);
  take({"k", "activations/attention/kv", z.e * keys * key_dim, up, false, kOut});
  take({"v", "activations/attention/kv", z.e * keys * z.dv, up, false, kOut});
  take({"attn_out", "activations/attention/out", z.input * n * z.heads * z.dv, 0, kIn});
  take({"lse", statistics, 4 * n * z.heads});
  if (own_runtime) {  // 1 / rms of each token, f32
    take({"norm_rstd", "activations/norm/statistics", 4 * n * 2});
    take({"latent_rstd", statistics, 4 * n * (direct ? 1 : 2)});
  }
  take({"post_attn", "activations/residual", z.e * n * z.h, 0, false, kOut});
  take({"mlp_norm", "activations/norm", z.input * n * z.h, kRecomputeNorms, kIn});
}

template <typename Take>
void dense_terms(const Sizes& z, const char* gate_up, const char* act, double width,
                 const Take& take) {
  const double n = z.s / z.t;
  take({gate_up, "activations/ffn/gate_up", 2 * z.e * n * width, 0, false, kOut});
  take({act, "activations/ffn/hidden", z.input * n * width, kRecomputeSwiglu, kIn});
}

template <typename Take>
void moe_terms(const Sizes& z, const ActivationOptions& options, const Take& take) {
  const double n = z.s / z.t;
  // fp32 scores, int64 row map, bool map; ours: fp32 logits and scores, and of each choice its
  // weight, expert, row and slot.
  const double router = options.own_runtime ? 8 * z.experts + 16 * z.topk : 13 * z.experts;
  take({"router", "activations/moe/router", n * router});
  // From order of arrival to experts' and back, from tokens to order of leaving and back.
  if (options.own_runtime && (z.leave > 0 || z.strips))
    take({"routes", "activations/moe/router", 8 * (z.slots + n * z.topk)});
  if (z.shared > 0) dense_terms(z, "sh_fc1", "sh_act", z.shared, take);
  take({"ex_in", "activations/moe/x", z.input * z.slots * z.h, 0, kIn});
  take({"ex_fc1", "activations/moe/gate_up", 2 * z.e * z.slots * z.width, 0, false, kOut});
  take({"ex_act", "activations/moe/hidden", z.input * z.slots * z.width, kRecomputeSwiglu, kIn});
  take({"ex_probs", "activations/moe/router", 4 * z.slots});
  if (options.save_expert_output) take({"ex_out", "activations/moe/out", z.e * z.slots * z.h});
}

template <typename Take>
void for_each_term(const Sizes& z, bool moe_layer, const ActivationOptions& options,
                   const Take& take) {
  attention_terms(z, options.own_runtime, take);
  if (moe_layer) {
    moe_terms(z, options, take);
  } else {
    dense_terms(z, "fc1", "act", z.dense, take);
  }
}

uint8_t dropped_modules(const Layout& layout, const ActivationOptions& options) {
  if (layout.recompute == "none") return options.recompute_modules | kAlwaysAgain;
  return kRecomputeSelective | kAlwaysAgain;
}

// Of one layer: what is kept, and what there is.
struct Saved {
  double kept = 0;
  double all = 0;
};
Saved saved_of(const Sizes& z, const Layout& layout, bool moe_layer,
               const ActivationOptions& options) {
  Saved saved;
  const uint8_t dropped = dropped_modules(layout, options);
  for_each_term(z, moe_layer, options, [&](const Term& term) {
    saved.all += term.bytes;
    if ((term.recompute & dropped) == 0) saved.kept += term.bytes;
  });
  if (layout.recompute == "full") saved.kept = z.e * z.s / z.t * z.h;
  return saved;
}

// Gradients of q, k, v, the output and one copy; three of the residual stream. FFN: gradients of
// expert inputs and outputs and of three widths, and, where nothing is exchanged, the rows in both
// orders.
double reference_gradients(const Sizes& z, bool moe_layer) {
  const double attention = z.e * z.s * z.heads * (2 * z.dq + 2 * z.dv) / z.t + 3 * z.e * z.s * z.h;
  const double rows = z.exchange > 0 ? 0 : z.s * z.topk / z.t;
  const double ffn =
      moe_layer ? 2 * z.e * z.slots * z.h + 3 * z.e * z.slots * z.width + 2 * z.e * rows * z.h
                : 3 * z.e * z.s * z.dense / z.t + 2 * z.e * z.s * z.h;
  return std::max(attention, ffn);
}

// Attention's part of own_gradients(), as runtime/model/mla.cpp pushes it: columns of n tokens.
double own_attention_gradients(const Sizes& z) {
  const double q = z.heads * z.dq, kv = z.heads * (z.dq - z.dr + z.dv), shared = z.r + z.dr;
  const bool direct = z.qr == 0, cut = z.t > 1, alone = z.t * z.cp == 1;
  const double whole = z.cp * z.t;                     // rows of whole sequences, per local token
  double held = (direct && !cut ? q : z.qr) + shared;  // gradients of the latents
  if (!direct || cut) held += q;
  held += z.cp * kv + z.heads * z.dv;   // of keys and values, of the heads' output
  if (cut) held += z.t * (z.h + z.qr);  // gathered: the output's gradient, the query's latents
  if (!alone) held += (whole + 1) * shared;
  if (z.cp > 1) held += z.cp * shared + (cut ? whole * shared : 0);  // on their way from CP to TP
  held += alone ? z.r : whole * shared;  // gradients of what was gathered
  double then = direct ? 0 : cut ? (z.t + 1) * z.qr : z.qr;
  if (!alone) then += shared + (z.cp > 1 ? whole * shared + (cut ? z.cp * shared : 0) : 0);
  const double earlier_part = z.cp > 1 ? z.cp * (kv + z.dr * z.t) : 0;
  return z.e * z.s / z.t * (held + std::max(then, earlier_part));
}

// What runtime/model/{layer,mla,moe,ffn}.cpp push under "transient/", at their highest. TP gathers
// the gradient of a feed-forward's output and scatters that of its input.
double own_gradients(const Sizes& z, bool moe_layer) {
  const double n = z.s / z.t;
  const double gathered = z.t > 1 ? z.e * z.s * z.h : 0;
  double ffn = 3 * z.e * n * z.dense + 2 * gathered;
  if (moe_layer) {
    const double held = z.e * z.slots * (z.h + 2 * z.width) + 4 * n * z.experts +
                        2 * z.e * n * z.shared + (z.shared > 0 ? gathered : 0);
    // What leaves and what arrives, gradients of outputs one way and of inputs the other, in the
    // same buffers; a number beside each row. Of one part at a time the inputs' gradients and the
    // hidden ones.
    const bool travels = z.leave > 0 || z.strips;
    const double buffers = travels ? (z.e * z.h + 4) * (z.leave + z.slots) : 0;
    const double part = z.slots * z.part * (z.e * (z.h + z.width) + 4);
    const double shared = z.shared > 0 ? z.e * n * z.shared + gathered : 0;
    // The router's product is f32: below that its input's gradient is converted and added.
    const double router = z.e < 4 ? (4 + z.e) * n * z.h : 0;
    ffn = held + 4 * n * z.topk + std::max(buffers + std::max(shared, part), router);
  }
  return z.e * n * z.h + std::max(own_attention_gradients(z), ffn);
}

// What MlaBlock, MoeBlock and DenseFfn::backward_input() leave for backward_weight(), and the
// layer's three gradients of the residual stream.
double own_deferred_gradients(const Sizes& z, bool moe_layer) {
  const double n = z.s / z.t, shared = z.r + z.dr;
  const bool direct = z.qr == 0, cut = z.t > 1;
  const double q = z.heads * z.dq;
  double columns = 3 * z.h + (direct && !cut ? q : z.qr) + shared + (direct && !cut ? 0 : q) +
                   z.cp * z.heads * (z.dq - z.dr + z.dv);
  if (cut) columns += z.t * (z.h + z.qr);
  if (z.t * z.cp > 1) columns += z.cp * z.t * shared;
  const double gathered = cut ? z.e * z.s * z.h : 0;
  const double ffn = moe_layer ? z.e * z.slots * (z.h + 2 * z.width) + 4 * n * z.experts +
                                     2 * z.e * n * z.shared + (z.shared > 0 ? gathered : 0)
                               : 2 * z.e * n * z.dense + gathered;
  return z.e * n * columns + ffn;
}

}  // namespace

int64_t micro_batch_tokens(const spec::JobSpec& job, const Layout& layout) {
  return layout.micro_batch * job.training.seq_length / layout.cp;
}

std::vector<ActivationTerm> activation_terms(const spec::JobSpec& job, const Layout& layout,
                                             bool moe_layer, const ActivationOptions& options) {
  std::vector<ActivationTerm> terms;
  for_each_term(sizes_of(job, layout, options), moe_layer, options, [&terms](const Term& term) {
    terms.push_back({term.name, term.booked, term.bytes, term.recompute, term.product_input,
                     term.product_output});
  });
  return terms;
}

bool is_kept(const ActivationTerm& term, const Layout& layout, const ActivationOptions& options) {
  if (layout.recompute == "full") return term.name == "input";
  return (term.recompute & dropped_modules(layout, options)) == 0;
}

double saved_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                         const ActivationOptions& options) {
  return saved_of(sizes_of(job, layout, options), layout, moe_layer, options).kept;
}

double transient_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                             const ActivationOptions& options) {
  const Sizes z = sizes_of(job, layout, options);
  const Saved saved = saved_of(z, layout, moe_layer, options);
  return (options.own_runtime ? own_gradients(z, moe_layer) : reference_gradients(z, moe_layer)) +
         saved.all - saved.kept;
}

double deferred_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                            const ActivationOptions& options) {
  const Sizes z = sizes_of(job, layout, options);
  if (options.own_runtime) return own_deferred_gradients(z, moe_layer);
  double bytes = moe_layer ? z.e * z.slots * z.h : 0;  // the gradient of the experts' outputs
  for_each_term(z, moe_layer, options, [&bytes](const Term& term) {
    if (term.product_input || term.product_output) bytes += term.bytes;
  });
  return bytes;
}

double exchange_buffer_bytes(const spec::JobSpec& job, const Layout& layout,
                             const ActivationOptions& options) {
  // Our runtime's are on its stack, among what is transient.
  if (job.model.moe.num_experts == 0 || options.own_runtime) return 0;
  const Sizes z = sizes_of(job, layout, options);
  return z.exchange * (1 + options.imbalance) * z.e * z.h;
}

}  // namespace dsv3::plan
