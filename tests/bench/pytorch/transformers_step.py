"""One training step of a dsv3ctl configuration with Hugging Face transformers' DeepseekV3ForCausalLM.

The same shapes, batch, clipping, fused AdamW and bias update as train_step.py beside it. transformers has no balancing
losses for this model, so its step is a little smaller than the others'. Prints one JSON line.

    python transformers_step.py --config configs/bench-cpu.yaml --dtype bf16 --experts grouped_mm --attention sdpa

--precision autocast keeps fp32 weights and multiplies in bf16; weights makes weights, gradients and moments bf16.
"batched_mm" is left out: it copies an expert's weights for every token.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from train_step import read_config
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM


def hf_config(model):
    mla, moe = model["mla"], model["moe"]
    if moe["score_function"] != "sigmoid":
        raise SystemExit("the router's scores are not sigmoid: not DeepSeek-V3")
    return DeepseekV3Config(
        vocab_size=model["vocab_size"], hidden_size=model["d_model"], intermediate_size=model["dense_intermediate_size"],
        moe_intermediate_size=moe["expert_intermediate_size"], num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"], num_key_value_heads=model["num_heads"],
        n_shared_experts=moe["num_shared_experts"], n_routed_experts=moe["num_experts"],
        routed_scaling_factor=moe["routed_scaling_factor"], kv_lora_rank=mla["kv_lora_rank"],
        q_lora_rank=mla["q_lora_rank"], qk_rope_head_dim=mla["qk_rope_head_dim"], v_head_dim=mla["v_head_dim"],
        qk_nope_head_dim=mla["qk_nope_head_dim"], n_group=moe["n_group"], topk_group=moe["topk_group"],
        num_experts_per_tok=moe["num_experts_per_token"], first_k_dense_replace=moe["first_k_dense"],
        norm_topk_prob=moe["norm_topk_prob"], max_position_embeddings=model["max_context_length"],
        initializer_range=model["init_std"], rms_norm_eps=model["rms_norm_eps"], use_cache=False, num_mtp_layers=0,
        tie_word_embeddings=model["tie_embeddings"],
        rope_parameters={"rope_type": "default", "rope_theta": mla["rope_theta"]},
    )  # fmt: skip


class Balance:
    """Counts tokens per expert as the routers choose, and moves the routers' biases after a step."""

    def __init__(self, model, rate):
        self.rate, self.counts = rate, {}
        self.routers = [m for m in model.modules() if type(m).__name__ == "DeepseekV3TopkRouter"]
        for router in self.routers:
            router.register_forward_hook(self.count)

    def count(self, router, _inputs, outputs):
        counts = torch.bincount(outputs[2].flatten(), minlength=router.num_experts)
        self.counts[router] = self.counts.get(router, 0) + counts

    @torch.no_grad()
    def update(self):
        for router in self.routers:
            counts = self.counts[router].double()
            router.e_score_correction_bias += (self.rate * torch.sign(counts.mean() - counts)).float()
        self.counts = {}


def train_step(model, optimizer, balance, batch, options):
    total, parts = 0.0, batch.split(options.micro_batch)
    for tokens in parts:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
            logits = model(input_ids=tokens[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        (loss / len(parts)).backward()
        total += loss.item() / len(parts)
    torch.nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    balance.update()
    return total


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--precision", choices=("autocast", "weights"), default="autocast")
    parser.add_argument("--experts", choices=("eager", "grouped_mm"), default="grouped_mm")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    return parser.parse_args()


def main():
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1234)
    config = read_config(options.config)
    training = config["training"]
    sequences, length = training["global_batch_size"], training["seq_length"]
    options.micro_batch = training.get("micro_batch_size", sequences)
    options.grad_clip = training.get("grad_clip", 1.0)
    options.autocast = options.dtype == "bf16" and options.precision == "autocast"

    model = DeepseekV3ForCausalLM(hf_config(config["model"]))
    model.set_attn_implementation(options.attention)
    model.set_experts_implementation(options.experts)
    if options.dtype == "bf16" and options.precision == "weights":
        model.to(torch.bfloat16)
    model.train()
    balance = Balance(model, config["model"]["moe"]["bias_update_rate"])
    parameters = sum(p.numel() for p in model.parameters())
    if options.compile:
        model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.get("learning_rate", 3e-4), betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    batch = torch.randint(config["model"]["vocab_size"], (sequences, length + 1))
    seconds, losses = [], []
    for _ in range(options.warmup + options.steps):
        start = time.perf_counter()
        losses.append(train_step(model, optimizer, balance, batch, options))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[options.warmup :])
    print(json.dumps({
        "variant": f"transformers/{options.experts}/{options.attention}", "torch": torch.__version__,
        "threads": options.threads, "parameters": parameters, "tokens_per_step": sequences * length,
        "step_s": round(median, 4), "step_s_min": round(min(seconds[options.warmup :]), 4),
        "tokens_per_s": round(sequences * length / median, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss_first": losses[0], "loss_last": losses[-1],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
