// A small model that many layouts can cut, and those layouts: for tests that enumerate every rank
// and every element.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// 6 layers and an MTP module, 4 heads, 16 experts of width 4: some 30 thousand parameters, of every
// kind of tensor.
inline spec::ModelSpec enumerable_model(bool tied = false, int64_t mtp_layers = 1) {
  spec::ModelSpec model;
  model.name = "enumerable";
  model.vocab_size = 32;
  model.num_layers = 6;
  model.d_model = 16;
  model.num_heads = 4;
  model.dense_intermediate_size = 24;
  model.mtp_layers = mtp_layers;
  model.tie_embeddings = tied;
  model.init_std = 0.05;
  model.mla = {.kv_lora_rank = 6,
               .q_lora_rank = 10,
               .qk_nope_head_dim = 4,
               .qk_rope_head_dim = 2,
               .v_head_dim = 4};
  model.moe.num_experts = 16;
  model.moe.num_experts_per_token = 2;
  model.moe.expert_intermediate_size = 4;
  model.moe.num_shared_experts = 1;
  model.moe.first_k_dense = 1;
  return model;
}

// Every cut of up to `ranks_max` ranks: TP 1, 2, 4, both ways of cutting experts; CP 1, 2; EP 1, 2,
// 4; DP 1, 2, 3; PP 1, 2, 3, interleaved too.
inline std::vector<Layout> many_layouts(int64_t ranks_max) {
  std::vector<Layout> layouts;
  for (const int64_t tp : {1, 2, 4})
    for (const int64_t cp : {1, 2})
      for (const int64_t ep : {1, 2, 4})
        for (const int64_t dp : {1, 2, 3})
          for (const int64_t pp : {1, 2, 3}) {
            Layout layout{.tp = tp, .cp = cp, .pp = pp, .ep = ep, .dp = dp};
            if (layout.world_size() > ranks_max) continue;
            layouts.push_back(layout);
            if (tp > 1) {
              layout.etp = tp;
              layouts.push_back(layout);
            }
            if (pp > 1) {
              layout.schedule = "interleaved";
              layout.virtual_stages = pp == 2 ? 3 : 2;
              layouts.push_back(layout);
            }
          }
  return layouts;
}

}  // namespace dsv3::plan
