"""The cases of the golden fixtures: each is a small model that differs from the base in what its name says.

The base is sigmoid-routed, with q_lora, one dense and one MoE layer. `case(...)` takes overrides for the sections of the
dsv3ctl YAML; whatever is not a key of `model`, `mla` or `moe` is an instruction to make_fixtures.py (see `Case`).
"""

from dataclasses import dataclass, field

MODEL = dict(
    vocab_size=67, num_layers=2, d_model=24, num_heads=2, dense_intermediate_size=40, max_context_length=64,
    tie_embeddings=False, mtp_layers=0, mtp_loss_weight=0.3, rms_norm_eps=1e-6, init_std=0.02,
)  # fmt: skip
MLA = dict(
    kv_lora_rank=12, q_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, rope_theta=10000.0,
    use_flash_mla=False, use_fp8_kv=False,
)  # fmt: skip
MOE = dict(
    num_experts=8, num_experts_per_token=2, expert_intermediate_size=8, num_shared_experts=1, first_k_dense=1,
    n_group=1, topk_group=1, score_function="sigmoid", norm_topk_prob=True, routed_scaling_factor=1.0,
    allow_uneven_groups=False, use_aux_loss_free=True, bias_update_rate=0.001, router_aux_loss_weight=0.0,
    router_z_loss_weight=0.0, capacity_factor=None, use_deep_ep=False, deep_ep_fp8=False,
)  # fmt: skip
GROUPS = dict(num_experts=12, n_group=4, topk_group=2, num_experts_per_token=3, routed_scaling_factor=2.5)
SOFTMAX = dict(score_function="softmax", norm_topk_prob=False, use_aux_loss_free=False)


@dataclass
class Case:
    name: str
    about: str
    model: dict  # the `model` section of the YAML
    seq_length: int = 13
    batch: int = 2
    bias_mean: float = 0.0  # the routers' biases are drawn around it
    starved: list[int] = field(default_factory=list)  # experts whose bias is so low that no token chooses them
    fill_matters: bool = False  # masking the groups not kept with 0.0 would have to choose other experts
    architecture: str = "v3"  # which of transformers' models has this router: DeepseekV3 or DeepseekV2


def case(name, about, model=None, mla=None, moe=None, **rest):
    sections = {"mla": MLA | (mla or {}), "moe": MOE | (moe or {})}
    return Case(name, about, {"name": "golden-" + name.replace("_", "-")} | MODEL | (model or {}) | sections, **rest)


def yarn(factor, original, mscale, mscale_all_dim, beta_fast=32.0, beta_slow=1.0):
    return dict(
        type="yarn", factor=factor, original_max_position=original, beta_fast=beta_fast, beta_slow=beta_slow,
        mscale=mscale, mscale_all_dim=mscale_all_dim,
    )  # fmt: skip


CASES = [
    case("base", "q_lora on, one group, sigmoid router with a bias"),
    case("q_direct", "no q_lora; weights of the chosen experts not normalised, scaled by 1.5",
         mla=dict(q_lora_rank=None), moe=dict(norm_topk_prob=False, routed_scaling_factor=1.5)),
    case("groups", "4 groups of 3 experts, 2 kept; expert 4 gets no token", moe=GROUPS, starved=[4]),
    case("negative_bias", "as groups, but every biased score is negative: -inf and 0.0 masking choose differently",
         moe=GROUPS, bias_mean=-3.0, fill_matters=True),
    case("yarn", "YaRN whose ramp lies inside the rope dimensions; mscale differs from mscale_all_dim",
         model=dict(max_context_length=256), seq_length=37,
         mla=dict(qk_rope_head_dim=12, rope_theta=50.0,
                  rope_scaling=yarn(4.0, 64, 1.0, 0.707, beta_fast=4.0))),
    case("yarn_plain_mscale", "YaRN with mscale_all_dim 0: cos and sin are scaled, the softmax scale is not",
         model=dict(max_context_length=128), seq_length=19,
         mla=dict(qk_rope_head_dim=8, rope_scaling=yarn(8.0, 16, 1.0, 0.0))),
    case("odd_sizes", "sizes that divide by nothing", seq_length=13,
         model=dict(d_model=40, num_heads=3, vocab_size=131, dense_intermediate_size=37, num_layers=2),
         mla=dict(q_lora_rank=17, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=14),
         moe=dict(num_experts=7, num_experts_per_token=3, expert_intermediate_size=12)),
    case("softmax_groups", "DeepSeek-V2: softmax router, 4 groups of 3, 2 kept, group score = its best; 2 shared; YaRN",
         model=dict(max_context_length=640),
         mla=dict(rope_scaling=yarn(40.0, 16, 0.707, 0.707)), architecture="v2",
         moe=GROUPS | SOFTMAX | dict(routed_scaling_factor=1.7, num_shared_experts=2)),
    case("softmax_balance", "DeepSeek-V2-Lite: softmax router without groups or q_lora; auxiliary and z-loss",
         mla=dict(q_lora_rank=None), architecture="v2",
         moe=SOFTMAX | dict(router_aux_loss_weight=0.05, router_z_loss_weight=0.01)),
    case("balance", "sigmoid router, two MoE layers, sequence-wise auxiliary loss and z-loss",
         model=dict(num_layers=3),
         moe=dict(router_aux_loss_weight=0.05, router_z_loss_weight=0.01, num_experts_per_token=3)),
    case("mtp1", "one MTP module", model=dict(mtp_layers=1)),
    case("mtp2", "two MTP modules, groups, auxiliary and z-loss, loss weight 0.1",
         model=dict(mtp_layers=2, mtp_loss_weight=0.1),
         moe=GROUPS | dict(expert_intermediate_size=4, router_aux_loss_weight=0.02, router_z_loss_weight=0.005)),
    case("tied", "the head is the embedding; one MTP module uses both", model=dict(tie_embeddings=True, mtp_layers=1)),
    case("rope0", "no rotary part; one head", model=dict(num_heads=1), mla=dict(qk_rope_head_dim=0)),
    case("nope0", "all of the key is rotary", mla=dict(qk_nope_head_dim=0, qk_rope_head_dim=10)),
    case("no_shared", "no shared expert, one expert per token, its weight not normalised",
         moe=dict(num_shared_experts=0, num_experts_per_token=1, norm_topk_prob=False, routed_scaling_factor=1.5)),
    case("all_moe", "no dense layer, every expert chosen",
         moe=dict(first_k_dense=0, num_experts=4, num_experts_per_token=4)),
    case("all_dense", "no MoE layer", moe=dict(first_k_dense=2)),
    case("latent_eps", "rms_norm_eps 0.05: the norms of the two latents keep 1e-6", model=dict(rms_norm_eps=0.05, mtp_layers=1)),
]  # fmt: skip
