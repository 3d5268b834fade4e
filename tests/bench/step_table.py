"""The training step of one configuration: dsv3ctl, PyTorch, transformers, in turn, as one markdown table.

    tests/bench/run.sh step [CONFIG]

Ours is a job as a user submits it; theirs are pytorch/train_step.py and pytorch/transformers_step.py, a process each. Of each family the
fastest form is searched one choice at a time (attention, then experts or none of compilation), so that a table takes minutes. The GEMM peak is
what our worker measures at its start, FLOPs are `dsv3ctl params` (causal attention half); memory is the largest resident set.

Needs only Python's library; theirs need DSV3_BENCH_PYTHON (versions: ../golden/requirements.txt), without it only ours is measured.
"""

import argparse
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--bin", required=True, help="folder of dsv3ctl")
    parser.add_argument("--python", default=os.environ.get("DSV3_BENCH_PYTHON", ""))
    parser.add_argument("--steps", type=int, default=int(os.environ.get("DSV3_BENCH_STEPS", 8)), help="timed steps")
    parser.add_argument("--dtypes", default="bf16,fp32")
    options = parser.parse_args()
    options.threads = len(os.sched_getaffinity(0))
    return options


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def state_dir(options):
    """A state directory for the jobs, gone at the end; the demo's text is copied where it was prepared before."""
    options.state = tempfile.mkdtemp(prefix="dsv3-bench-", dir="/var/tmp")
    home = os.environ.get("XDG_STATE_HOME", os.path.expanduser("~/.local/state"))
    for file in glob.glob(f"{home}/dsv3ctl/data/demo.*"):
        if os.path.isfile(file):
            os.makedirs(f"{options.state}/data", exist_ok=True)
            shutil.copy(file, f"{options.state}/data")
    try:
        yield
    finally:
        subprocess.run([f"{options.bin}/dsv3ctl", "--state-dir", options.state, "down"], capture_output=True, check=False)
        shutil.rmtree(options.state)


def ctl(options, *words):
    words = ["--state-dir", options.state, *words]
    done = subprocess.run([f"{options.bin}/dsv3ctl", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"dsv3ctl {' '.join(words)} ended with code {done.returncode}")
    return done.stdout


def workers_of(options, job):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith("dsv3-worker") and f"{options.state}/jobs/{job}" in words:
            found.append(path.split("/")[2])
    return found


def peak_rss(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) * 1024
    except (OSError, AttributeError):
        return 0


def ours(options, dtype):
    """A job of warm-up and timed steps. Its worker's largest resident set is read while it runs."""
    warmup = 5
    words = [f"training.max_steps={warmup + 2 * options.steps}", "training.lr_warmup_steps=2", f"training.dtype={dtype}",
             "training.eval_interval_steps=0"]  # fmt: skip
    job = ctl(options, "submit", options.config, *[w for s in words for w in ("--set", s)]).strip()
    peak = 0
    while json.loads(ctl(options, "status", job, "--json"))["job"]["state"] not in ("COMPLETED", "FAILED", "CANCELLED"):
        peak = max([peak, *map(peak_rss, workers_of(options, job))])
        time.sleep(0.2)
    rows = [json.loads(line) for line in ctl(options, "metrics", job, "--json").splitlines()]
    if len(rows) < warmup + options.steps:
        sys.exit(f"{job} did not run to its end: see 'dsv3ctl status {job}'")
    rows = rows[warmup:]
    tokens, first = rows[0]["tokens"], rows[0]
    return {"step_s": statistics.median(r["step_s"] for r in rows), "tokens": tokens, "peak_rss_bytes": peak,
            "peak_tokens_per_s": tokens / first["step_s"] / first["mfu"]}  # fmt: skip


def theirs(options, script, dtype, flags):
    words = [options.python, "-W", "ignore", f"{HERE}/pytorch/{script}", "--config", options.config, "--dtype", dtype,
             "--threads", str(options.threads), "--warmup", "2", "--steps", str(options.steps), *flags]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"{script} {' '.join(flags)}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def search(options, script, dtype, start, choices):
    """Measures `start`, then each choice in turn with the best of the choices before it. [(flags, figures)], all of them."""
    measured, best = [], dict(start)

    def measure(setting):
        flags = [word for key, value in setting.items() if value is not None for word in ([key] if value == "" else [key, value])]
        say(f"{script} {dtype} {' '.join(flags)}")
        figures = theirs(options, script, dtype, flags)
        if figures:
            measured.append((flags, figures))
        return figures["step_s"] if figures else float("inf")

    fastest = measure(best)
    for key, values in choices:
        for value in values:
            setting = {**best, key: value}
            seconds = measure(setting)
            if seconds < fastest:
                fastest, best = seconds, setting
    return measured


def families(dtype):
    # Compiled first: what is fastest eagerly need not be so compiled.
    start = {"--compile": "", "--attention": "eager"}
    yield "PyTorch", "train_step.py", start, [("--attention", ["sdpa_padded"]), ("--compile", [None])]
    half = [("--precision", ["weights"])] if dtype == "bf16" else []
    start = {"--attention": "sdpa", "--experts": "grouped_mm"}
    yield "transformers", "transformers_step.py", start, [*half, ("--experts", ["eager"]), ("--attention", ["eager"])]


def measure_all(options):
    say("dsv3ctl bf16")
    results = {"bf16": ours(options, "bf16")}  # first: its peak is what all are a share of
    with open(options.config, encoding="utf-8") as file:
        sequence = re.search(r"^\s*seq_length:\s*(\d+)", file.read(), re.M).group(1)
    flops = json.loads(ctl(options, "params", options.config, "--sequence", sequence, "--json"))["flops_per_token"]
    flops = flops["total_with_mtp"]
    peak = results["bf16"]["peak_tokens_per_s"] * flops
    print(f"{options.config}: {results['bf16']['tokens']:,} tokens a step, {flops / 1e9:.4g} GFLOP a token, {options.threads} threads, "
          f"medians of {options.steps} steps; the same run's 1024³ GEMM: {peak / 1e9:.0f} GFLOP/s\n")  # fmt: skip
    print("| dtype | | tokens/s | ours is faster by | of the GEMM peak | peak memory |\n|---|---|---|---|---|---|")

    def row(dtype, name, figures, base):
        rate = figures["tokens"] / figures["step_s"]
        ratio = "" if figures is base else f"{figures['step_s'] / base['step_s']:.2f} ×"
        print(f"| {dtype} | {name} | {rate:,.0f} | {ratio} | {100 * rate * flops / peak:.1f} % | "
              f"{figures['peak_rss_bytes'] / 2**20:,.0f} MiB |", flush=True)  # fmt: skip

    for dtype in options.dtypes.split(","):
        if dtype not in results:
            say(f"dsv3ctl {dtype}")
            results[dtype] = ours(options, dtype)
        base = results[dtype]
        row(dtype, "dsv3ctl", base, base)
        for name, script, start, choices in families(dtype) if options.python else []:
            measured = search(options, script, dtype, start, choices)
            fastest = min((figures["step_s"] for _, figures in measured), default=0)
            for flags, figures in measured:
                figures["tokens"] = figures["tokens_per_step"]
                mark = ", the fastest" if figures["step_s"] == fastest else ""
                row(dtype, f"{name} {' '.join(f.removeprefix('--') for f in flags)}{mark}", figures, base)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    options = parse_options()
    with state_dir(options):
        measure_all(options)


if __name__ == "__main__":
    main()
