// The tensor list against names and shapes written out by hand from Hugging Face's modeling file.
#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "configs/spec/counts.h"
#include "configs/spec/model_tensors.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

// 2 layers (one dense), 2 experts, 1 shared, 1 MTP module; h 8, 2 heads of 4 + 2 / 3, ranks q 6,
// kv 5.
ModelSpec tiny() {
  ModelSpec m;
  m.vocab_size = 10;
  m.num_layers = 2;
  m.d_model = 8;
  m.num_heads = 2;
  m.dense_intermediate_size = 12;
  m.mtp_layers = 1;
  m.mla.kv_lora_rank = 5;
  m.mla.q_lora_rank = 6;
  m.mla.qk_nope_head_dim = 4;
  m.mla.qk_rope_head_dim = 2;
  m.mla.v_head_dim = 3;
  m.moe.num_experts = 2;
  m.moe.num_experts_per_token = 1;
  m.moe.expert_intermediate_size = 7;
  m.moe.num_shared_experts = 2;
  m.moe.first_k_dense = 1;
  return m;
}

using NameAndShape = std::pair<std::string, std::vector<int64_t>>;

std::vector<NameAndShape> attention(const std::string& p) {
  return {{p + "input_layernorm.weight", {8}},
          {p + "self_attn.q_a_proj.weight", {6, 8}},
          {p + "self_attn.q_a_layernorm.weight", {6}},
          {p + "self_attn.q_b_proj.weight", {12, 6}},
          {p + "self_attn.kv_a_proj_with_mqa.weight", {7, 8}},
          {p + "self_attn.kv_a_layernorm.weight", {5}},
          {p + "self_attn.kv_b_proj.weight", {14, 5}},
          {p + "self_attn.o_proj.weight", {8, 6}},
          {p + "post_attention_layernorm.weight", {8}}};
}

std::vector<NameAndShape> ffn(const std::string& p, int64_t width) {
  return {{p + "gate_proj.weight", {width, 8}},
          {p + "up_proj.weight", {width, 8}},
          {p + "down_proj.weight", {8, width}}};
}

TEST(ModelTensors, NamesAndShapesAreHuggingFaces) {
  std::vector<NameAndShape> want = {{"model.embed_tokens.weight", {10, 8}}};
  const auto append = [&](const std::vector<NameAndShape>& more) {
    want.insert(want.end(), more.begin(), more.end());
  };
  const auto moe = [&](const std::string& p) {
    append({{p + "mlp.gate.weight", {2, 8}}});
    append(ffn(p + "mlp.experts.0.", 7));
    append(ffn(p + "mlp.experts.1.", 7));
    append(ffn(p + "mlp.shared_experts.", 14));
  };
  append(attention("model.layers.0."));
  append(ffn("model.layers.0.mlp.", 12));
  append(attention("model.layers.1."));
  moe("model.layers.1.");
  append({{"model.norm.weight", {8}}, {"lm_head.weight", {10, 8}}});
  append({{"model.layers.2.enorm.weight", {8}},
          {"model.layers.2.hnorm.weight", {8}},
          {"model.layers.2.eh_proj.weight", {8, 16}}});
  append(attention("model.layers.2."));
  moe("model.layers.2.");
  append({{"model.layers.2.shared_head.norm.weight", {8}}});

  std::vector<NameAndShape> got;
  for (const TensorInfo& t : model_tensors(tiny())) got.emplace_back(t.name, t.shape);
  EXPECT_EQ(got, want);
}

TEST(ModelTensors, AttributesFollowThePart) {
  for (const TensorInfo& t : model_tensors(tiny())) {
    const bool norm = t.shape.size() == 1;
    EXPECT_EQ(t.part == Part::kNorms, norm) << t.name;
    EXPECT_EQ(t.weight_decay, !norm) << t.name;
    EXPECT_EQ(t.init == InitRule::kOnes, norm) << t.name;
    const bool expert = t.name.find(".experts.") != std::string::npos;
    EXPECT_EQ(t.group == ParamGroup::kExpert, expert) << t.name;
    EXPECT_EQ(t.expert >= 0, expert) << t.name;
    EXPECT_EQ(t.in_mtp, t.name.starts_with("model.layers.2.")) << t.name;
    EXPECT_EQ(t.layer >= 0, t.name.starts_with("model.layers.")) << t.name;
    if (expert) {
      EXPECT_NE(t.name.find(".experts." + std::to_string(t.expert) + "."), std::string::npos);
    }
  }
}

