// See reader.h: what a configuration leaves out, and what follows from what it gives.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "configs/spec/field_value.h"
#include "configs/spec/hf_config.h"
#include "configs/spec/reader.h"

namespace dsv3::spec {

// What the file leaves out: a config.json's own default, or what an absent key means in ours;
// JobSpec's value otherwise.
void Reader::fill_absent() {
  for (const Field& field : field_table()) {
    if (given(field.key)) continue;
    const std::string_view hf = hf_ ? hf_default(field, model_type_) : std::string_view{};
    const std::string_view text = hf.empty() ? field.absent : hf;
    if (!text.empty()) {
      Node node;
      node.text = text;
      std::vector<Diagnostic> none;
      const bool ok = assign(field, AliasKind::kSame, node, p_.job, none);
      DSV3_CHECK(ok, field.key);
    } else if (field.required) {
      error("MISSING_KEY", p_.file, std::string(field.key),
            fmt::format("{} is not given", field.key), std::string(field.doc));
    }
  }
}

// Values that follow from others.
void Reader::derive() {
  ModelSpec& m = p_.job.model;
  TrainingSpec& t = p_.job.training;
  if (!given("model.name")) {
    const std::filesystem::path path(p_.file);
    m.name =
        path.stem() == "config" ? path.parent_path().filename().string() : path.stem().string();
    if (m.name.empty()) m.name = "model";
  }
  const bool stretched = m.mla.rope_scaling.type == "yarn";
  if (hf_ && stretched && m.max_context_length == m.mla.rope_scaling.original_max_position) {
    // Some files give the length before YaRN, DeepSeek's the one after it.
    m.max_context_length =
        static_cast<int64_t>(static_cast<double>(m.max_context_length) * m.mla.rope_scaling.factor);
  }
  if (!given("model.max_context_length") && !hf_ && given("training.seq_length")) {
    m.max_context_length = std::max(m.max_context_length, t.seq_length);
  }
  if (!given("training.seq_length")) t.seq_length = std::min<int64_t>(4096, m.max_context_length);
  derive_batch();
  derive_dtype();
  if (greedy_) m.moe.n_group = m.moe.topk_group = 1;
  if (m.moe.moe_layers && !given("model.moe.first_k_dense")) {
    m.moe.first_k_dense = std::max<int64_t>(0, m.num_layers - *m.moe.moe_layers);
  }
  if (last_moe_layer_ && m.num_layers > 0 && *last_moe_layer_ != m.num_layers - 1) {
    error("MOE_LAYERS_MISMATCH", p_.origins["model.moe.moe_layers"], "model.moe.moe_layers",
          fmt::format("the listed MoE layers end at {}, but the model's last layer is {}",
                      *last_moe_layer_, m.num_layers - 1),
          "MoE layers are the last ones; give first_k_dense instead");
  }
}

// A batch in tokens, over the sequence length.
void Reader::derive_batch() {
  if (!batch_tokens_) return;
  TrainingSpec& t = p_.job.training;
  const int64_t tokens = std::stoll(batch_tokens_->text);
  const auto most = static_cast<int64_t>(find_field("training.global_batch_size")->max);
  t.global_batch_size = std::min(tokens / std::max<int64_t>(1, t.seq_length), most);
  if (tokens > most * std::max<int64_t>(1, t.seq_length)) {
    error("OUT_OF_RANGE", batch_tokens_->where, "training.global_batch_size",
          fmt::format("{} tokens are more than {} sequences of {}", tokens, most, t.seq_length),
          "a smaller batch");
  } else if (t.seq_length > 0 && tokens % t.seq_length != 0) {
    error("OUT_OF_RANGE", batch_tokens_->where, "training.global_batch_size",
          fmt::format("{} tokens are not a whole number of sequences of {}", tokens, t.seq_length),
          fmt::format("use a multiple of {}, for example {}", t.seq_length,
                      (t.global_batch_size + 1) * t.seq_length));
  }
}

// "use_fp8: false" contradicts fp8 of the same layer and takes back that of an earlier one.
void Reader::derive_dtype() {
  if (!no_fp8_ || p_.job.training.dtype != "fp8") return;
  Given& fp8 = given_["training.dtype"];
  if (no_fp8_->layer < fp8.layer) return;
  if (no_fp8_->layer == fp8.layer) {
    error("DUPLICATE_KEY", no_fp8_->where, "training.dtype",
          fmt::format("{} says false, but {} at {} says fp8", no_fp8_->path, fp8.path, fp8.where),
          "both mean training.dtype: keep one");
    return;
  }
  p_.job.training.dtype = "bf16";
  p_.origins["training.dtype"] = no_fp8_->where;
  fp8 = *no_fp8_;
}

// Sizes that are needed only by some models.
void Reader::require_parts() {
  const ModelSpec& m = p_.job.model;
  const auto need = [&](const char* key, int64_t value, const std::string& why) {
    if (value < 1 && !given(key)) {
      error("MISSING_KEY", p_.file, key, fmt::format("{} is not given", key), why);
    }
  };
  if (m.moe.num_experts > 0) {
    const std::string why = fmt::format("needed with num_experts {}", m.moe.num_experts);
    need("model.moe.num_experts_per_token", m.moe.num_experts_per_token, why);
    need("model.moe.expert_intermediate_size", m.moe.expert_intermediate_size, why);
  }
  if (m.num_layers > 0 && (m.moe.num_experts == 0 || m.moe.first_k_dense > 0)) {
    need("model.dense_intermediate_size", m.dense_intermediate_size,
         "the width of the dense layers' feed-forward");
  }
}

void Reader::finish() {
  const bool readable = !has_errors(p_.diagnostics) || !given_.empty();
  if (!readable) return;  // nothing was read: "not given" thirty times would hide why
  fill_absent();
  derive();
  require_parts();
}

}  // namespace dsv3::spec
