// Counting over the tensor families. Every sum is of exact 64-bit integers; only FLOPs are doubles,
// and exact below 2^53.
#include "configs/spec/counts.h"

namespace dsv3::spec {
namespace {

constexpr double kForwardAndBackward = 6.0;  // 2 per multiply-add, forward 1× and backward 2×

// Elements of GEMM weights that one token passes through: experts count top-k times, an embedding
// look-up is no GEMM.
struct GemmWeights {
  int64_t main = 0;
  int64_t main_router = 0;
  int64_t mtp = 0;
  int64_t mtp_router = 0;
};

GemmWeights gemm_weights(const ModelSpec& model) {
  GemmWeights g;
  for (const TensorFamily& family : model_tensor_families(model)) {
    const TensorInfo& t = family.tensor;
    if (t.part == Part::kEmbedding || t.part == Part::kNorms) continue;
    const bool routed = t.part == Part::kRoutedExperts;
    const int64_t used = t.num_elements() * (routed ? model.moe.num_experts_per_token : 1);
    (t.in_mtp ? g.mtp : g.main) += used;
    if (t.part == Part::kRouter) (t.in_mtp ? g.mtp_router : g.main_router) += used;
  }
  const int64_t head = model.vocab_size * model.d_model;
  if (model.tie_embeddings) g.main += head;  // the table, used as the head
  g.mtp += model.mtp_layers * head;          // each module runs the shared head once more
  return g;
}

}  // namespace

ParamCounts count_params(const ModelSpec& model) {
  ParamCounts c;
  int64_t idle_experts = 0;
  int64_t first_moe_layer = -1;
  for (const TensorFamily& family : model_tensor_families(model)) {
    const TensorInfo& t = family.tensor;
    const int64_t n = t.num_elements() * family.copies;
    c.by_part[static_cast<size_t>(t.in_mtp ? Part::kMtp : t.part)] += n;
    if (t.part == Part::kAttention && t.layer == 0) c.attention_per_layer += n;
    if (t.part != Part::kRoutedExperts) continue;
    if (first_moe_layer < 0) first_moe_layer = t.layer;
    if (t.layer == first_moe_layer) c.per_routed_expert += t.num_elements();
    if (!t.in_mtp) {
      idle_experts += t.num_elements() * (family.copies - model.moe.num_experts_per_token);
    }
  }
  c.mtp = c.part(Part::kMtp);
  c.active_by_part = c.by_part;
  c.active_by_part[static_cast<size_t>(Part::kMtp)] = 0;
  c.active_by_part[static_cast<size_t>(Part::kRoutedExperts)] -= idle_experts;
  for (int64_t n : c.by_part) c.total += n;
  c.total -= c.mtp;
  const int64_t table = c.part(Part::kEmbedding);
  c.active_with_embedding = c.total - idle_experts;
  // A tied table is the head: it is used as a GEMM, so it is active.
  c.active = c.active_with_embedding - (model.tie_embeddings ? 0 : table);
  c.active_non_embedding = c.active_with_embedding - table - c.part(Part::kHead);
  for (const TensorInfo& b : model_buffers(model)) {
    if (!b.in_mtp) c.router_bias_buffer += b.num_elements();
  }
  return c;
}

// Worked example, DeepSeek-V3 at S = 4096. GEMM weights of one token: attention 61·187,105,280,
// dense 3·3·7168·18432, experts 58·(8 + 1)·44,040,192, router 58·256·7168, head 7168·129280:
// together 36,624,596,992 (the active parameters without norms). Core: 61·128·(192 + 128)·4097/2 =
// 5,118,300,160. 6 × their sum = 250,457,382,912.
FlopsPerToken flops_per_token(const ModelSpec& model, int64_t sequence) {
  const GemmWeights g = gemm_weights(model);
  const double per_key = static_cast<double>(model.num_heads) *
                         static_cast<double>(model.mla.qk_head_dim() + model.mla.v_head_dim);
  const double s = static_cast<double>(sequence);
  const double layers = static_cast<double>(model.num_layers);
  const double mtp_layers = static_cast<double>(model.mtp_layers);
  FlopsPerToken f;
  f.sequence = sequence;
  f.attention = kForwardAndBackward * layers * per_key * (s + 1) / 2;
  f.total = kForwardAndBackward * static_cast<double>(g.main) + f.attention;
  f.total_with_mtp = f.total + kForwardAndBackward * (static_cast<double>(g.mtp) +
                                                      mtp_layers * per_key * (s + 1) / 2);
  f.non_causal = kForwardAndBackward * (static_cast<double>(g.main) + layers * per_key * s);
  // Megatron-LM, training.py: half the sequence, the latents' norms, three norms per MTP module, no
  // router GEMM.
  const double ranks =
      static_cast<double>(model.mla.q_lora_rank.value_or(0) + model.mla.kv_lora_rank);
  const double gemms = static_cast<double>(g.main - g.main_router + g.mtp - g.mtp_router);
  f.megatron_convention =
      kForwardAndBackward * (gemms + (layers + mtp_layers) * (per_key * s / 2 + ranks) +
                             3 * mtp_layers * static_cast<double>(model.d_model));
  return f;
}

int64_t kv_cache_bytes_per_token_per_layer(const ModelSpec& model) {
  return 2 * (model.mla.kv_lora_rank + model.mla.qk_rope_head_dim);
}

}  // namespace dsv3::spec
