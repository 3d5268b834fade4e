"""Writes the golden fixtures, data/NAME.safetensors and data/NAME.yaml, and refuses to write what it cannot vouch for.

For each case of cases.py: draws parameters and tokens; checks that every decision of the routers has a margin (else the
next seed is tried); computes logits, losses and gradients with transformers' modules in fp32 (these are stored) and with
reference_model.py in fp64; and asserts that the two agree. README.md beside this file says what the tensors are.

    python make_fixtures.py [NAME …]        the cases of these names, or all; also prints sizes and differences
"""

import sys
from pathlib import Path

import torch
import transformers
import yaml
from safetensors.torch import save_file

import reference_model
from cases import CASES
from transformers_model import TransformersModel

DATA = Path(__file__).parent / "data"
MARGIN_MIN = 1e-4  # of the routers' choices; the tests rest on 1e-5
LOGITS_TOLERANCE = 3e-6  # of the largest; fp32 against fp64, so a third of what the tests allow
GRADIENT_TOLERANCE = 2e-5  # of the tensor's own largest, + 2e-8 of the model's; a fifth of what the tests allow


def draw(case, seed):
    """Parameters (fp32, by name) and tokens [batch, seq + 1]; every norm weight and bias is random too."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    params = {}
    for name, shape in reference_model.parameter_shapes(case.model).items():
        if name.endswith("e_score_correction_bias"):
            params[name] = case.bias_mean + 0.1 * normal(*shape)
            params[name][case.starved] -= 10.0
        elif len(shape) == 1:  # the weight of a norm
            params[name] = 0.5 + torch.rand(*shape, generator=generator)
        elif name.endswith("embed_tokens.weight"):
            params[name] = normal(*shape) * (0.3 if case.model["tie_embeddings"] else 1.0)
        else:
            params[name] = normal(*shape) * shape[1] ** -0.5
    tokens = torch.randint(case.model["vocab_size"], (case.batch, case.seq_length + 1), generator=generator)
    return params, tokens


def draw_with_margin(case):
    """The first seed whose routing no rounding could change; returns seed, params, tokens and the fp64 reference."""
    first = 100 * CASES.index(case)  # so that no two cases draw the same numbers
    for seed in range(first, first + 100):
        params, tokens = draw(case, seed)
        exact = {name: tensor.double().requires_grad_(is_trained(name)) for name, tensor in params.items()}
        out = reference_model.forward(exact, case.model, tokens)
        if all(r.margin > MARGIN_MIN for r in out.routing.values()) and case_holds(case, out):
            return seed, params, tokens, exact, out
    raise AssertionError(f"{case.name}: no seed gives a margin of {MARGIN_MIN}")


def is_trained(name):
    return not name.endswith("e_score_correction_bias")


def case_holds(case, out):
    """Whether the drawn values show what the case is there to show."""
    moe = case.model["moe"]
    for routing in out.routing.values():
        if moe["topk_group"] < moe["n_group"]:  # the limit to some groups has to change a choice
            without_groups, _ = reference_model.choose(routing.choice_scores, moe | {"n_group": 1, "topk_group": 1})
            if torch.equal(without_groups, routing.chosen):
                return False
        if any(routing.counts[expert] for expert in case.starved):
            return False
        if case.fill_matters:
            with_zero, _ = reference_model.choose(routing.choice_scores, moe, fill=0.0)
            differ = (with_zero != routing.chosen).any(-1).double().mean()
            if differ < 0.5 or routing.choice_scores.max() >= 0:
                return False
    return True


def difference(got, exact, scale):
    return (got.double() - exact).abs().max().item() / scale


def compare(case, theirs, gradients, exact, out):
    """Asserts that transformers (fp32) agrees with the reference (fp64). Returns the differences, for the print-out."""
    pairs = [("logits", theirs["logits"], out.logits)]
    pairs += [(f"mtp_logits/{i}", *pair) for i, pair in enumerate(zip(theirs["mtp_logits"], out.mtp_logits), start=1)]
    for name in ("loss", "lm_loss", "aux_loss", "z_loss", "mtp_loss"):
        assert (name in theirs) == (getattr(out, name) is not None), (case.name, name)
        if name in theirs:
            pairs.append((name, theirs[name], getattr(out, name)))
    worst_logits = 0.0
    for name, got, want in pairs:
        error = difference(got, want, want.abs().max().item())
        assert error <= LOGITS_TOLERANCE, (case.name, name, error)
        worst_logits = max(worst_logits, error)

    trained = {name: tensor for name, tensor in exact.items() if tensor.requires_grad}
    wanted = torch.autograd.grad(out.loss, list(trained.values()), allow_unused=True)
    wanted = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(trained.items(), wanted)}
    assert gradients.keys() == wanted.keys(), gradients.keys() ^ wanted.keys()
    model_largest = max(grad.abs().max().item() for grad in wanted.values())
    worst_gradient = 0.0
    for name, want in wanted.items():
        scale = GRADIENT_TOLERANCE * want.abs().max().item() + 1e-3 * GRADIENT_TOLERANCE * model_largest
        error = difference(gradients[name], want, scale)
        assert error <= 1, (case.name, name, error * GRADIENT_TOLERANCE)
        worst_gradient = max(worst_gradient, error * GRADIENT_TOLERANCE)
    return worst_logits, worst_gradient


def tensors_of(case, params, tokens, theirs, gradients, out):
    """Everything that the fixture stores, by name."""
    tensors = {"param/" + name: tensor for name, tensor in params.items()}
    tensors["input/tokens"] = tokens.int()
    tensors["out/logits"] = theirs["logits"]
    for depth, logits in enumerate(theirs["mtp_logits"], start=1):
        tensors[f"out/mtp_logits/{depth}"] = logits
    for name in ("loss", "lm_loss", "aux_loss", "z_loss", "mtp_loss"):
        if name in theirs:
            tensors["out/" + name] = theirs[name].reshape(1)
    for layer, routing in out.routing.items():
        tensors[f"out/topk/{layer}"] = routing.chosen.int()
        tensors[f"out/counts/{layer}"] = routing.counts
        bias = params.get(f"model.layers.{layer}.mlp.gate.e_score_correction_bias")
        if bias is not None:
            tensors[f"out/bias_after/{layer}"] = reference_model.updated_bias(bias, routing.counts, case.model["moe"])
    tensors |= {"grad/" + name: grad for name, grad in gradients.items()}
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def config_text(case):
    training = dict(
        max_steps=1, global_batch_size=case.batch, micro_batch_size=case.batch, seq_length=case.seq_length, dtype="fp32"
    )
    mla = {"rope_scaling": {"type": "none"}} | case.model["mla"]
    model = case.model | {"mla": mla, "moe": case.model["moe"]}
    text = yaml.safe_dump({"model": model, "training": training}, sort_keys=False)
    return f"# {case.about}.\n# Written by tests/golden/make_fixtures.py.\n{text}"


def make(case):
    seed, params, tokens, exact, out = draw_with_margin(case)
    model = TransformersModel(case, params)
    theirs = model.run(tokens)
    gradients = model.gradients(theirs["loss"])
    assert model.chosen.keys() == out.routing.keys()
    for layer, routing in out.routing.items():
        assert torch.equal(model.chosen[layer], routing.chosen), (case.name, layer)
    worst_logits, worst_gradient = compare(case, theirs, gradients, exact, out)

    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    # One key only: safetensors writes several in an order that changes from run to run.
    metadata = {"about": f"{case.name}: {case.about}; seed {seed}; {versions}"}
    path = DATA / f"{case.name}.safetensors"
    save_file(tensors_of(case, params, tokens, theirs, gradients, out), path, metadata)
    path.chmod(0o644)  # save_file leaves 0600
    (DATA / f"{case.name}.yaml").write_text(config_text(case))
    margin = min((r.margin for r in out.routing.values()), default=float("inf"))
    print(f"{case.name:18} {path.stat().st_size:7d} bytes  seed {seed:3d}  loss {theirs['loss'].item():.6f}  margin {margin:.1e}"
          f"  fp32-fp64: logits {worst_logits:.1e} gradients {worst_gradient:.1e}", flush=True)  # fmt: skip
    return path.stat().st_size


def main(names):
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    unknown = set(names) - {case.name for case in CASES}
    assert not unknown, f"no such case: {sorted(unknown)}"
    total = sum(make(case) for case in CASES if not names or case.name in names)
    print(f"total {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
