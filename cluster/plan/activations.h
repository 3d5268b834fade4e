// Activation ledger: what the backward pass keeps of one layer and one micro-batch, term by term
// (PLAN.md, Memory).
//
// Law: a term is written once, with its equation. Every CP rank has k and v of whole sequences (CP
// gathers latents). s = micro_batch·seq/CP tokens, t = TP (sequence
// parallel on), λ = imbalance of the busiest rank's experts. Example: DeepSeek-V3, S = 4096, TP 1,
// λ 1: 1791.6 MiB a MoE layer, of which expert inputs 448. Nothing but activation_terms()
// allocates: a search asks the sums for every layout that it looks at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// Share above the mean that the busiest rank's experts are provisioned for.
inline constexpr double kImbalance = 1.25;

// What can be computed again in the backward pass by itself; a set of bits. "selective" is all.
enum RecomputeModule : uint8_t {
  kRecomputeNothing = 0,
  kRecomputeNorms = 1,   // outputs of the layer's two norms
  kRecomputeMlaUp = 2,   // q, k and v: the up-projections of the latents ("mla_up_proj")
  kRecomputeSwiglu = 4,  // outputs of SwiGLU
  kRecomputeSelective = 7,
};

struct ActivationOptions {
  double imbalance = kImbalance;
  int64_t element_bytes = 2;  // of a saved activation: 2 bf16, 4 fp32
  // Keep the experts' outputs too, as runtimes do that apply the routing weight after the down
  // projection. Ours applies it before, and doesn't.
  bool save_expert_output = false;
  // Dropped whatever layout.recompute says.
  uint8_t recompute_modules = kRecomputeNothing;
  // Inputs of matrix products are kept as fp8 with a scale per 128: 1 + 1/32 bytes.
  bool fp8_inputs = false;
  // What runtime/model keeps and its arena books, term by term: the rotated part of the keys once
  // for all heads, the router's own tables, the norms' statistics; under CP no keys and values,
  // which are made again. Else PLAN.md's.
  bool own_runtime = false;
};

struct ActivationTerm {
  std::string name;    // PLAN.md's: "q_a_norm"
  std::string booked;  // the arena's: "activations/attention/latent"
  double bytes = 0;
  uint8_t recompute = kRecomputeNothing;  // the module that it belongs to
  // Of a matrix product, which a deferred weight gradient keeps: its input, or as large as the
  // gradient of its output.
  bool product_input = false;
  bool product_output = false;
};

// Saved by one layer without recomputation. moe_layer: a routed layer, else a dense FFN.
std::vector<ActivationTerm> activation_terms(const spec::JobSpec& job, const Layout& layout,
                                             bool moe_layer, const ActivationOptions& options = {});

// Whether a term stays in memory under layout.recompute: none keeps all, selective leaves out its
// modules, full keeps the input only.
bool is_kept(const ActivationTerm& term, const Layout& layout,
             const ActivationOptions& options = {});

// The sum of what is kept.
double saved_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                         const ActivationOptions& options = {});

// What lives only while a layer's backward pass runs: the larger of attention's and the FFN's
// gradients, and what is recomputed.
double transient_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                             const ActivationOptions& options = {});

// What a weight gradient that is computed later needs of a layer: the inputs of its products and
// the gradients of their outputs (ZB-H1's M_W, Qi et al. 2023, arXiv 2401.10241). Of our own
// runtime the gradients alone, which it books as transient: all that was saved stays as well.
double deferred_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                            const ActivationOptions& options = {});

// Buffers of the expert exchange: rows that leave and rows that arrive, which the way back uses
// again, the latter bounded by λ times their mean. 0 where one rank holds all experts of its
// tokens, and for our own runtime, where they are part of transient_layer_bytes().
double exchange_buffer_bytes(const spec::JobSpec& job, const Layout& layout,
                             const ActivationOptions& options = {});

// Tokens of one micro-batch on one rank before TP cuts them: micro_batch·seq_length/CP.
int64_t micro_batch_tokens(const spec::JobSpec& job, const Layout& layout);

}  // namespace dsv3::plan
