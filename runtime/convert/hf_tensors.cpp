// See hf_tensors.h.
#include "runtime/convert/hf_tensors.h"

#include <fmt/format.h>

#include "configs/spec/model_tensors.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kRouter = "mlp.gate.weight";

std::string head_name(const spec::ModelSpec& model) {
  return model.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

HfTensor bias_of(const spec::ModelSpec& model, const std::string& router) {
  HfTensor bias;
  bias.name = router.substr(0, router.size() - std::string_view("weight").size()) +
              "e_score_correction_bias";
  bias.shape = {model.moe.num_experts};
  if (model.moe.use_aux_loss_free) bias.source = bias.name;
  bias.is_buffer = true;
  return bias;
}

void add_empty_shared_experts(const spec::ModelSpec& model, const std::string& router,
                              std::vector<HfTensor>* out) {
  const std::string prefix =
      router.substr(0, router.size() - kRouter.size()) + "mlp.shared_experts.";
  out->push_back({prefix + "gate_proj.weight", {0, model.d_model}, ""});
  out->push_back({prefix + "up_proj.weight", {0, model.d_model}, ""});
  out->push_back({prefix + "down_proj.weight", {model.d_model, 0}, ""});
}

}  // namespace

int64_t HfTensor::num_elements() const {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

std::vector<SharedCopy> shared_copies(const spec::ModelSpec& model) {
  std::vector<SharedCopy> copies;
  if (model.tie_embeddings) copies.push_back({"lm_head.weight", head_name(model)});
  for (int64_t depth = 0; depth < model.mtp_layers; ++depth) {
    const std::string prefix = fmt::format("model.layers.{}.", model.num_layers + depth);
    copies.push_back({prefix + "embed_tokens.weight", "model.embed_tokens.weight"});
    copies.push_back({prefix + "shared_head.head.weight", head_name(model)});
  }
  return copies;
}

std::vector<HfTensor> export_tensors(const spec::ModelSpec& model) {
  std::vector<HfTensor> out;
  for (const spec::TensorInfo& info : spec::model_tensors(model)) {
    out.push_back({info.name, info.shape, info.name});
    if (!info.name.ends_with(kRouter)) continue;
    if (model.moe.score_function == "sigmoid") out.push_back(bias_of(model, info.name));
    if (model.moe.num_shared_experts == 0) add_empty_shared_experts(model, info.name, &out);
  }
  for (const SharedCopy& copy : shared_copies(model)) {
    if (copy.name == "lm_head.weight") continue;  // a tied head has no tensor
    out.push_back({copy.name, {model.vocab_size, model.d_model}, copy.of});
  }
  return out;
}

}  // namespace dsv3::convert
