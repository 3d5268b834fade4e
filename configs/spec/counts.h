// Parameter counts and training FLOPs per token, from the tensor list. The one home of both
// formulas.
//
// Law: counts are exact integers summed over model_tensor_families(); FLOPs use the same list, so
// that a tensor added to the model is counted without touching this file. Totals leave MTP out, as
// DeepSeek reports them.
#pragma once

#include <array>
#include <cstdint>

#include "configs/spec/job_spec.h"
#include "configs/spec/model_tensors.h"

namespace dsv3::spec {

struct ParamCounts {
  int64_t total = 0;   // trained parameters of the main model (DeepSeek-V3: 671,026,404,352)
  int64_t active = 0;  // used per token without the embedding table, with the head (36,625,603,584)
  int64_t active_with_embedding = 0;  // + the table; a tied table is the head and counts once
  int64_t active_non_embedding = 0;   // neither table nor head
  std::array<int64_t, kNumParts>
      by_part{};  // indexed by Part; the parts but kMtp sum to total; kMtp: whole MTP modules
  // Of `active_with_embedding`: routed experts count top-k times. active leaves the embedding out.
  std::array<int64_t, kNumParts> active_by_part{};
  int64_t mtp = 0;  // = by_part[kMtp]
  int64_t router_bias_buffer =
      0;  // elements of e_score_correction_bias in the main model (not in total)
  int64_t per_routed_expert = 0;    // one expert of one layer
  int64_t attention_per_layer = 0;  // attention projections of one layer, without norms

  int64_t active_part(Part p) const { return active_by_part[static_cast<size_t>(p)]; }
  int64_t part(Part p) const { return by_part[static_cast<size_t>(p)]; }
};

// Exact counts. Example, small: embedding 32768·1024 = 33,554,432, head the same, total
// 407,455,744.
ParamCounts count_params(const ModelSpec& model);

// The rule of thumb for how long to train: tokens per active parameter.
inline constexpr double kTokensPerActive = 20;

// Floating-point operations per token of forward + backward (backward = 2 × forward; recomputation
// not counted).
struct FlopsPerToken {
  int64_t sequence = 0;            // S, tokens of a sequence
  double total = 0;                // causal, main model: what MFU uses without MTP
  double total_with_mtp = 0;       // + the MTP modules; = total without any
  double attention = 0;            // attention core (scores and values) of the main model, causal
  double non_causal = 0;           // total with S in place of (S+1)/2
  double megatron_convention = 0;  // Megatron-LM's num_floating_point_operations: S/2, no router
                                   // GEMM, norm terms, MTP included
};

// 6 × [used GEMM weights + L·H·(d_qk + d_v)·(S+1)/2]. Example, DeepSeek-V3 at S = 4096:
// 250,457,382,912.
FlopsPerToken flops_per_token(const ModelSpec& model, int64_t sequence);

// Bytes of KV cache per token and layer in bf16: 2·(kv_lora_rank + qk_rope_head_dim). DeepSeek-V3:
// 1152.
int64_t kv_cache_bytes_per_token_per_layer(const ModelSpec& model);

}  // namespace dsv3::spec
