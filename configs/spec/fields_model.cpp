// Keys of the architecture: `model`, `model.mla`, `model.moe`. To add a key: a member in
// job_spec.h, an entry here (or in fields_run.cpp), a test; the rest follows.
#include "configs/spec/field_entry.h"

namespace dsv3::spec {
namespace {

using K = AliasKind;

const std::vector<Entry> kModel = {
    AT(model.name)
        .doc("Name of the model; \"15b\" in it is read as its size label. Default: the "
             "file's name."),
    AT(model.vocab_size)
        .names("vocab_size", "--vocab-size", "")
        .required()
        .range(2, 1 << 24)
        .unit("tokens")
        .hf("129280")
        .bare({"vocab_size", "padded_vocab_size"})
        .doc("Rows of the embedding table and of the head."),
    AT(model.num_layers)
        .names("num_hidden_layers", "--num-layers", "")
        .required()
        .range(1, 1024)
        .unit("layers")
        .hf("61")
        .bare({"num_hidden_layers", "num_layers"})
        .doc("Transformer layers, dense and MoE, without MTP modules."),
    AT(model.d_model)
        .names("hidden_size", "--hidden-size", "")
        .required()
        .range(1, 65536)
        .hf("7168")
        .bare({"hidden_size", "d_model"})
        .also({{"model.mla.d_model"}})
        .doc("Width of the residual stream."),
    AT(model.num_heads)
        .names("num_attention_heads", "--num-attention-heads", "")
        .required()
        .range(1, 4096)
        .unit("heads")
        .hf("128")
        .bare({"num_attention_heads", "num_heads"})
        .also({{"model.mla.num_heads"}})
        .doc("Attention heads."),
    AT(model.num_key_value_heads)
        .names("num_key_value_heads", "--num-query-groups", "")
        .range(1, 4096)
        .unit("heads")
        .bare({"num_key_value_heads", "num_kv_heads"})
        .also({{"model.mla.num_key_value_heads"}})
        .doc("Accepted because Hugging Face writes it; MLA has no key/value heads of its "
             "own, so it must equal num_heads."),
    AT(model.dense_intermediate_size)
        .names("intermediate_size", "--ffn-hidden-size", "")
        .range(0, 1 << 20)
        .hf("18432")
        .bare({"intermediate_size", "ffn_hidden_size"})
        .doc("Width of the feed-forward of dense layers (needed when first_k_dense > 0 or "
             "there are no experts)."),
    AT(model.max_context_length)
        .names("max_position_embeddings", "--max-position-embeddings", "")
        .range(1, 1 << 24)
        .unit("tokens")
        .absent("4096")
        .kilo()
        .hf("4096")
        .bare({"max_position_embeddings"})
        .also({{"model.mla.max_context_length"}})
        .doc("Longest sequence the model is meant for, after YaRN; \"128K\" means 131072."),
    AT(model.tie_embeddings)
        .names("tie_word_embeddings", "--untie-embeddings-and-output-weights (the opposite)", "")
        .hf("false")
        .bare({"tie_word_embeddings"})
        .doc("The head is the embedding table."),
    AT(model.mtp_layers)
        .names("num_nextn_predict_layers", "--mtp-num-layers", "")
        .range(0, 8)
        .unit("modules")
        .bare({"num_nextn_predict_layers", "mtp_num_layers"})
        .doc("Multi-token-prediction modules (layers num_layers, num_layers + 1, …)."),
    AT(model.mtp_loss_weight)
        .names("", "--mtp-loss-scaling-factor", "")
        .range(0, 10)
        .bare({"mtp_loss_scaling_factor"})
        .doc("Weight of the mean MTP loss."),
    AT(model.rms_norm_eps)
        .names("rms_norm_eps", "--norm-epsilon", "")
        .above(0, 1)
        .hf("1e-6")
        .bare({"rms_norm_eps"})
        .doc("Epsilon of the RMSNorms, except the two of the latents: 1e-6, as in DeepSeek's "
             "code."),
    AT(model.init_std)
        .names("initializer_range", "--init-method-std", "")
        .above(0, 10)
        .hf("0.02")
        .bare({"initializer_range", "init_method_std"})
        .doc("Standard deviation of every matrix's normal initialisation; not scaled by "
             "depth (DeepSeek-V3: 0.006)."),
};

const std::vector<Entry> kMla = {
    AT(model.mla.kv_lora_rank)
        .names("kv_lora_rank", "--kv-lora-rank", "")
        .range(0, 65536)
        .nullable()
        .hf("512")
        .bare({"kv_lora_rank"})
        .also({{"model.mla.d_latent"}, {"model.d_latent"}, {"lora_config.kv_rank"}})
        .doc("Rank of the key/value latent, which is what a cache would hold (DeepSeek-V3: "
             "512). Required."),
    AT(model.mla.q_lora_rank)
        .names("q_lora_rank", "--q-lora-rank", "")
        .range(1, 65536)
        .hf("1536")
        .bare({"q_lora_rank"})
        .also({{"model.mla.q_rank"}, {"lora_config.q_rank"}})
        .doc("Rank of the query latent; null: one direct projection."),
    AT(model.mla.qk_nope_head_dim)
        .names("qk_nope_head_dim", "--qk-head-dim (here the whole head has that name)", "")
        .range(0, 1024)
        .hf("128")
        .bare({"qk_nope_head_dim"})
        .also({{"model.mla.qk_nope"}})
        .doc("Part of a query/key head without position."),
    AT(model.mla.qk_rope_head_dim)
        .names("qk_rope_head_dim", "--qk-pos-emb-head-dim", "")
        .range(0, 1024)
        .hf("64")
        .bare({"qk_rope_head_dim", "qk_pos_emb_head_dim"})
        .also({{"model.mla.qk_rope"}})
        .doc("Part of a query/key head with rotary position (even; 0: none)."),
    AT(model.mla.v_head_dim)
        .names("v_head_dim", "--v-head-dim", "")
        .range(1, 1024)
        .hf("128")
        .bare({"v_head_dim"})
        .also({{"model.mla.v"}})
        .doc("Width of a value head."),
    AT(model.mla.rope_theta)
        .names("rope_theta", "--rotary-base", "")
        .above(1, 1e12)
        .hf("10000")
        .bare({"rope_theta", "rotary_base"})
        .also({{"rope_parameters.rope_theta"}})
        .doc("Base of the rotary frequencies."),
    AT(model.mla.rope_scaling.type)
        .names("rope_scaling.type", "--rope-type (yarn)", "")
        .choices({"none", "yarn"})
        .nullable()
        .also({{"rope_scaling.type"},
               {"rope_scaling.rope_type"},
               {"rope_parameters.rope_type"},
               {"rope_parameters.type"}})
        .doc("How the context is stretched beyond original_max_position (Hugging Face's "
             "\"default\" is none)."),
    AT(model.mla.rope_scaling.factor)
        .names("rope_scaling.factor", "--rotary-scaling-factor", "")
        .range(1, 1e6)
        .also({{"rope_scaling.factor"}, {"rope_parameters.factor"}})
        .doc("YaRN: context length over original_max_position."),
    AT(model.mla.rope_scaling.original_max_position)
        .names("rope_scaling.original_max_position_embeddings",
               "--original-max-position-embeddings", "")
        .range(1, 1 << 24)
        .unit("tokens")
        .also({{"rope_scaling.original_max_position_embeddings"},
               {"rope_parameters.original_max_position_embeddings"},
               {"model.mla.rope_scaling.original_max_position_embeddings"}})
        .doc("YaRN: context length the frequencies were made for."),
    AT(model.mla.rope_scaling.beta_fast)
        .names("rope_scaling.beta_fast", "--beta-fast", "")
        .above(0, 1e6)
        .also({{"rope_scaling.beta_fast"}, {"rope_parameters.beta_fast"}})
        .doc("YaRN: rotations above which a frequency is kept."),
    AT(model.mla.rope_scaling.beta_slow)
        .names("rope_scaling.beta_slow", "--beta-slow", "")
        .above(0, 1e6)
        .also({{"rope_scaling.beta_slow"}, {"rope_parameters.beta_slow"}})
        .doc("YaRN: rotations below which a frequency is divided by factor."),
    AT(model.mla.rope_scaling.mscale)
        .names("rope_scaling.mscale", "--mscale", "")
        .range(0, 100)
        .also({{"rope_scaling.mscale"}, {"rope_parameters.mscale"}})
        .doc("YaRN: scale of cos and sin, over that of mscale_all_dim."),
    AT(model.mla.rope_scaling.mscale_all_dim)
        .names("rope_scaling.mscale_all_dim", "--mscale-all-dim", "")
        .range(0, 100)
        .also({{"rope_scaling.mscale_all_dim"}, {"rope_parameters.mscale_all_dim"}})
        .doc("YaRN: its mscale, squared, goes into the softmax scale; 0: neither."),
    AT(model.mla.use_flash_mla)
        .bare({"use_flash_mla"})
        .doc("Ask for the FlashMLA kernels (sm_90 and newer)."),
    AT(model.mla.use_fp8_kv)
        .bare({"use_fp8_kv"})
        .doc("FP8 key/value cache: for serving; training keeps no cache and ignores it."),
};

const std::vector<Entry> kMoe = {
    AT(model.moe.num_experts)
        .names("n_routed_experts", "--num-experts", "")
        .range(0, 4096)
        .unit("experts")
        .hf("256")
        .bare({"n_routed_experts", "num_experts"})
        .also({{"moe_config.n_experts"}})
        .doc("Routed experts of an MoE layer; 0: every layer is dense."),
    AT(model.moe.num_experts_per_token)
        .names("num_experts_per_tok", "--moe-router-topk", "")
        .range(0, 4096)
        .unit("experts")
        .hf("8")
        .bare({"num_experts_per_tok", "num_experts_per_token", "moe_router_topk"})
        .also({{"moe_config.n_active"}})
        .doc("Experts that see a token (top-k)."),
    AT(model.moe.expert_intermediate_size)
        .names("moe_intermediate_size", "--moe-ffn-hidden-size", "")
        .range(0, 262144)
        .hf("2048")
        .bare({"moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size"})
        .also({{"moe_config.expert_size"}})
        .doc("Width of one expert's feed-forward."),
    AT(model.moe.num_shared_experts)
        .names("n_shared_experts", "--moe-shared-expert-intermediate-size (their width together)",
               "")
        .range(0, 256)
        .unit("experts")
        .nullable()
        .hf("1")
        .bare({"n_shared_experts", "num_shared_experts"})
        .doc("Experts that see every token; built as one feed-forward of that many widths."),
    AT(model.moe.first_k_dense)
        .names("first_k_dense_replace", "--moe-layer-freq (a list)", "")
        .range(0, 1024)
        .unit("layers")
        .hf("3")
        .bare({"first_k_dense_replace"})
        .doc("First layers that are dense."),
    AT(model.moe.moe_layers)
        .names("", "--moe-layer-freq (a list)", "")
        .range(0, 1024)
        .unit("layers")
        .bare({"moe_layers"})
        .doc("Number of MoE layers, if you want it checked: num_layers − first_k_dense. A "
             "list of layer indices is accepted "
             "when it is the last layers."),
    AT(model.moe.n_group)
        .names("n_group", "--moe-router-num-groups", "")
        .range(1, 4096)
        .unit("groups")
        .nullable()
        .hf("8")
        .bare({"n_group", "moe_router_num_groups"})
        .doc("Groups the experts are in for group-limited routing; 1: no limit."),
    AT(model.moe.topk_group)
        .names("topk_group", "--moe-router-group-topk", "")
        .range(1, 4096)
        .unit("groups")
        .nullable()
        .hf("4")
        .bare({"topk_group", "moe_router_group_topk"})
        .doc("Groups a token may choose from."),
    AT(model.moe.score_function)
        .names("scoring_func", "--moe-router-score-function", "")
        .choices({"sigmoid", "softmax"})
        .bare({"scoring_func", "moe_router_score_function"})
        .also({{"model.moe.score_func"}})
        .doc("Router scores: sigmoid (V3) or softmax (V2)."),
    AT(model.moe.norm_topk_prob)
        .names("norm_topk_prob", "", "")
        .hf("true")
        .bare({"norm_topk_prob"})
        .doc("Divide the chosen experts' weights by their sum."),
    AT(model.moe.routed_scaling_factor)
        .names("routed_scaling_factor", "--moe-router-topk-scaling-factor", "")
        .above(0, 1e6)
        .hf("2.5")
        .bare({"routed_scaling_factor", "moe_router_topk_scaling_factor"})
        .doc("Factor on the routed experts' output."),
    AT(model.moe.allow_uneven_groups)
        .doc("Warn, instead of refusing, when top-k is not a multiple of topk_group."),
    AT(model.moe.use_aux_loss_free)
        .names("topk_method (noaux_tc)", "--moe-router-enable-expert-bias", "")
        .also({{"topk_method", K::kTopkMethod},
               {"e_score_correction_bias"},
               {"moe_router_enable_expert_bias"}})
        .doc("Balance with a bias on the choice of experts that follows their load, not with "
             "a loss."),
    AT(model.moe.bias_update_rate)
        .names("", "--moe-router-bias-update-rate", "")
        .range(0, 1)
        .bare({"moe_router_bias_update_rate"})
        .doc("Step of that bias: bias += rate · sign(mean − count)."),
    AT(model.moe.router_aux_loss_weight)
        .names("aux_loss_alpha", "--moe-aux-loss-coeff", "")
        .range(0, 10)
        .bare({"aux_loss_alpha", "moe_aux_loss_coeff", "aux_loss_weight"})
        .also({{"moe_config.aux_loss_weight"}})
        .doc("Weight of the sequence-wise balance loss (with the bias: 1e-4 as in "
             "DeepSeek-V3, or 0)."),
    AT(model.moe.router_z_loss_weight)
        .names("", "--moe-z-loss-coeff", "")
        .range(0, 10)
        .bare({"router_z_loss_weight", "moe_z_loss_coeff"})
        .doc("Weight of the router's z-loss, mean of (log Σ exp logits)²."),
    AT(model.moe.capacity_factor)
        .names("", "--moe-expert-capacity-factor", "")
        .above(0, 1000)
        .bare({"moe_expert_capacity_factor", "expert_capacity_factor"})
        .doc("Tokens an expert takes from a sequence, over the mean; more are dropped. null: "
             "dropless."),
    AT(model.moe.use_deep_ep)
        .names("", "--moe-enable-deepep", "")
        .bare({"use_deep_ep"})
        .doc("Ask for the DeepEP all-to-all (sm_90 and newer)."),
    AT(model.moe.deep_ep_fp8).doc("DeepEP sends activations in FP8."),
};

}  // namespace

void append_model_fields(std::vector<Field>& table) {
  for (const Entry& e : kModel) table.push_back(e.f);
  for (const Entry& e : kMla) table.push_back(e.f);
  for (const Entry& e : kMoe) table.push_back(e.f);
}

}  // namespace dsv3::spec
