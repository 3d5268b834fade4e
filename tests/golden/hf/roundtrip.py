"""dsv3ctl import, export and score against transformers. See README.md beside this file."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cases import CASES  # noqa: E402
from transformers_model import config_of  # noqa: E402

TOLERANCE = 1e-5  # of the largest logit
FP8_MAX = 448.0
BY_NAME = {case.name: case for case in CASES}

# shape, how the weights are saved, options
IMPORTS = [
    ("base", "fp32", {}),
    ("q_direct", "fp32", {}),
    ("groups", "fp32", {"max_shard_size": "40KB"}),
    ("negative_bias", "bf16", {}),
    ("yarn", "fp32", {}),
    ("yarn_plain_mscale", "bf16", {"max_shard_size": "20KB"}),
    ("odd_sizes", "fp32", {}),
    ("odd_sizes", "fp8", {"block": (16, 16)}),
    ("odd_sizes", "fp8", {"block": (128, 128), "max_shard_size": "20KB"}),
    ("groups", "fp8", {"block": (8, 24)}),
    ("softmax_groups", "fp32", {}),
    ("softmax_balance", "bf16", {}),
    ("tied", "fp32", {}),
    ("nope0", "fp32", {}),
    ("no_shared", "fp16", {}),
    ("all_moe", "fp32", {}),
    ("all_dense", "bf16", {}),
    ("latent_eps", "fp32", {}),
]  # fmt: skip
EXPORTS = [
    ("base", "fp32", []),
    ("q_direct", "bf16", []),
    ("groups", "fp32", ["--max-shard-size", "0.0001"]),
    ("yarn", "fp32", []),
    ("odd_sizes", "bf16", ["--max-shard-size", "0.00005"]),
    ("softmax_groups", "fp32", []),
    ("tied", "fp32", []),
    ("mtp2", "fp32", []),
    ("no_shared", "fp32", []),
    ("all_moe", "bf16", []),
    ("all_dense", "fp32", []),
]


class Tools:
    """The binaries, run in a folder of their own."""

    def __init__(self, bin_dir, folder):
        self.bin, self.folder = Path(bin_dir).resolve(), folder
        self.environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}

    def run(self, program, *words):
        done = subprocess.run([self.bin / program, *map(str, words)], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(map(str, words))}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def ctl(self, *words):
        return self.run("dsv3ctl", *words)

    def score(self, checkpoint, tokens):
        """[tokens, vocabulary] logits and the printed object."""
        logits = self.folder / "logits.safetensors"
        words = ["--tokens", ",".join(map(str, tokens.tolist())), "--logits", logits, "--json"]
        scored = json.loads(self.ctl("score", "--checkpoint", checkpoint, *words))
        return load_file(logits)["logits"], scored


def random_model(case):
    """transformers' model of the case with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(sum(map(ord, case.name)))
    model_class = DeepseekV2ForCausalLM if case.architecture == "v2" else DeepseekV3ForCausalLM
    model = model_class(config_of(case))
    with torch.no_grad():
        for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if "norm" in name:
                tensor.copy_(1 + 0.2 * torch.randn_like(tensor))
            elif name.endswith("e_score_correction_bias"):
                tensor.copy_(case.bias_mean + 0.1 * torch.randn_like(tensor))
            elif tensor.dim() >= 2 and tensor.numel():
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[-1] ** -0.5)
    return model.eval()


