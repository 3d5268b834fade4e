// The tensor list, built layer by layer. Axis letters: V vocab, h d_model, H heads, r kv_lora_rank,
// E experts.
#include "configs/spec/model_tensors.h"

#include <fmt/core.h>

#include <utility>

namespace dsv3::spec {
namespace {

// Collects the tensors of one layer (or of the ends of the model) as families.
class Builder {
 public:
  explicit Builder(const ModelSpec& model) : model_(model) {}

  void matrix(std::string name, int64_t out, int64_t in, Part part) {
    push(std::move(name), {out, in}, part, InitRule::kNormal);
  }
  void norm(std::string name, int64_t size) {
    push(std::move(name), {size}, Part::kNorms, InitRule::kOnes);
  }

  void attention() {
    const ModelSpec& m = model_;
    const int64_t h = m.d_model, heads = m.num_heads, r = m.mla.kv_lora_rank;
    const int64_t q_width = heads * m.mla.qk_head_dim();
    const std::string p = prefix_ + "self_attn.";
    if (m.mla.q_lora_rank) {
      matrix(p + "q_a_proj.weight", *m.mla.q_lora_rank, h, Part::kAttention);
      norm(p + "q_a_layernorm.weight", *m.mla.q_lora_rank);
      matrix(p + "q_b_proj.weight", q_width, *m.mla.q_lora_rank, Part::kAttention);
    } else {
      matrix(p + "q_proj.weight", q_width, h, Part::kAttention);
    }
    // [latent; the rope key that all heads share]
    matrix(p + "kv_a_proj_with_mqa.weight", r + m.mla.qk_rope_head_dim, h, Part::kAttention);
    norm(p + "kv_a_layernorm.weight", r);
    // per head: nope key, then value
    matrix(p + "kv_b_proj.weight", heads * (m.mla.qk_nope_head_dim + m.mla.v_head_dim), r,
           Part::kAttention);
    matrix(p + "o_proj.weight", h, heads * m.mla.v_head_dim, Part::kAttention);
  }

  void ffn(const std::string& where, int64_t width, Part part) {
    matrix(prefix_ + where + "gate_proj.weight", width, model_.d_model, part);
    matrix(prefix_ + where + "up_proj.weight", width, model_.d_model, part);
    matrix(prefix_ + where + "down_proj.weight", model_.d_model, width, part);
  }

  void moe() {
    const MoeSpec& moe = model_.moe;
    matrix(prefix_ + "mlp.gate.weight", moe.num_experts, model_.d_model, Part::kRouter);
    const size_t first = families_.size();
    ffn("mlp.experts.0.", moe.expert_intermediate_size, Part::kRoutedExperts);
    for (size_t i = first; i < families_.size(); ++i) {
      families_[i].copies = moe.num_experts;
      families_[i].tensor.expert = 0;
      families_[i].tensor.group = ParamGroup::kExpert;
    }
    if (moe.num_shared_experts > 0) {
      ffn("mlp.shared_experts.", moe.num_shared_experts * moe.expert_intermediate_size,
          Part::kSharedExperts);
    }
  }

  void layer(int64_t index) {
    layer_ = index;
    in_mtp_ = index >= model_.num_layers;
    prefix_ = fmt::format("model.layers.{}.", index);
    const int64_t h = model_.d_model;
    if (in_mtp_) {
      norm(prefix_ + "enorm.weight", h);
      norm(prefix_ + "hnorm.weight", h);
      matrix(prefix_ + "eh_proj.weight", h, 2 * h, Part::kMtp);
    }
    norm(prefix_ + "input_layernorm.weight", h);
    attention();
    norm(prefix_ + "post_attention_layernorm.weight", h);
    if (model_.is_moe_layer(index)) {
      moe();
    } else {
      ffn("mlp.", model_.dense_intermediate_size, Part::kDenseFfn);
    }
    if (in_mtp_) norm(prefix_ + "shared_head.norm.weight", h);
    layer_ = -1;
    in_mtp_ = false;
  }

  std::vector<TensorFamily> take() { return std::move(families_); }

