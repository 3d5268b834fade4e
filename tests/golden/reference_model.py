"""A DeepSeek-V3-style model in plain PyTorch, written for reading, not for speed.

It is the arbiter of the golden fixtures: make_fixtures.py runs it in double precision, and asserts that Hugging Face
transformers' modules give the same logits, losses and gradients. Its formulas are the ones of README.md beside this
file, and they are normative for the C++ as well. It shares no code with transformers: the experts, for instance, are all
run on all tokens and multiplied by a weight that is zero where an expert was not chosen.

Parameters are a dictionary under Hugging Face's per-expert names; a configuration is the dictionary that a dsv3ctl YAML
file holds (sections `model`, with `mla` and `moe` inside). Axis letters: b batch, s sequence, t tokens (b * s), d model
width, n heads, e experts, k experts per token.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


@dataclass
class Routing:
    """What the router of one MoE layer decided, for the t tokens of the batch."""

    chosen: torch.Tensor  # [t, k] expert indices, ascending
    counts: torch.Tensor  # [e] int64, tokens per expert
    margin: float  # smallest distance between something chosen (expert or group) and something not chosen
    choice_scores: torch.Tensor  # [t, e] scores with the bias, groups not yet masked
    aux_loss: torch.Tensor  # scalar, weighted
    z_loss: torch.Tensor  # scalar, weighted


@dataclass
class Output:
    logits: torch.Tensor  # [b, s, vocab]
    loss: torch.Tensor  # what is differentiated
    lm_loss: torch.Tensor
    aux_loss: torch.Tensor | None = None
    z_loss: torch.Tensor | None = None
    mtp_loss: torch.Tensor | None = None
    mtp_logits: list[torch.Tensor] = field(default_factory=list)  # per depth [b, s, vocab]
    routing: dict[int, Routing] = field(default_factory=dict)  # by layer


def is_moe_layer(model, layer):
    """MTP modules are the layers num_layers, num_layers + 1, … and follow the same rule as the others."""
    return layer >= model["moe"]["first_k_dense"]


def parameter_shapes(model):
    """Hugging Face name -> shape, in the order of the checkpoint; the router's bias is a buffer and is among them."""
    d, mla, moe = model["d_model"], model["mla"], model["moe"]
    shapes = {"model.embed_tokens.weight": (model["vocab_size"], d)}
    for layer in range(model["num_layers"] + model["mtp_layers"]):
        prefix = f"model.layers.{layer}."
        if layer >= model["num_layers"]:
            shapes |= {prefix + "enorm.weight": (d,), prefix + "hnorm.weight": (d,)}
            shapes |= {prefix + "eh_proj.weight": (d, 2 * d), prefix + "shared_head.norm.weight": (d,)}
        shapes |= {prefix + "input_layernorm.weight": (d,), prefix + "post_attention_layernorm.weight": (d,)}
        shapes |= _attention_shapes(prefix + "self_attn.", model["num_heads"], d, mla)
        if not is_moe_layer(model, layer):
            shapes |= _mlp_shapes(prefix + "mlp.", d, model["dense_intermediate_size"])
            continue
        shapes[prefix + "mlp.gate.weight"] = (moe["num_experts"], d)
        if moe["use_aux_loss_free"]:
            shapes[prefix + "mlp.gate.e_score_correction_bias"] = (moe["num_experts"],)
        width = moe["expert_intermediate_size"]
        for expert in range(moe["num_experts"]):
            shapes |= _mlp_shapes(f"{prefix}mlp.experts.{expert}.", d, width)
        if moe["num_shared_experts"]:
            shapes |= _mlp_shapes(prefix + "mlp.shared_experts.", d, width * moe["num_shared_experts"])
    shapes["model.norm.weight"] = (d,)
    if not model["tie_embeddings"]:
        shapes["lm_head.weight"] = (model["vocab_size"], d)
    return shapes


