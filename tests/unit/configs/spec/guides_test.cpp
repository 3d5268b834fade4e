// The blocks of the guides that users come from: each spelling loads, or is refused with a sentence
// that says what to write.
#include <gtest/gtest.h>

#include "configs/spec/validate.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

// A block laid over a complete configuration.
Parsed over_small(const std::string& yaml) {
  return parse(kSmallYaml, "f.yaml", Format::kYaml,
               {{{"block", "block.yaml", yaml, Format::kYaml}}, {}});
}

TEST(Guides, CustomizationBlocksLoad) {
  const char* const blocks[] = {
      "model:\n  mla: {d_model: 4096, d_latent: 1024, use_fp8_kv: false}\n"
      "  moe: {num_experts: 64, num_experts_per_token: 4}\n"
      "training: {global_batch_size: 2048, micro_batch_size: 1, seq_length: 2048}\n",
      "model:\n  mla: {use_fp8_kv: true, use_flash_mla: true}\n"
      "  moe: {use_deep_ep: true, deep_ep_fp8: true}\n"
      "parallel: {zero_stage: 1, overlap_grad_reduce: true}\ntraining: {use_fp8: true}\n",
      "model:\n  mla: {d_latent: 2048}\n"
      "  moe: {router_aux_loss_weight: 0.01, capacity_factor: 1.25}\n"
      "training: {grad_clip: 0.5, weight_decay: 0.05}\n",
      "training: {micro_batch_size: 1, seq_length: 2048}\nparallel: {zero_stage: 2}\n",
      "moe_config: {n_experts: 8, n_active: 2, expert_size: 512, aux_loss_weight: 0.01}\n",
      "lora_config: {q_rank: 128, kv_rank: 64}\n",
      // train_moe.py's flags
      "{hidden_size: 1024, num_layers: 24, num_heads: 16, num_experts: 8, num_experts_per_token: "
      "2, "
      "batch_size: 128, micro_batch_size: 16, max_steps: 500000, learning_rate: 2e-4, "
      "aux_loss_weight: 0.01, warmup_steps: 10000, mixed_precision: true, grad_clip: 0.5}\n",
      "{num_hidden_layers: 24, num_attention_heads: 32, n_routed_experts: 64, n_shared_experts: 2, "
      "num_experts_per_tok: 4, moe_intermediate_size: 512, first_k_dense_replace: 2, n_group: 4, "
      "topk_group: 2, routed_scaling_factor: 2.0, norm_topk_prob: true, kv_lora_rank: 128, "
      "q_lora_rank: 256, qk_rope_head_dim: 32, qk_nope_head_dim: 64, v_head_dim: 64, "
      "max_position_embeddings: 2048, rope_theta: 10000.0, intermediate_size: 2048}\n",
      "{num_experts: 8, expert_capacity_factor: 1.25, router_z_loss_weight: 0.001}\n",
      "{num_layers: 24, moe_layers: \"20,21,22,23\"}\n"};
  for (const char* block : blocks) {
    const Parsed p = over_small(block);
    EXPECT_TRUE(p.ok()) << block << text_of(p.diagnostics);
  }
}

TEST(Guides, WordsWithoutAKeySayWhatToWrite) {
  const std::pair<const char*, const char*> words[] = {
      {"compile_model: true", "leave it out"},
      {"use_flash_attention: true", "leave it out"},
      {"data_dir: ./processed_data", "data.path"},
      {"log_expert_stats: true", "logging.expert_stats_interval_steps"},
      {"gradient_accumulation_steps: 4", "global_batch_size"},
      {"gradient_checkpointing: true", "parallel.recompute"},
      {"moe_config: {routing: top2}", "num_experts_per_token"},
      {"fp16: {enabled: true}", "bf16"},
      {"training: {expert_dropout: 0.1}", "leave it out"},
      {"deepspeed: ds.json", "--deepspeed"},
      {"total_gpus: 32", "--gpus"}};
  for (const auto& [yaml, says] : words) {
    const Parsed p = over_small(std::string(yaml) + "\n");
    ASSERT_EQ(p.diagnostics.size(), 1u) << yaml << "\n" << text_of(p.diagnostics);
    EXPECT_EQ(p.diagnostics[0].code, "UNKNOWN_KEY") << yaml;
    EXPECT_NE(p.diagnostics[0].hint.find(says), std::string::npos) << to_string(p.diagnostics[0]);
  }
}

// What the guides contradict themselves in is a diagnostic with the fix.
TEST(Guides, ContradictionsAreNamed) {
  const auto codes = [](const char* preset, const std::vector<std::string>& sets) {
    const Result<Parsed> p = load(preset, sets);
    EXPECT_TRUE(p.ok());
    ValidateOptions options;
    options.origins = &p->origins;
    std::string found = " ";
    for (const Diagnostic& d : p->diagnostics) found += d.code + " ";
    for (const Diagnostic& d : validate(p->job, options)) {
      EXPECT_FALSE(d.hint.empty()) << to_string(d);
      found += d.code + " ";
    }
    return found;
  };
  const auto has = [](const std::string& found, const char* code) {
    return found.find(std::string(" ") + code + " ") != std::string::npos;
  };
  // 1: the latent of 1536 is q_lora_rank
  EXPECT_TRUE(has(codes("671b", {"model.d_latent=1536"}), "MLA_LATENT_IS_Q_RANK"));
  // 5: an expert as wide as a dense layer
  EXPECT_TRUE(has(codes("671b", {"expert_intermediate_size=17920"}), "EXPERT_WIDTH_SUSPECT"));
  // 7, 8: groups
  EXPECT_TRUE(
      has(codes("671b", {"n_group=8", "topk_group=3"}), "MOE_TOPK_NOT_DIVISIBLE_BY_TOPK_GROUP"));
  EXPECT_TRUE(has(codes("1b", {"n_group=8", "topk_group=4"}), "MOE_GROUP_TOO_SMALL"));
  // 14: a batch of tokens is no batch of sequences
  EXPECT_TRUE(has(codes("10b", {"training.global_batch_size=1", "parallel.expert_parallel_size=8",
                                "parallel.data_parallel_size=1"}),
                  "GBS_NOT_DIVISIBLE"));
  // 18: a few thousand steps of a small batch
  EXPECT_TRUE(has(codes("20b", {"training.max_steps=1000"}), "FEW_TOKENS"));
  // 21, 22, 23
  EXPECT_TRUE(has(codes("671b", {"aux_loss_weight=0.01"}), "AUX_LOSS_WITH_AUX_FREE"));
  EXPECT_TRUE(has(codes("small", {"num_key_value_heads=4"}), "MLA_KV_HEADS"));
  EXPECT_TRUE(has(codes("small", {"kv_lora_rank=null"}), "MLA_KV_RANK_REQUIRED"));
  EXPECT_TRUE(has(codes("671b", {"training.seq_length=163840"}), "SEQ_GT_MAX_CONTEXT"));
  EXPECT_FALSE(has(codes("671b", {"training.seq_length=128000"}), "SEQ_GT_MAX_CONTEXT"));
}

}  // namespace
}  // namespace dsv3::spec