TEST(ModelTensors, VariantsOfTheArchitecture) {
  ModelSpec m = tiny();
  m.mla.q_lora_rank.reset();
  m.tie_embeddings = true;
  m.moe.num_shared_experts = 0;
  std::set<std::string> names;
  for (const TensorInfo& t : model_tensors(m)) names.insert(t.name);
  EXPECT_EQ(names.count("model.layers.0.self_attn.q_proj.weight"), 1u);
  EXPECT_EQ(names.count("model.layers.0.self_attn.q_a_proj.weight"), 0u);
  EXPECT_EQ(names.count("lm_head.weight"), 0u);
  EXPECT_EQ(names.count("model.layers.1.mlp.shared_experts.up_proj.weight"), 0u);
  m.moe.num_experts = 0;  // dense everywhere, MTP too
  for (const TensorInfo& t : model_tensors(m)) EXPECT_NE(t.part, Part::kRoutedExperts);
  EXPECT_TRUE(model_buffers(m).empty());
}

TEST(ModelTensors, BuffersAreTheRoutersBiases) {
  const std::vector<TensorInfo> b = model_buffers(tiny());
  ASSERT_EQ(b.size(), 2u);
  EXPECT_EQ(b[0].name, "model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(b[1].name, "model.layers.2.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(b[0].shape, (std::vector<int64_t>{2}));
  ModelSpec m = tiny();
  m.moe.use_aux_loss_free = false;
  EXPECT_TRUE(model_buffers(m).empty());
}

TEST(ModelTensors, LayersTogetherAreTheModel) {
  const ModelSpec m = tiny();
  std::multiset<std::string> whole,
      parts = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
  for (const TensorInfo& t : model_tensors(m)) whole.insert(t.name);
  for (int64_t i = 0; i < 3; ++i) {
    for (const TensorInfo& t : layer_tensors(m, i)) parts.insert(t.name);
  }
  EXPECT_EQ(whole, parts);
}

TEST(Counts, PartsSumToTheTotalAndToTheTensors) {
  for (const char* name : {"demo", "small", "10b", "671b"}) {
    const Result<Parsed> p = load(name);
    ASSERT_TRUE(p.ok() && p->ok()) << name;
    const ParamCounts c = count_params(p->job.model);
    int64_t parts = 0, main = 0, mtp = 0;
    for (int64_t n : c.by_part) parts += n;
    for (const TensorInfo& t : model_tensors(p->job.model))
      (t.in_mtp ? mtp : main) += t.num_elements();
    EXPECT_EQ(parts, c.total + c.mtp) << name;
    EXPECT_EQ(main, c.total) << name;
    EXPECT_EQ(mtp, c.mtp) << name;
  }
}

TEST(Counts, FlopsWithoutExpertsOrLatentQueryAreTheTextbooks) {
  ModelSpec m = tiny();
  m.moe.num_experts = 0;
  m.mtp_layers = 0;
  m.mla.q_lora_rank.reset();
  // Per token: q 8·12, kv_a 8·7, kv_b 5·14, o 6·8, ffn 3·8·12 in 2 layers, head 10·8; core
  // 2·2·(6+3)·(S+1)/2 with S = 7.
  const double weights = 2 * (96 + 56 + 70 + 48 + 288) + 80;
  EXPECT_EQ(flops_per_token(m, 7).total, 6 * (weights + 2 * 2 * 9 * 8 / 2.0));
  EXPECT_EQ(flops_per_token(m, 7).total_with_mtp, flops_per_token(m, 7).total);
  m.tie_embeddings = true;  // the head's product is done all the same
  EXPECT_EQ(flops_per_token(m, 7).total, 6 * (weights + 2 * 2 * 9 * 8 / 2.0));
}

}  // namespace
}  // namespace dsv3::spec
