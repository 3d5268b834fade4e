"""One training step of a dsv3ctl configuration in plain PyTorch: the number that the native CPU runtime is held against.

The same work as the runtime's step: forward, backward, gradient clipping, AdamW, update of the routers' biases, on synthetic
tokens, as fast as eager or compiled PyTorch reasonably gets: tokens sorted by expert, one GEMM per expert and
projection, fused AdamW, bf16 by autocast with fp32 weights. Prints one JSON line.

    python train_step.py --config configs/demo.yaml --dtype bf16 --threads 2 [--compile] [--attention eager]

Needs torch and PyYAML (../../golden/requirements.txt has the versions). MTP and YaRN are not built: such a
configuration is refused. The formulas are those of ../../golden/README.md.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import yaml

DEFAULTS = {
    "rope_theta": 10000.0, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "score_function": "sigmoid",
    "norm_topk_prob": True, "routed_scaling_factor": 1.0, "use_aux_loss_free": True, "bias_update_rate": 0.001,
    "router_aux_loss_weight": 0.0, "router_z_loss_weight": 0.0, "rms_norm_eps": 1e-6, "init_std": 0.02,
    "tie_embeddings": False,
}  # fmt: skip


def read_config(path):
    """The YAML with defaults filled in; refuses what is not built here."""
    with open(path, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    model = config["model"]
    for section in (model, model["mla"], model["moe"]):
        for key, value in DEFAULTS.items():
            section.setdefault(key, value)
    if "kv_lora_rank" not in model["mla"]:
        model["mla"]["kv_lora_rank"] = model["mla"]["d_latent"]
    if model.get("mtp_layers", 0):
        raise SystemExit("mtp_layers is not 0: MTP is not part of this benchmark")
    if (model["mla"].get("rope_scaling") or {}).get("type", "none") != "none":
        raise SystemExit("rope_scaling is on: YaRN is not part of this benchmark")
    return config


class RmsNorm(nn.RMSNorm):
    """PyTorch's, with the weight in the input's type: its fused kernel asks for that."""

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, model, kind):
        super().__init__()
        mla, d, self.heads, self.kind = model["mla"], model["d_model"], model["num_heads"], kind
        self.nope, self.rope, self.v = mla["qk_nope_head_dim"], mla["qk_rope_head_dim"], mla["v_head_dim"]
        self.kv_rank, eps = mla["kv_lora_rank"], model["rms_norm_eps"]
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        q_width = self.heads * (self.nope + self.rope)
        if mla["q_lora_rank"] is None:
            self.q = linear(d, q_width)
        else:
            rank = mla["q_lora_rank"]
            self.q = nn.Sequential(linear(d, rank), RmsNorm(rank, eps), linear(rank, q_width))
        self.kv_a = linear(d, self.kv_rank + self.rope)
        self.kv_norm = RmsNorm(self.kv_rank, eps)
        self.kv_b = linear(self.kv_rank, self.heads * (self.nope + self.v))
        self.o = linear(self.heads * self.v, d)

    def forward(self, x, cos, sin):
        b, s, _ = x.shape
        q_nope, q_rope = self.q(x).view(b, s, self.heads, -1).transpose(1, 2).split([self.nope, self.rope], -1)
        latent, k_rope = self.kv_a(x).split([self.kv_rank, self.rope], -1)
        kv = self.kv_b(self.kv_norm(latent)).view(b, s, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.nope, self.v], -1)
        q = torch.cat([q_nope, rotate(q_rope, cos, sin).to(q_nope.dtype)], -1)
        k_rope = rotate(k_rope[:, None], cos, sin).to(k_nope.dtype).expand(-1, self.heads, -1, -1)
        out = causal_attention(q, torch.cat([k_nope, k_rope], -1), v, self.kind)
        return self.o(out.transpose(1, 2).reshape(b, s, -1))


def rotate(x, cos, sin):
    """Interleaved pairs; the result's order (evens, then odds) is the same for q and k, so their product is right."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1)