 private:
  void push(std::string name, std::vector<int64_t> shape, Part part, InitRule init) {
    TensorInfo t;
    t.name = std::move(name);
    t.shape = std::move(shape);
    t.part = part;
    t.init = init;
    t.weight_decay = part != Part::kNorms;
    t.in_mtp = in_mtp_;
    t.layer = layer_;
    families_.push_back({std::move(t), 1});
  }

  const ModelSpec& model_;
  std::string prefix_;
  int64_t layer_ = -1;
  bool in_mtp_ = false;
  std::vector<TensorFamily> families_;
};

// The list with every family written out: expert by expert, each with its three matrices, as
// Hugging Face orders them.
std::vector<TensorInfo> expand(std::vector<TensorFamily> families) {
  std::vector<TensorInfo> out;
  size_t size = 0;
  for (const TensorFamily& f : families) size += static_cast<size_t>(f.copies);
  out.reserve(size);
  for (size_t i = 0; i < families.size();) {
    size_t end = i + 1;
    if (families[i].tensor.expert >= 0) {
      while (end < families.size() && families[end].tensor.expert >= 0 &&
             families[end].tensor.layer == families[i].tensor.layer) {
        ++end;
      }
    }
    for (int64_t copy = 0; copy < families[i].copies; ++copy) {
      for (size_t j = i; j < end; ++j) {
        TensorInfo t = families[j].tensor;
        if (t.expert >= 0) {
          const size_t at = t.name.find(".experts.0.");
          t.name.replace(at, 11, fmt::format(".experts.{}.", copy));
          t.expert = copy;
        }
        out.push_back(std::move(t));
      }
    }
    i = end;
  }
  return out;
}

}  // namespace

const char* part_name(Part part) {
  switch (part) {
    case Part::kEmbedding:
      return "embedding";
    case Part::kAttention:
      return "attention";
    case Part::kDenseFfn:
      return "dense_ffn";
    case Part::kRoutedExperts:
      return "routed_experts";
    case Part::kSharedExperts:
      return "shared_experts";
    case Part::kRouter:
      return "router";
    case Part::kNorms:
      return "norms";
    case Part::kHead:
      return "head";
    case Part::kMtp:
      return "mtp";
  }
  return "unknown";
}

int64_t TensorInfo::num_elements() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::vector<TensorFamily> model_tensor_families(const ModelSpec& model) {
  Builder builder(model);
  builder.matrix("model.embed_tokens.weight", model.vocab_size, model.d_model, Part::kEmbedding);
  for (int64_t i = 0; i < model.num_layers; ++i) builder.layer(i);
  builder.norm("model.norm.weight", model.d_model);
  if (!model.tie_embeddings) {
    builder.matrix("lm_head.weight", model.vocab_size, model.d_model, Part::kHead);
  }
  for (int64_t d = 0; d < model.mtp_layers; ++d) builder.layer(model.num_layers + d);
  return builder.take();
}

std::vector<TensorInfo> model_tensors(const ModelSpec& model) {
  return expand(model_tensor_families(model));
}

std::vector<TensorInfo> layer_tensors(const ModelSpec& model, int64_t layer) {
  DSV3_CHECK(layer >= 0 && layer < model.num_layers + model.mtp_layers);
  Builder builder(model);
  builder.layer(layer);
  return expand(builder.take());
}

std::vector<TensorInfo> model_buffers(const ModelSpec& model) {
  std::vector<TensorInfo> out;
  if (!model.moe.use_aux_loss_free) return out;
  for (int64_t i = 0; i < model.num_layers + model.mtp_layers; ++i) {
    if (!model.is_moe_layer(i)) continue;
    TensorInfo t;
    t.name = fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", i);
    t.shape = {model.moe.num_experts};
    t.part = Part::kRouter;
    t.init = InitRule::kZeros;
    t.weight_decay = false;
    t.in_mtp = i >= model.num_layers;
    t.layer = i;
    out.push_back(std::move(t));
  }
  return out;
}

}  // namespace dsv3::spec
