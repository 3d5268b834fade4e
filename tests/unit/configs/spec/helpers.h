// What the tests of configs/spec share: a small valid file, and looking for a diagnostic by its
// code.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "configs/spec/parse.h"

namespace dsv3::spec {

// A complete small model; tests append or replace lines. Line numbers matter to them: "model:" is
// line 1.
inline const std::string kSmallYaml = R"(model:
  name: tiny
  vocab_size: 128
  num_layers: 4
  d_model: 64
  num_heads: 4
  dense_intermediate_size: 160
  max_context_length: 64
  mla:
    kv_lora_rank: 16
    q_lora_rank: 32
    qk_nope_head_dim: 16
    qk_rope_head_dim: 8
    v_head_dim: 16
  moe:
    num_experts: 8
    num_experts_per_token: 2
    expert_intermediate_size: 128
    first_k_dense: 1
training:
  max_steps: 10
  global_batch_size: 8
  seq_length: 32
  dtype: bf16
data:
  path: some/prefix
)";

inline const Diagnostic* find(const std::vector<Diagnostic>& all, const std::string& code) {
  const auto it =
      std::find_if(all.begin(), all.end(), [&](const Diagnostic& d) { return d.code == code; });
  return it == all.end() ? nullptr : &*it;
}

inline std::string text_of(const std::vector<Diagnostic>& all) {
  std::string out;
  for (const Diagnostic& d : all) out += to_string(d) + "\n";
  return out;
}

}  // namespace dsv3::spec
