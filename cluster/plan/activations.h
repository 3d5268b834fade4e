// Activation ledger: what the backward pass keeps of one layer and one micro-batch, term by term
// (planner.md 3.3).
//
// Law: a term is written once, with its equation. s = micro_batch·seq/CP tokens, t = TP (sequence
// parallel on), λ = imbalance of the busiest rank's experts. Example: DeepSeek-V3, S = 4096, TP 1,
// λ 1: 1791.6 MiB a MoE layer, of which expert inputs 448.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// Share above the mean that the busiest rank's experts are provisioned for.
inline constexpr double kImbalance = 1.25;

struct ActivationOptions {
  double imbalance = kImbalance;
  int64_t element_bytes = 2;  // of a saved activation: 2 bf16, 4 fp32
  // Keep the experts' outputs too, as runtimes do that apply the routing weight after the down
  // projection. Ours applies it before, and doesn't.
  bool save_expert_output = false;
};

struct ActivationTerm {
  std::string name;
  double bytes = 0;
  // Recomputed in the backward pass under selective recomputation: layer norms' outputs, q, k, v,
  // SwiGLU's outputs.
  bool dropped_by_selective = false;
};

// Saved by one layer without recomputation. moe_layer: a routed layer, else a dense FFN.
std::vector<ActivationTerm> activation_terms(const spec::JobSpec& job, const Layout& layout,
                                             bool moe_layer, const ActivationOptions& options = {});

// Their sum under layout.recompute: none keeps all, selective leaves out what it drops, full keeps
// the input only.
double saved_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                         const ActivationOptions& options = {});

// What lives only while a layer's backward pass runs: the larger of attention's and the FFN's
// gradients, and what is recomputed.
double transient_layer_bytes(const spec::JobSpec& job, const Layout& layout, bool moe_layer,
                             const ActivationOptions& options = {});

// Tokens of one micro-batch on one rank before TP cuts them: micro_batch·seq_length/CP.
int64_t micro_batch_tokens(const spec::JobSpec& job, const Layout& layout);

}  // namespace dsv3::plan