def causal_attention(q, k, v, kind):
    if kind == "eager":
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return scores.masked_fill(future, float("-inf")).softmax(-1).to(v.dtype) @ v
    if kind == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # PyTorch's fused CPU kernel wants one head size: v padded with zeros up to the one of q and k.
    padded = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
    return F.scaled_dot_product_attention(q, k, padded, is_causal=True)[..., : v.shape[-1]]


class SwiGlu(nn.Module):
    def __init__(self, d, width):
        super().__init__()
        self.gate_up, self.down = nn.Linear(d, 2 * width, bias=False), nn.Linear(width, d, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Moe(nn.Module):
    """Router, experts in a loop over tokens sorted by expert, shared experts. Keeps its counts and losses."""

    def __init__(self, model):
        super().__init__()
        self.moe, d, width = model["moe"], model["d_model"], model["moe"]["expert_intermediate_size"]
        experts, shared = self.moe["num_experts"], self.moe.get("num_shared_experts", 0)
        self.gate = nn.Parameter(torch.empty(experts, d))
        self.experts = nn.ModuleList(SwiGlu(d, width) for _ in range(experts))
        self.shared = SwiGlu(d, width * shared) if shared else None
        self.register_buffer("bias", torch.zeros(experts))
        self.counts, self.loss = None, 0.0

    def route(self, x, sequences):
        moe, k = self.moe, self.moe["num_experts_per_token"]
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.gate)
        scores = logits.sigmoid() if moe["score_function"] == "sigmoid" else logits.softmax(-1)
        choice = scores.detach() + self.bias
        if moe["n_group"] > 1:
            grouped = choice.unflatten(-1, (moe["n_group"], -1))
            best = 2 if moe["score_function"] == "sigmoid" else 1
            kept = grouped.topk(best).values.sum(-1).topk(moe["topk_group"]).indices
            mask = torch.ones(grouped.shape[:2], dtype=torch.bool, device=x.device).scatter_(1, kept, False)
            choice = grouped.masked_fill(mask[..., None], float("-inf")).flatten(1)
        chosen = choice.topk(k, sorted=False).indices
        weights = scores.gather(1, chosen)
        if moe["norm_topk_prob"]:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        self.loss = 0.0
        if moe["router_aux_loss_weight"]:
            hits = torch.zeros_like(scores).scatter_(1, chosen, 1.0).unflatten(0, (sequences, -1)).mean(1)
            share = (scores / scores.sum(-1, keepdim=True)).unflatten(0, (sequences, -1)).mean(1)
            self.loss += moe["router_aux_loss_weight"] * len(self.experts) / k * (hits * share).sum(-1).mean()
        if moe["router_z_loss_weight"]:
            self.loss += moe["router_z_loss_weight"] * logits.logsumexp(-1).square().mean()
        return chosen, weights * moe["routed_scaling_factor"]

    def forward(self, x):
        flat = x.flatten(0, 1)
        chosen, weights = self.route(flat, x.shape[0])
        out = self.run_experts(flat, chosen, weights)
        if self.shared is not None:
            out = out + self.shared(flat)
        return out.view_as(x)

    @torch.compiler.disable  # the experts' token counts are data: compiled, this loop would be compiled again and again
    def run_experts(self, flat, chosen, weights):
        k = chosen.shape[1]
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        self.counts = counts if self.counts is None else self.counts + counts
        order = chosen.flatten().argsort(stable=True)
        tokens = order // k
        parts = flat.index_select(0, tokens).split(counts.tolist())
        done = torch.cat([expert(part) for expert, part in zip(self.experts, parts)])
        done = done * weights.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(flat, dtype=done.dtype).index_add_(0, tokens, done).to(flat.dtype)

    @torch.no_grad()
    def update_bias(self):
        if self.moe["use_aux_loss_free"]:
            counts = self.counts.double()
            self.bias += (self.moe["bias_update_rate"] * torch.sign(counts.mean() - counts)).float()
        self.counts = None