def _attention_shapes(prefix, heads, d, mla):
    nope, rope, v = mla["qk_nope_head_dim"], mla["qk_rope_head_dim"], mla["v_head_dim"]
    q_rank, kv_rank = mla["q_lora_rank"], mla["kv_lora_rank"]
    if q_rank is None:
        shapes = {"q_proj.weight": (heads * (nope + rope), d)}
    else:
        shapes = {"q_a_proj.weight": (q_rank, d), "q_a_layernorm.weight": (q_rank,)}
        shapes["q_b_proj.weight"] = (heads * (nope + rope), q_rank)
    shapes["kv_a_proj_with_mqa.weight"] = (kv_rank + rope, d)
    shapes["kv_a_layernorm.weight"] = (kv_rank,)
    shapes["kv_b_proj.weight"] = (heads * (nope + v), kv_rank)
    shapes["o_proj.weight"] = (d, heads * v)
    return {prefix + name: shape for name, shape in shapes.items()}


def _mlp_shapes(prefix, d, width):
    names = {"gate_proj": (width, d), "up_proj": (width, d), "down_proj": (d, width)}
    return {f"{prefix}{name}.weight": shape for name, shape in names.items()}


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def swiglu(params, prefix, x):
    gate, up = x @ params[prefix + "gate_proj.weight"].T, x @ params[prefix + "up_proj.weight"].T
    return (F.silu(gate) * up) @ params[prefix + "down_proj.weight"].T


def yarn_mscale(factor, mscale):
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_frequencies(mla):
    """Angle per position of each pair of dimensions [rope / 2] (float64), and the factor on cos and sin."""
    dim, theta, yarn = mla["qk_rope_head_dim"], mla["rope_theta"], mla.get("rope_scaling")
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / max(dim, 1))
    if yarn is None:
        return frequencies, 1.0

    def pair_that_turns(turns):  # the (fractional) pair that turns so often within the original context
        return dim * math.log(yarn["original_max_position"] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(yarn["beta_fast"])), 0)
    high = min(math.ceil(pair_that_turns(yarn["beta_slow"])), dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float64) - low) / ((high - low) or 0.001)
    interpolated = ramp.clamp(0, 1)  # 0: the pair is left as it is; 1: its positions are divided by the factor
    frequencies = frequencies * (1 - interpolated) + frequencies / yarn["factor"] * interpolated
    mscale, mscale_all_dim = yarn["mscale"], yarn["mscale_all_dim"]
    if mscale and mscale_all_dim:
        return frequencies, yarn_mscale(yarn["factor"], mscale) / yarn_mscale(yarn["factor"], mscale_all_dim)
    return frequencies, yarn_mscale(yarn["factor"], 1.0)