def quantise(weight, block):
    """E4M3 values and their blocks' multipliers; edge blocks are smaller."""
    rows, cols = block
    scales = torch.zeros(-(-weight.shape[0] // rows), -(-weight.shape[1] // cols))
    values = torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * rows, (i + 1) * rows), slice(j * cols, (j + 1) * cols)
            scales[i, j] = weight[at].abs().max() / FP8_MAX
            values[at] = (weight[at] / scales[i, j]).to(torch.float8_e4m3fn)
    return values, scales


def dequantise(values, scales, block):
    grown = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return values.float() * grown[: values.shape[0], : values.shape[1]]


def to_fp8(folder, exact, block):
    """Rewrites folder in DeepSeek's FP8, and `exact` as what those numbers mean, in fp32."""
    shutil.copytree(folder, exact)
    for path in folder.glob("*.safetensors"):
        tensors, meant = load_file(path), {}
        for name, tensor in list(tensors.items()):
            meant[name] = tensor
            if "_proj" not in name or tensor.dim() != 2 or not tensor.numel():
                continue
            tensors[name], tensors[name + "_scale_inv"] = quantise(tensor, block)
            meant[name] = dequantise(tensors[name], tensors[name + "_scale_inv"], block)
        save_file(meant, exact / path.name, {"format": "pt"})
        save_file(tensors, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as opened:
                content["weight_map"] |= {name: path.name for name in opened.keys()}
        index.write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    if block != (128, 128):  # that is what an absent size means
        config["quantization_config"]["weight_block_size"] = list(block)
    (folder / "config.json").write_text(json.dumps(config))


def relative_difference(ours, theirs):
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def logits_of(model, tokens):
    return model(tokens[None], use_cache=False).logits[0].float()


def compare(tools, checkpoint, model, tokens):
    """The largest difference of logits, over the largest logit; the log-probabilities must agree too."""
    theirs = logits_of(model, tokens)
    ours, scored = tools.score(checkpoint, tokens)
    logprobs = theirs.double().log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
    # Logits that differ by d give log-probabilities that differ by 2d at most.
    allowed = 2 * TOLERANCE * theirs.abs().max().item()
    assert (torch.tensor(scored["logprobs"], dtype=torch.float64) - logprobs).abs().max().item() <= allowed
    assert abs(scored["mean_logprob"] - logprobs.mean().item()) <= allowed
    assert scored["tokens"] == tokens.tolist()
    return relative_difference(ours, theirs)


def draw_tokens(case, vocabulary):
    return torch.randint(vocabulary, (min(29, case.model["max_context_length"]),), generator=torch.Generator().manual_seed(5))


def check_import(tools, folder, name, kind, options):
    case = BY_NAME[name]
    model = random_model(case)
    hf = exact = folder / "hf"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind, torch.float32)
    model.to(dtype).save_pretrained(hf, max_shard_size=options.get("max_shard_size", "5GB"))
    if kind == "fp8":
        exact = folder / "exact"
        to_fp8(hf, exact, options["block"])
    reference = type(model).from_pretrained(exact, dtype=torch.float32, attn_implementation="eager").eval()
    tools.ctl("import", hf, "--out", folder / "checkpoint")
    files = len(list(hf.glob("*.safetensors")))
    worst = compare(tools, folder / "checkpoint", reference, draw_tokens(case, case.model["vocab_size"]))
    return worst, f"{files} file{'s' if files > 1 else ''}"


TEXT = "".join(f"line {i * 7 % 13} of a text that has {i % 5} words more\n\n" for i in range(400))


def train(tools, folder, case):
    """A few steps of the case's shape on bytes; the checkpoint."""
    (folder / "text.txt").write_text(TEXT)
    tools.ctl("data", "prepare", "--input", folder / "text.txt", "--tokenizer", "byte", "--out", folder / "bytes")
    model = case.model | {"vocab_size": 259, "init_std": 0.2}
    model["mla"] = {"rope_scaling": {"type": "none"}} | model["mla"]
    model["moe"] = model["moe"] | {"allow_uneven_groups": True}
    training = dict(max_steps=3, global_batch_size=2, micro_batch_size=2, seq_length=24, dtype="fp32", learning_rate=2e-2)
    spec = {"model": model, "training": training, "data": {"path": str(folder / "bytes"), "split": [0.8, 0.2]}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    tools.run("dsv3-worker", "train", "--spec", folder / "spec.yaml", "--checkpoint-dir", folder / "trained")
    return folder / "trained"


def tensors_in(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def assert_bitwise_equal(a, b):
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


def check_export(tools, folder, name, dtype, options):
    case = BY_NAME[name]
    trained = train(tools, folder, case)
    hf = folder / "hf"
    words = ["--format", "hf", "--dtype", dtype]
    tools.ctl("export", "--checkpoint", trained, "--out", hf, *words, *options)
    with_keys = AutoModelForCausalLM.from_pretrained(
        hf, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    model, keys = with_keys[0].eval(), with_keys[1]
    layers = case.model["num_layers"]
    unexpected = [key for key in keys["unexpected_keys"] if not any(
        key.startswith(f"model.layers.{layers + depth}.") for depth in range(case.model["mtp_layers"]))]  # fmt: skip
    assert not unexpected and not keys["missing_keys"] and not keys["mismatched_keys"], keys
    tools.ctl("import", hf, "--out", folder / "again")
    # In bf16 the model that transformers loads is the rounded one, which the import holds too.
    worst = compare(tools, trained if dtype == "fp32" else folder / "again", model, draw_tokens(case, 259))
    tools.ctl("export", "--checkpoint", folder / "again", "--out", folder / "hf2", *words)
    exported = tensors_in(hf)
    assert_bitwise_equal(exported, tensors_in(folder / "hf2"))
    assert (hf / "config.json").read_text() == (folder / "hf2" / "config.json").read_text()
    if dtype == "fp32":  # the trained weights themselves, as the checkpoint's files have them
        saved = tensors_in(next(trained.glob("step-*")))
        assert_bitwise_equal({k: v for k, v in exported.items() if k in saved},
                             {k: v for k, v in saved.items() if k in exported})  # fmt: skip
    files = len(list(hf.glob("*.safetensors")))
    return worst, f"{files} file{'s' if files > 1 else ''}, return bitwise"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default="build/dev/bin", help="folder of dsv3ctl and dsv3-worker")
    parser.add_argument("--only", default="", help="run only the shapes whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    print(f"{'part':7} {'shape':18} {'weights':8} {'|Δlogits| / max':>16}  remarks")
    for part, check, rows in (("import", check_import, IMPORTS), ("export", check_export, EXPORTS)):
        for name, kind, extra in rows:
            if options.only not in name:
                continue
            with tempfile.TemporaryDirectory(prefix="dsv3-hf-") as folder:
                try:
                    worst, remark = check(Tools(options.bin, Path(folder)), Path(folder), name, kind, extra)
                except (AssertionError, RuntimeError, KeyError, ValueError) as error:
                    worst, remark = float("inf"), f"{type(error).__name__}: {str(error)[:300]}"
            bad = not worst <= TOLERANCE
            failed += bad
            if isinstance(extra, dict) and "block" in extra:
                remark += ", blocks of {}×{}".format(*extra["block"])
            print(f"{part:7} {name:18} {kind:8} {worst:16.2e}  {remark}{'  FAILED' if bad else ''}", flush=True)
    print(f"{failed} failed; tolerance {TOLERANCE:.0e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