class Block(nn.Module):
    def __init__(self, model, layer, attention_kind):
        super().__init__()
        d, eps = model["d_model"], model["rms_norm_eps"]
        self.norm1, self.norm2 = RmsNorm(d, eps), RmsNorm(d, eps)
        self.attention = Attention(model, attention_kind)
        dense = layer < model["moe"]["first_k_dense"]
        self.mlp = SwiGlu(d, model["dense_intermediate_size"]) if dense else Moe(model)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, model, attention_kind):
        super().__init__()
        vocab, d = model["vocab_size"], model["d_model"]
        self.embedding = nn.Embedding(vocab, d)
        self.blocks = nn.ModuleList(Block(model, i, attention_kind) for i in range(model["num_layers"]))
        self.norm, self.head = RmsNorm(d, model["rms_norm_eps"]), nn.Linear(d, vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=model["init_std"])
        if model["tie_embeddings"]:
            self.head.weight = self.embedding.weight
        self.mla = model["mla"]

    def forward(self, tokens):
        """tokens [b, s + 1] -> the loss, balancing losses included."""
        positions = torch.arange(tokens.shape[1] - 1, device=tokens.device, dtype=torch.float32)
        dim = self.mla["qk_rope_head_dim"]
        pairs = torch.arange(0, dim, 2, device=tokens.device, dtype=torch.float32)
        angles = positions[:, None] * self.mla["rope_theta"] ** (-pairs / max(dim, 1))
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding(tokens[:, :-1])
        if torch.is_autocast_enabled(x.device.type):  # the residual stream is in bf16 too
            x = x.to(torch.get_autocast_dtype(x.device.type))
        for block in self.blocks:
            x = block(x, cos, sin)
        loss = F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), tokens[:, 1:].flatten())
        return loss + sum(moe.loss for moe in self.moes())

    def moes(self):
        return [block.mlp for block in self.blocks if isinstance(block.mlp, Moe)]


def train_step(model, forward, optimizer, batch, options):
    """One optimizer step over the micro-batches of `batch`. Returns the loss."""
    total, parts = 0.0, batch.split(options.micro_batch)
    for tokens in parts:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = forward(tokens)
        (loss / len(parts)).backward()
        total += loss.item() / len(parts)
    nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for moe in model.moes():
        moe.update_bias()
    return total


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile (the expert loop stays eager)")
    parser.add_argument("--attention", choices=("eager", "sdpa", "sdpa_padded"), default="sdpa_padded")
    parser.add_argument("--optimizer", choices=("fused", "foreach"), default="fused")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--micro-batch", type=int, help="sequences at once; the configuration's by default")
    return parser.parse_args()


def main():
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1234)
    config = read_config(options.config)
    training = config["training"]
    sequences, length = training["global_batch_size"], training["seq_length"]
    options.micro_batch = options.micro_batch or training.get("micro_batch_size", sequences)
    options.grad_clip = training.get("grad_clip", 1.0)

    model = Model(config["model"], options.attention)
    forward = torch.compile(model, dynamic=False) if options.compile else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.get("learning_rate", 3e-4), betas=(0.9, 0.95), weight_decay=0.1,
        **{options.optimizer: True},
    )  # fmt: skip
    batch = torch.randint(config["model"]["vocab_size"], (sequences, length + 1))
    seconds, losses = [], []
    for _ in range(options.warmup + options.steps):
        start = time.perf_counter()
        losses.append(train_step(model, forward, optimizer, batch, options))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[options.warmup :])
    variant = [options.dtype, "compile" if options.compile else "eager", options.attention, options.optimizer]
    print(json.dumps({
        "variant": "/".join(variant), "torch": torch.__version__, "threads": options.threads,
        "parameters": sum(p.numel() for p in model.parameters()), "tokens_per_step": sequences * length,
        "step_s": round(median, 4), "step_s_min": round(min(seconds[options.warmup :]), 4),
        "tokens_per_s": round(sequences * length / median, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "loss_first": losses[0], "loss_last": losses[-1],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