def rotate(x, cos, sin):
    """x [b, s, n, rope]: turns the pairs (0, 1), (2, 3), … by the angles of cos and sin [s, 1, rope / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


LATENT_NORM_EPS = 1e-6  # of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps says


def attention(params, prefix, model, x):
    """Multi-head latent attention with a causal mask; x [b, s, d]."""
    (b, s, _), heads, mla, eps = x.shape, model["num_heads"], model["mla"], LATENT_NORM_EPS
    nope, rope, v_dim = mla["qk_nope_head_dim"], mla["qk_rope_head_dim"], mla["v_head_dim"]

    if mla["q_lora_rank"] is None:
        q = x @ params[prefix + "q_proj.weight"].T
    else:
        q_latent = rms_norm(x @ params[prefix + "q_a_proj.weight"].T, params[prefix + "q_a_layernorm.weight"], eps)
        q = q_latent @ params[prefix + "q_b_proj.weight"].T
    q_nope, q_rope = q.view(b, s, heads, nope + rope).split([nope, rope], dim=-1)

    latent, k_rope = (x @ params[prefix + "kv_a_proj_with_mqa.weight"].T).split([mla["kv_lora_rank"], rope], dim=-1)
    latent = rms_norm(latent, params[prefix + "kv_a_layernorm.weight"], eps)
    kv = (latent @ params[prefix + "kv_b_proj.weight"].T).view(b, s, heads, nope + v_dim)
    k_nope, v = kv.split([nope, v_dim], dim=-1)

    frequencies, factor = rope_frequencies(mla)
    angles = torch.arange(s, dtype=torch.float64)[:, None, None] * frequencies
    cos, sin = (angles.cos() * factor).to(x.dtype), (angles.sin() * factor).to(x.dtype)
    q_rope, k_rope = rotate(q_rope, cos, sin), rotate(k_rope[:, :, None], cos, sin)

    yarn, scale = mla.get("rope_scaling"), (nope + rope) ** -0.5
    if yarn is not None and yarn["mscale_all_dim"]:
        scale *= yarn_mscale(yarn["factor"], yarn["mscale_all_dim"]) ** 2
    scores = torch.einsum("bind,bjnd->bnij", q_nope, k_nope) + torch.einsum("bind,bjd->bnij", q_rope, k_rope[:, :, 0])
    future = torch.ones(s, s, dtype=torch.bool).triu(1)
    probs = (scores * scale).masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("bnij,bjnd->bind", probs, v).reshape(b, s, -1) @ params[prefix + "o_proj.weight"].T


def choose(choice_scores, moe, fill=float("-inf")):
    """Group-limited top-k on [t, e] scores with bias. Returns chosen [t, k], ascending, and the margin of the choice."""
    tokens, experts = choice_scores.shape
    groups, k = moe["n_group"], moe["num_experts_per_token"]
    grouped = choice_scores.view(tokens, groups, experts // groups)
    best = 2 if moe["score_function"] == "sigmoid" else 1
    group_scores = grouped.topk(min(best, experts // groups), dim=-1).values.sum(-1)
    order = group_scores.argsort(-1, descending=True)
    kept = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, order[:, : moe["topk_group"]], True)
    margin = _gap(group_scores.sort(-1, descending=True).values, moe["topk_group"])
    masked = grouped.masked_fill(~kept[..., None], fill).reshape(tokens, experts)
    ranked = masked.sort(-1, descending=True)
    return ranked.indices[:, :k].sort(-1).values, min(margin, _gap(ranked.values, k))


def _gap(descending, taken):
    """Smallest distance over the rows between the last value taken and the first one not taken."""
    if taken >= descending.shape[-1]:
        return math.inf
    return (descending[:, taken - 1] - descending[:, taken]).min().item()


def route(params, prefix, moe, x, sequences):
    """The router; x [t, d]. Returns the dense weights [t, e], zero where an expert was not chosen, and the Routing."""
    experts, k = moe["num_experts"], moe["num_experts_per_token"]
    router_logits = x @ params[prefix + "weight"].T
    scores = router_logits.sigmoid() if moe["score_function"] == "sigmoid" else router_logits.softmax(-1)
    choice_scores = scores.detach()
    if moe["use_aux_loss_free"]:
        choice_scores = choice_scores + params[prefix + "e_score_correction_bias"]
    chosen, margin = choose(choice_scores, moe)
    is_chosen = torch.zeros_like(scores).scatter_(1, chosen, 1.0)

    weights = scores * is_chosen
    if moe["norm_topk_prob"]:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    weights = weights * moe["routed_scaling_factor"]

    per_sequence = is_chosen.view(sequences, -1, experts)
    frequency = per_sequence.mean(1) * experts / k  # f [b, e]; no gradient
    share = (scores / scores.sum(-1, keepdim=True)).view(sequences, -1, experts).mean(1)  # P [b, e]
    aux_loss = moe["router_aux_loss_weight"] * (frequency * share).sum(-1).mean()
    z_loss = moe["router_z_loss_weight"] * router_logits.logsumexp(-1).square().mean()
    counts = is_chosen.sum(0).round().long()
    return weights, Routing(chosen, counts, margin, choice_scores, aux_loss, z_loss)


def feed_forward(params, prefix, model, layer, x, routing):
    if not is_moe_layer(model, layer):
        return swiglu(params, prefix, x)
    flat = x.flatten(0, 1)
    weights, routing[layer] = route(params, prefix + "gate.", model["moe"], flat, x.shape[0])
    out = sum(
        weights[:, e : e + 1] * swiglu(params, f"{prefix}experts.{e}.", flat)
        for e in range(model["moe"]["num_experts"])
    )
    if model["moe"]["num_shared_experts"]:
        out = out + swiglu(params, prefix + "shared_experts.", flat)
    return out.view_as(x)


def block(params, model, layer, x, routing):
    prefix, eps = f"model.layers.{layer}.", model["rms_norm_eps"]
    x = x + attention(params, prefix + "self_attn.", model, rms_norm(x, params[prefix + "input_layernorm.weight"], eps))
    normed = rms_norm(x, params[prefix + "post_attention_layernorm.weight"], eps)
    return x + feed_forward(params, prefix + "mlp.", model, layer, normed, routing)


def mtp_inputs_and_labels(tokens, depth):
    """tokens [b, s + 1] -> the tokens t_{i + depth} (0 where there is none) and labels t_{i + depth + 1} (-100)."""
    s = tokens.shape[1] - 1
    padded = lambda start, fill: F.pad(tokens[:, start:], (0, s), value=fill)[:, :s]
    return padded(depth, 0), padded(depth + 1, -100)


def forward(params, model, tokens):
    """tokens [b, s + 1]: inputs are all but the last, labels all but the first."""
    eps, routing = model["rms_norm_eps"], {}
    embedding = params["model.embed_tokens.weight"]
    head = embedding if model["tie_embeddings"] else params["lm_head.weight"]
    h = embedding[tokens[:, :-1]]
    for layer in range(model["num_layers"]):
        h = block(params, model, layer, h, routing)
    h = rms_norm(h, params["model.norm.weight"], eps)
    logits = h @ head.T
    lm_loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    out = Output(logits=logits, loss=lm_loss, lm_loss=lm_loss, routing=routing)

    mtp_losses = []
    for depth in range(1, model["mtp_layers"] + 1):
        layer = model["num_layers"] + depth - 1
        prefix = f"model.layers.{layer}."
        inputs, labels = mtp_inputs_and_labels(tokens, depth)
        normed = [
            rms_norm(embedding[inputs], params[prefix + "enorm.weight"], eps),
            rms_norm(h, params[prefix + "hnorm.weight"], eps),
        ]
        h = block(params, model, layer, torch.cat(normed, -1) @ params[prefix + "eh_proj.weight"].T, routing)
        out.mtp_logits.append(rms_norm(h, params[prefix + "shared_head.norm.weight"], eps) @ head.T)
        mtp_losses.append(F.cross_entropy(out.mtp_logits[-1].flatten(0, 1), labels.flatten(), ignore_index=-100))
    if mtp_losses:
        out.mtp_loss = torch.stack(mtp_losses).mean()
        out.loss = out.loss + model["mtp_loss_weight"] * out.mtp_loss
    if routing and model["moe"]["router_aux_loss_weight"]:
        out.aux_loss = sum(r.aux_loss for r in routing.values())
        out.loss = out.loss + out.aux_loss
    if routing and model["moe"]["router_z_loss_weight"]:
        out.z_loss = sum(r.z_loss for r in routing.values())
        out.loss = out.loss + out.z_loss
    return out


def updated_bias(bias, counts, moe):
    """One step of aux-loss-free balancing: an expert with fewer tokens than the mean is made likelier."""
    counts = counts.double()
    return bias + moe["bias_update_rate"] * torch.sign(counts.mean() - counts).to(bias.dtype)
