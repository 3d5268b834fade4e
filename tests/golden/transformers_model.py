"""The same model built from Hugging Face transformers' modules: fp32, eager attention, on the CPU.

The main model is DeepseekV3ForCausalLM (DeepseekV2ForCausalLM for the softmax router). An MTP module is transformers'
MtpLayer around its DeepseekV3DecoderLayer; chaining the modules, and the auxiliary and z-losses over the routers' logits
that hooks catch, is glue written here (transformers has no training loss for them), apart from reference_model.py.
"""

import math

import torch
import torch.nn.functional as F
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpLayer
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm


def rope_parameters(mla):
    yarn = mla.get("rope_scaling")
    if yarn is None:
        return {"rope_type": "default", "rope_theta": mla["rope_theta"]}
    same = {key: yarn[key] for key in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
    original = {"original_max_position_embeddings": yarn["original_max_position"]}
    return {"rope_type": "yarn", "rope_theta": mla["rope_theta"]} | same | original


def config_of(case):
    model, mla, moe = case.model, case.model["mla"], case.model["moe"]
    same = {key: mla[key] for key in ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    same |= {key: moe[key] for key in ("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor")}
    same |= {key: model[key] for key in ("vocab_size", "rms_norm_eps")}
    if case.architecture == "v2":
        same["topk_method"] = "greedy" if moe["n_group"] == 1 else "group_limited_greedy"
    config_class = DeepseekV2Config if case.architecture == "v2" else DeepseekV3Config
    config = config_class(
        hidden_size=model["d_model"], intermediate_size=model["dense_intermediate_size"],
        moe_intermediate_size=moe["expert_intermediate_size"], num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"], num_key_value_heads=model["num_heads"],
        n_shared_experts=moe["num_shared_experts"], n_routed_experts=moe["num_experts"],
        num_experts_per_tok=moe["num_experts_per_token"], first_k_dense_replace=moe["first_k_dense"],
        max_position_embeddings=model["max_context_length"], rope_parameters=rope_parameters(mla),
        tie_word_embeddings=model["tie_embeddings"], attn_implementation="eager", experts_implementation="eager", **same,
    )  # fmt: skip
    assert config._attn_implementation == "eager" and config._experts_implementation == "eager"
    return config


class TransformersModel:
    """Modules with the given parameters loaded; `run` gives losses, `gradients` the gradients under our names."""

    def __init__(self, case, params):
        self.case, self.model = case, case.model
        model_class = DeepseekV2ForCausalLM if case.architecture == "v2" else DeepseekV3ForCausalLM
        config = config_of(case)
        self.main = model_class(config)
        if not self.model["mla"]["qk_rope_head_dim"]:
            # A head_dim of 0 is falsy in transformers and would be replaced by another; no dimension is rotated.
            self.main.model.rotary_emb.inv_freq = torch.zeros(0)
        layers = self.model["num_layers"]
        self.mtp = [MtpLayer(config, DeepseekV3DecoderLayer, DeepseekV3RMSNorm, layers + i, use_post_norm=False)
                    for i in range(self.model["mtp_layers"])]  # fmt: skip
        self.mtp_norms = [DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps) for _ in self.mtp]
        self.router_logits, self.chosen = {}, {}
        for layer, mlp in self._mlps():
            if hasattr(mlp, "gate"):
                mlp.gate.register_forward_hook(self._catch(layer))
        self._load(params)

    def _mlps(self):
        yield from ((i, block.mlp) for i, block in enumerate(self.main.model.layers))
        yield from ((self.model["num_layers"] + i, layer.mtp_block.mlp) for i, layer in enumerate(self.mtp))

    def _catch(self, layer):
        def hook(_module, _inputs, outputs):
            self.router_logits[layer], _, chosen = outputs
            self.chosen[layer] = chosen.sort(-1).values

        return hook

    def _tensors(self):
        """(our name, transformers' parameter or buffer, whether it is trained); fused experts come as fused names."""
        for name, tensor in self.main.named_parameters():
            yield name, tensor, True
        for name, tensor in self.main.named_buffers():
            if name.endswith("e_score_correction_bias"):
                yield name, tensor, False
        for i, (layer, norm) in enumerate(zip(self.mtp, self.mtp_norms)):
            prefix = f"model.layers.{self.model['num_layers'] + i}."
            yield prefix + "shared_head.norm.weight", norm.weight, True
            for name, tensor in layer.named_parameters():
                yield prefix + name.removeprefix("mtp_block."), tensor, True
            for name, tensor in layer.named_buffers():
                yield prefix + name.removeprefix("mtp_block."), tensor, False

    def _split(self, name, tensor):
        """Fused experts -> (name, view) per expert; anything else as it is."""
        if ".experts.gate_up_proj" in name:
            prefix, half = name.removesuffix("gate_up_proj"), tensor.shape[1] // 2
            for e in range(tensor.shape[0]):
                yield f"{prefix}{e}.gate_proj.weight", tensor[e, :half]
                yield f"{prefix}{e}.up_proj.weight", tensor[e, half:]
        elif ".experts.down_proj" in name:
            for e in range(tensor.shape[0]):
                yield f"{name.removesuffix('down_proj')}{e}.down_proj.weight", tensor[e]
        elif tensor.numel():  # shared experts of width 0 are no parameters of ours
            yield name, tensor

    @torch.no_grad()
    def _load(self, params):
        loaded = set()
        for name, tensor, _trained in self._tensors():
            for ours, view in self._split(name, tensor):
                if ours.endswith("e_score_correction_bias") and ours not in params:
                    view.zero_()
                    continue
                view.copy_(params[ours])
                loaded.add(ours)
        assert loaded == set(params), sorted(loaded ^ set(params))

    def run(self, tokens):
        """Returns a dict: logits, mtp_logits (a list), and the losses that the case has, `loss` their sum."""
        s, model, moe = tokens.shape[1] - 1, self.model, self.model["moe"]
        hidden = self.main.model(tokens[:, :-1], use_cache=False).last_hidden_state
        out = {"logits": self.main.lm_head(hidden), "mtp_logits": []}
        out["lm_loss"] = F.cross_entropy(out["logits"].transpose(1, 2), tokens[:, 1:])
        out["loss"] = out["lm_loss"]

        positions = torch.arange(s)[None]
        causal = torch.full((s, s), -math.inf).triu(1)[None, None]
        mtp_losses = []
        for depth, (layer, norm) in enumerate(zip(self.mtp, self.mtp_norms), start=1):
            known = tokens[:, depth:][:, :s]
            inputs = torch.cat([known, torch.zeros(len(tokens), s - known.shape[1], dtype=tokens.dtype)], dim=1)
            hidden = layer(
                self.main.model.embed_tokens(inputs), hidden,
                position_embeddings=self.main.model.rotary_emb(hidden, positions),
                attention_mask=causal, position_ids=positions, past_key_values=None,
            )  # fmt: skip
            out["mtp_logits"].append(self.main.lm_head(norm(hidden)))
            labels = tokens[:, depth + 1 :]  # the first s - depth positions have one
            mtp_losses.append(F.cross_entropy(out["mtp_logits"][-1][:, : labels.shape[1]].transpose(1, 2), labels))
        if mtp_losses:
            out["mtp_loss"] = sum(mtp_losses) / len(mtp_losses)
            out["loss"] = out["loss"] + model["mtp_loss_weight"] * out["mtp_loss"]
        if self.router_logits and moe["router_aux_loss_weight"]:
            out["aux_loss"] = sum(self._aux_loss(layer, len(tokens)) for layer in self.router_logits)
            out["loss"] = out["loss"] + out["aux_loss"]
        if self.router_logits and moe["router_z_loss_weight"]:
            z = sum((logits.exp().sum(-1).log() ** 2).mean() for logits in self.router_logits.values())
            out["z_loss"] = moe["router_z_loss_weight"] * z
            out["loss"] = out["loss"] + out["z_loss"]
        return out

    def _aux_loss(self, layer, sequences):
        """The sum over the experts and the mean over the sequences, one term at a time."""
        moe, total = self.model["moe"], 0.0
        logits = self.router_logits[layer].view(sequences, -1, moe["num_experts"])
        chosen = self.chosen[layer].view(sequences, -1, moe["num_experts_per_token"])
        for b in range(sequences):
            scores = logits[b].sigmoid() if moe["score_function"] == "sigmoid" else logits[b].softmax(-1)
            shares = [row / row.sum() for row in scores]
            for expert in range(moe["num_experts"]):
                count = sum(expert in row for row in chosen[b].tolist())
                f = moe["num_experts"] / (moe["num_experts_per_token"] * len(shares)) * count
                p = sum(share[expert] for share in shares) / len(shares)
                total = total + f * p
        return moe["router_aux_loss_weight"] * total / sequences

    def gradients(self, loss):
        named = [(name, tensor) for name, tensor, trained in self._tensors() if trained]
        grads = torch.autograd.grad(loss, [tensor for _, tensor in named], allow_unused=True)
        split = {}
        for (name, tensor), grad in zip(named, grads):
            split |= dict(self._split(name, torch.zeros_like(tensor) if grad is None else grad))
        return split
