// The angles of rotary positions, with YaRN, and the softmax scale that goes with them.
//
// Law: the formulas of transformers' DeepSeek-V3 (modeling_rope_utils, "yarn"), written once, here;
// computed in f64 on the host. For pair j of rope_dim / 2:
//   f_j = theta^(−2j / rope_dim);  plain: angle(t, j) = t · f_j.
//   YaRN:  p(r) = rope_dim · ln(original_max_position / (2π r)) / (2 ln theta)
//          low = max(⌊p(beta_fast)⌋, 0),  high = min(⌈p(beta_slow)⌉, rope_dim − 1)
//          (high += 0.001 when they are equal)
//          ramp_j = clamp((j − low) / (high − low), 0, 1)
//          angle(t, j) = t · (f_j · (1 − ramp_j) + f_j / factor · ramp_j)
//          g(m) = 1 if factor ≤ 1, else 0.1 · m · ln(factor) + 1
//          cos and sin are multiplied by g(mscale) / g(mscale_all_dim), or by g(1) when either is 0
//   softmax scale = (nope + rope)^(−1/2), under YaRN with mscale_all_dim ≠ 0 · g(mscale_all_dim)².
// Worked example (DeepSeek-V3: rope_dim 64, theta 1e4, original 4096, factor 40, beta 32 and 1,
// mscale = mscale_all_dim = 1):
//   p(32) = 64 · ln(20.37) / 18.4207 = 10.47, low 10;  p(1) = 64 · ln(651.9) / 18.4207 = 22.51,
//   high 23;  g(1) = 0.1 · 3.6889 + 1 = 1.36889;  softmax scale = 192^(−1/2) · 1.87385 = 0.135234.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "configs/spec/job_spec.h"

namespace dsv3::model {

struct RopeTables {
  std::vector<float> cos;  // [positions, rope_dim / 2]
  std::vector<float> sin;  // [positions, rope_dim / 2]
};

// Tables of these positions, a row each; empty when qk_rope_head_dim is 0.
RopeTables rope_tables(const spec::MlaSpec& mla, std::span<const int64_t> positions);
// Of positions 0 … sequence − 1.
RopeTables rope_tables(const spec::MlaSpec& mla, int64_t sequence);
// Factor of q·k before the softmax.
float softmax_scale(const spec::MlaSpec& mla);

}  // namespace dsv3::model
