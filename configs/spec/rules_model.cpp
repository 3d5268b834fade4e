// Rules of the architecture: attention's ranks and heads, routing groups, layer counts.
#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "configs/spec/counts.h"
#include "configs/spec/rules.h"

namespace dsv3::spec {
namespace {

void check_attention(const ModelSpec& m, Findings& out) {
  const MlaSpec& a = m.mla;
  const int64_t full = m.num_heads * (a.qk_nope_head_dim + a.v_head_dim);
  if (a.kv_lora_rank < 1) {
    out.error("MLA_KV_RANK_REQUIRED", "model.mla.kv_lora_rank",
              "kv_lora_rank (d_latent) must be a positive integer; MLA has no full-rank KV mode",
              fmt::format("DeepSeek-V3 uses 512; d_model/4 = {} is the presets' choice",
                          std::max<int64_t>(1, m.d_model / 4)));
  } else if (full > 0 && a.kv_lora_rank >= full) {
    out.error(
        "MLA_KV_RANK_GE_FULL", "model.mla.kv_lora_rank",
        fmt::format("kv_lora_rank={} >= heads*(nope+v)={}: the latent would be no smaller than "
                    "what it stands for",
                    a.kv_lora_rank, full),
        fmt::format("use less than {}, for example {}", full, std::max<int64_t>(1, full / 8)));
  }
  if (a.qk_rope_head_dim % 2 != 0) {
    out.error(
        "MLA_ROPE_DIM_ODD", "model.mla.qk_rope_head_dim",
        fmt::format("qk_rope_head_dim={} is odd; rotation works on pairs", a.qk_rope_head_dim),
        fmt::format("use {} or {}", a.qk_rope_head_dim - 1, a.qk_rope_head_dim + 1));
  }
  if (a.qk_head_dim() < 1) {
    out.error("MLA_HEAD_DIM_ZERO", "model.mla.qk_nope_head_dim",
              "qk_nope_head_dim and qk_rope_head_dim are both 0: queries would have no width",
              "make one of them positive");
  }
  if (m.num_key_value_heads && *m.num_key_value_heads != m.num_heads) {
    out.error("MLA_KV_HEADS", "model.num_key_value_heads",
              fmt::format("num_key_value_heads={} differs from num_heads={}; in MLA every head has "
                          "its own keys and values",
                          *m.num_key_value_heads, m.num_heads),
              fmt::format("leave it out, or write {}", m.num_heads));
  }
  // Some guides call q_lora_rank a latent: with it as kv_lora_rank the size barely changes, but a
  // cache would be 2.8 times V3's.
  if (a.kv_lora_rank == 1536 && m.d_model == 7168 && m.num_heads == 128) {
    out.warning("MLA_LATENT_IS_Q_RANK", "model.mla.kv_lora_rank",
                fmt::format("kv_lora_rank=1536 with DeepSeek-V3's shape: its latent has 512, and "
                            "1536 is its q_lora_rank "
                            "({} bytes of KV cache per token and layer instead of 1152)",
                            kv_cache_bytes_per_token_per_layer(m)),
                "kv_lora_rank: 512, q_lora_rank: 1536");
  }
  if (a.rope_scaling.type == "yarn" && a.rope_scaling.beta_fast < a.rope_scaling.beta_slow) {
    out.error("YARN_BETAS", "model.mla.rope_scaling.beta_fast",
              fmt::format("beta_fast={} is below beta_slow={}: frequencies that turn fast would "
                          "be stretched and slow ones kept",
                          a.rope_scaling.beta_fast, a.rope_scaling.beta_slow),
              "DeepSeek-V3 uses 32 and 1");
  }
  const double reach =
      a.rope_scaling.factor * static_cast<double>(a.rope_scaling.original_max_position);
  if (a.rope_scaling.type == "yarn" && static_cast<double>(m.max_context_length) > reach) {
    out.warning("CONTEXT_GT_YARN", "model.max_context_length",
                fmt::format("max_context_length={} > factor*original_max_position={:.15g}*{}: "
                            "positions beyond {:.15g} are not stretched for",
                            m.max_context_length, a.rope_scaling.factor,
                            a.rope_scaling.original_max_position, reach),
                fmt::format("max_context_length: {:.0f}, or factor: {:g}", reach,
                            std::ceil(static_cast<double>(m.max_context_length) /
                                      static_cast<double>(a.rope_scaling.original_max_position))));
  }
  if (a.rope_scaling.type == "none" && a.rope_scaling.factor != 1.0) {
    out.warning(
        "ROPE_SCALING_IGNORED", "model.mla.rope_scaling.factor",
        fmt::format("rope_scaling.factor={} has no effect with type none", a.rope_scaling.factor),
        "type: yarn");
  }
}

void check_groups(const MoeSpec& e, Findings& out) {
  const int64_t k = e.num_experts_per_token;
  if (e.topk_group > e.n_group) {
    out.error("MOE_TOPK_GROUP_GT_N_GROUP", "model.moe.topk_group",
              fmt::format("topk_group={} > n_group={}: cannot select more groups than exist",
                          e.topk_group, e.n_group),
              fmt::format("use topk_group ≤ {}", e.n_group));
  }
  const bool divides = e.num_experts % e.n_group == 0;
  if (!divides) {
    out.error(
        "MOE_EXPERTS_NOT_DIVISIBLE_BY_GROUPS", "model.moe.n_group",
        fmt::format("num_experts={} is not divisible by n_group={}", e.num_experts, e.n_group),
        e.num_experts == 1
            ? "n_group: 1, topk_group: 1 (for a dense model: first_k_dense = num_layers)"
            : fmt::format("n_group can be {}; n_group: 1, topk_group: 1 switches groups off",
                          divisors_text(e.num_experts, e.num_experts)));
  } else if (e.score_function == "sigmoid" && e.n_group > 1 && e.num_experts / e.n_group < 2) {
    out.error("MOE_GROUP_TOO_SMALL", "model.moe.n_group",
              fmt::format("num_experts={} in n_group={} groups leaves {} expert a group; a sigmoid "
                          "group's score is the sum of its two best",
                          e.num_experts, e.n_group, e.num_experts / e.n_group),
              fmt::format("use n_group ≤ {}, or n_group: 1, topk_group: 1",
                          std::max<int64_t>(1, e.num_experts / 2)));
  }
  if (k % e.topk_group != 0) {
    const auto report = [&](auto&& add) {
      add("MOE_TOPK_NOT_DIVISIBLE_BY_TOPK_GROUP", "model.moe.num_experts_per_token",
          fmt::format("num_experts_per_token={} is not a multiple of topk_group={}", k,
                      e.topk_group),
          e.allow_uneven_groups ? "allowed by allow_uneven_groups"
                                : fmt::format("use a multiple of {}, or topk_group: 1, n_group: 1, "
                                              "or --set model.moe.allow_uneven_groups=true",
                                              e.topk_group));
    };
    if (e.allow_uneven_groups) {
      report([&](auto&&... a) { out.warning(a...); });
    } else {
      report([&](auto&&... a) { out.error(a...); });
    }
  }
  // k / topk_group > E / n_group, without the division; groups of unequal size have no capacity.
  if (divides && e.topk_group <= e.n_group && k <= e.num_experts &&
      k * e.n_group > e.num_experts * e.topk_group) {
    out.error(
        "MOE_TOPK_EXCEEDS_GROUP_CAPACITY", "model.moe.topk_group",
        fmt::format("num_experts_per_token={} from topk_group={} groups of {} experts: the chosen "
                    "groups hold only {}",
                    k, e.topk_group, e.num_experts / e.n_group,
                    e.topk_group * (e.num_experts / e.n_group)),
        fmt::format("use topk_group ≥ {}, or fewer experts per token",
                    std::min(e.n_group, (k * e.n_group + e.num_experts - 1) / e.num_experts)));
  }
}

void check_moe(const ModelSpec& m, Findings& out) {
  const MoeSpec& e = m.moe;
  if (e.first_k_dense > m.num_layers) {
    out.error("FIRST_K_DENSE_GT_LAYERS", "model.moe.first_k_dense",
              fmt::format("first_k_dense={} > num_layers={}", e.first_k_dense, m.num_layers),
              fmt::format("use at most {} (then no layer is MoE)", m.num_layers));
  }
  const int64_t moe_layers =
      e.num_experts > 0 ? std::max<int64_t>(0, m.num_layers - e.first_k_dense) : 0;
  if (e.moe_layers && *e.moe_layers != moe_layers) {
    out.error("MOE_LAYERS_MISMATCH", "model.moe.moe_layers",
              fmt::format("moe_layers={}, but num_layers={} with first_k_dense={} makes {}",
                          *e.moe_layers, m.num_layers, e.first_k_dense, moe_layers),
              fmt::format("leave it out, or first_k_dense: {}",
                          std::max<int64_t>(0, m.num_layers - *e.moe_layers)));
  }
  if (e.num_experts == 0) return;
  if (e.num_experts_per_token < 1) {
    out.error(
        "MOE_TOPK_ZERO", "model.moe.num_experts_per_token",
        fmt::format("num_experts_per_token={} with num_experts={}: no expert would see a token",
                    e.num_experts_per_token, e.num_experts),
        "use at least 1, or num_experts: 0 for a dense model");
  }
  if (e.expert_intermediate_size < 1) {
    out.error("MOE_EXPERT_WIDTH_ZERO", "model.moe.expert_intermediate_size",
              fmt::format("expert_intermediate_size={} with num_experts={}",
                          e.expert_intermediate_size, e.num_experts),
              "give the experts a width");
  }
  if (e.num_experts_per_token > e.num_experts) {
    out.error("MOE_TOPK_GT_EXPERTS", "model.moe.num_experts_per_token",
              fmt::format("num_experts_per_token={} > num_experts={}", e.num_experts_per_token,
                          e.num_experts),
              fmt::format("use at most {}", e.num_experts));
  }
  check_groups(e, out);
  if (e.num_experts_per_token == 1 && e.num_experts > 1 && e.norm_topk_prob) {
    out.warning("MOE_TOP1_NORMALISED", "model.moe.norm_topk_prob",
                fmt::format("norm_topk_prob={} with num_experts_per_token={}: the chosen expert's "
                            "weight is always 1, so the router learns nothing from the text",
                            e.norm_topk_prob, e.num_experts_per_token),
                "norm_topk_prob: false, or more experts per token");
  }
  if (e.num_shared_experts * 16 > e.num_experts) {
    out.warning("MOE_SHARED_RATIO", "model.moe.num_shared_experts",
                fmt::format("num_shared_experts/num_experts = {}/{} > 1/16", e.num_shared_experts,
                            e.num_experts),
                e.num_experts >= 16 ? fmt::format("{} would be 1/16", e.num_experts / 16)
                                    : "usual for few experts; large models share 1 of 64 to 256");
  }
  if (e.use_aux_loss_free && e.router_aux_loss_weight >= 1e-3) {
    out.warning(
        "AUX_LOSS_WITH_AUX_FREE", "model.moe.router_aux_loss_weight",
        fmt::format(
            "router_aux_loss_weight={} beside use_aux_loss_free: two balancers pull at the router",
            e.router_aux_loss_weight),
        "DeepSeek-V3 keeps the loss at 1e-4 beside the bias; or use_aux_loss_free: false");
  }
}

// Parameters that a model's name promises: "deepseek_v3_15b" → 15e9, "70m" → 70e6; 0 when it has no
// such word.
double size_label(const std::string& name) {
  for (size_t i = 0; i < name.size(); ++i) {
    const bool starts =
        std::isdigit(static_cast<unsigned char>(name[i])) &&
        (i == 0 || (!std::isalnum(static_cast<unsigned char>(name[i - 1])) && name[i - 1] != '.'));
    if (!starts) continue;
    double value = 0;
    const auto [end, error] = std::from_chars(name.data() + i, name.data() + name.size(), value,
                                              std::chars_format::fixed);
    const size_t at = static_cast<size_t>(end - name.data());
    if (error != std::errc{} || at >= name.size()) continue;
    const bool ends =
        at + 1 == name.size() || !std::isalnum(static_cast<unsigned char>(name[at + 1]));
    const char suffix = static_cast<char>(std::tolower(static_cast<unsigned char>(name[at])));
    if (ends && suffix == 'b') return value * 1e9;
    if (ends && suffix == 'm') return value * 1e6;
  }
  return 0;
}

void check_size(const ModelSpec& m, Findings& out) {
  const double label = size_label(m.name);
  if (label <= 0) return;
  const int64_t total = count_params(m).total;
  if (static_cast<double>(total) <= 1.5 * label) return;
  const double ratio = m.d_model > 0 ? static_cast<double>(m.moe.expert_intermediate_size) /
                                           static_cast<double>(m.d_model)
                                     : 0;
  out.warning("EXPERT_WIDTH_SUSPECT", "model.moe.expert_intermediate_size",
              fmt::format("{} has {} parameters, {:.1f} times what its name says "
                          "(expert_intermediate_size={}, {:.2f} × d_model)",
                          m.name, human_count(total), static_cast<double>(total) / label,
                          m.moe.expert_intermediate_size, ratio),
              "2.5 × d_model is a dense layer's width; all experts that see a token together "
              "should have about that");
}

}  // namespace

void check_model(const JobSpec& job, Findings& out) {
  const ModelSpec& m = job.model;
  check_attention(m, out);
  check_moe(m, out);
  const bool any_dense = m.moe.num_experts == 0 || m.moe.first_k_dense > 0;
  if (any_dense && m.dense_intermediate_size < 1) {
    out.error(
        "DENSE_WIDTH_ZERO", "model.dense_intermediate_size",
        fmt::format(
            "dense_intermediate_size={}, but {} layers are dense", m.dense_intermediate_size,
            m.moe.num_experts == 0 ? m.num_layers : std::min(m.num_layers, m.moe.first_k_dense)),
        fmt::format("for example {} (2.5 × d_model)", m.d_model * 5 / 2));
  }
  check_size(m, out);
}

std::string divisors_text(int64_t n, int64_t limit) {
  std::string out;
  int shown = 0;
  for (int64_t d = 1; d <= std::min(n, limit) && shown < 8; ++d) {
    if (n % d != 0) continue;
    out += (shown++ > 0 ? ", " : "") + std::to_string(d);
  }
  return out;
}

int64_t nearest_multiple(int64_t value, int64_t step) {
  return std::max(step, (value + step / 2) / step * step);
}

}  // namespace dsv3::spec
