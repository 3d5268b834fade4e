"""What dsv3ctl costs beside training: from submit to the first step, an idle coordinator, recording every step, short commands.

    tests/bench/run.sh overhead [start|idle|record|commands …]

Each in a state directory of its own below /var/tmp, with a text of its own, so that nothing of the user's is touched; only Python's library.
The record part trains the demo in pairs, with every step and expert recorded and with neither, and adds up the processor time of
what records: the worker's reporter thread, the agent and the coordinator.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

TINY = """model:
  {name: tiny, vocab_size: 260, num_layers: 2, d_model: 32, num_heads: 2, dense_intermediate_size: 64, max_context_length: 32,
   mla: {kv_lora_rank: 16, q_lora_rank: null, qk_nope_head_dim: 16, qk_rope_head_dim: 8, v_head_dim: 16},
   moe: {num_experts: 4, num_experts_per_token: 2, expert_intermediate_size: 32, num_shared_experts: 1, first_k_dense: 1}}
parallel: {tensor_parallel_size: 1, pipeline_parallel_size: 1, expert_parallel_size: 1, data_parallel_size: 1}
training: {max_steps: 1, global_batch_size: 4, micro_batch_size: 2, seq_length: 32, dtype: fp32, eval_batches: 1}
data: {path: none, split: [0.9, 0.1], tokenizer: byte}
cluster: {launcher: local, devices: cpu}
"""
WARMUP = 5  # steps of the recording that are not looked at
HEADER = "| what | figure | goal |\n|---|---|---|"


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help="start, idle, record, commands; all by default")
    parser.add_argument("--bin", required=True, help="folder of dsv3ctl")
    parser.add_argument("--runs", type=int, default=5, help="of the start, and pairs of the recording")
    parser.add_argument("--steps", type=int, default=40, help="of each job of the recording")
    return parser.parse_args()


class Home:
    """A state directory with a text to train on; brought down and deleted at the end."""

    def __init__(self, options):
        self.bin, self.path = options.bin, tempfile.mkdtemp(prefix="dsv3-bench-", dir="/var/tmp")
        self.state, self.data = f"{self.path}/state", f"{self.path}/bytes"
        text = f"{self.path}/text"
        with open(text, "w", encoding="ascii") as file:
            file.write("\n\n".join(f"{i}: a step, its loss and {i * i % 97} tokens of an expert" for i in range(20000)))
        self.ctl("data", "prepare", "--input", text, "--tokenizer", "byte", "--out", self.data)
        self.tiny = f"{self.path}/tiny.yaml"
        with open(self.tiny, "w", encoding="ascii") as file:
            file.write(TINY)

    def __enter__(self):
        return self

    def __exit__(self, *_fault):
        self.down()
        shutil.rmtree(self.path)

    def ctl(self, *words):
        done = subprocess.run([f"{self.bin}/dsv3ctl", "--state-dir", self.state, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"dsv3ctl {' '.join(words)}: {done.stderr}")
        return done.stdout

    def down(self):
        subprocess.run([f"{self.bin}/dsv3ctl", "--state-dir", self.state, "down"], capture_output=True, check=False)

    def sets(self, **values):
        values = {"data.path": self.data, "training.eval_interval_steps": 0, "training.lr_warmup_steps": 1, **values}
        return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]

    def coordinator(self):
        return json.loads(self.ctl("status", "--json"))["coordinator"]["pid"]


def cpu_s(pid, thread=None):
    """Processor time of a process's threads, or of those of one name, in seconds (the kernel counts nanoseconds)."""
    total = 0.0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8") as file:
                if thread and file.read().strip() != thread:
                    continue
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0]) * 1e-9
    except OSError:
        pass  # it has ended
    return total


def processes_of(home, program):
    """Ids of the processes that run `program` for this home's job or coordinator."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if words[0].endswith(f"/{program}") and any(home.state in word for word in words):
            yield pid


def first_step_alone(home, config):
    words = [f"{home.bin}/dsv3-worker", "train", "--spec", config, "--fresh", *home.sets(**{"training.max_steps": 1})]
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        took = next((time.perf_counter() - begin for line in worker.stdout if line.startswith("step 1/")), None)
        worker.stdout.read()
    return took if took is not None else sys.exit(f"{config}: dsv3-worker did not make a step")


def steps_of(home, job):
    """Steps of the job that are in the database."""
    try:
        with sqlite3.connect(f"file:{home.state}/dsv3d.db?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM metrics WHERE job = ?", (job,)).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def first_step_submitted(home, config):
    """With the start of a coordinator: until the step is in the database."""
    begin = time.perf_counter()
    job = home.ctl("submit", config, *home.sets(**{"training.max_steps": 1})).strip()
    while not steps_of(home, job):
        if time.perf_counter() > begin + 120:
            sys.exit(f"{config}: no step within two minutes")
        time.sleep(0.005)
    return time.perf_counter() - begin


def start(options):
    for name in ("demo", "tiny"):
        more = []
        for _ in range(options.runs):
            with Home(options) as home:
                config = home.tiny if name == "tiny" else "configs/demo.yaml"
                alone = first_step_alone(home, config)
                more.append(first_step_submitted(home, config) - alone)
        figures = ", ".join(f"{x:.2f}" for x in sorted(more))
        print(f"| submit to the first step, {name}: beyond the worker's own | {statistics.median(more):.2f} s ({figures}) | ≤ 2 s |", flush=True)


def idle(options):
    seconds = 10
    with Home(options) as home:
        home.ctl("up")
        pid = home.coordinator()
        time.sleep(1)
        before = cpu_s(pid)
        time.sleep(seconds)
        used = cpu_s(pid) - before
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            rss = int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024
    print(f"| idle dsv3d, processor time in {seconds} s | {1e3 * used:.1f} ms ({100 * used / seconds:.2f} %) | < 1 % |")
    print(f"| idle dsv3d, resident memory | {rss:.1f} MiB | < 50 MB |", flush=True)


def record_once(home, options, every):
    """Median step, and the processor time of a step in the reporter's thread, the agent and the coordinator."""
    job = home.ctl("submit", "configs/demo.yaml", *home.sets(**{
        "training.max_steps": options.steps + WARMUP, "logging.interval_steps": every,
        "logging.expert_stats_interval_steps": every,
    })).strip()  # fmt: skip
    coordinator, total, first, last = home.coordinator(), options.steps + WARMUP, None, None
    deadline = time.perf_counter() + 900
    while (not last or last[0] < total) and time.perf_counter() < deadline:
        now = (steps_of(home, job), sum(cpu_s(pid, "reporter") for pid in processes_of(home, "dsv3-worker")),
               sum(cpu_s(pid) for pid in processes_of(home, "dsv3-agent")), cpu_s(coordinator))  # fmt: skip
        if now[0] >= WARMUP and now[1] and now[2]:  # worker and agent are there
            first, last = first or now, now
        elif (first or now[0] >= total) and not any(processes_of(home, "dsv3-agent")):
            break
        time.sleep(0.1)
    home.ctl("wait", job)
    rows = [json.loads(line) for line in home.ctl("metrics", job, "--json").splitlines()][WARMUP:]
    if not first or last[0] == first[0]:
        sys.exit("the steps went by too fast to be looked at: give more --steps")
    steps = last[0] - first[0]
    return statistics.median(r["step_s"] for r in rows), [(b - a) / steps for a, b in zip(first[1:], last[1:])]


def record(options):
    ratios, used = [], []
    with Home(options) as home:
        home.ctl("up")
        for pair in range(options.runs):
            medians = {}
            for every in (1, 1000000) if pair % 2 else (1000000, 1):
                medians[every], cost = record_once(home, options, every)
                if every == 1:
                    used.append((medians[every], *cost))
            ratios.append(medians[1] / medians[1000000] - 1)
    listed = ", ".join(f"{100 * r:+.1f}" for r in ratios)
    longer = 100 * statistics.median(ratios)
    print(f"| recording every step and expert, longer steps (pairs) | {longer:+.1f} % ({listed}) | < 1 % |")
    step, reporter, agent, coordinator = (statistics.median(column) for column in zip(*used))
    share = f"{1e6 * reporter:.0f} µs ({100 * reporter / step:.2f} %)"
    print(f"| the same as processor time of a step of {1e3 * step:.0f} ms: reporter thread | {share} | < 1 % |")
    print(f"| … of the agent and of the coordinator | {1e6 * agent:.0f} µs, {1e6 * coordinator:.0f} µs | |", flush=True)


def commands(options):
    with Home(options) as home:
        for words, goal in ((["--help"], 30), (["recommend", "--gpus", "8", "--gpu-memory", "80"], 50), (["params", "671b"], 20)):
            seconds = []
            for _ in range(20):
                begin = time.perf_counter()
                home.ctl(*words)
                seconds.append(time.perf_counter() - begin)
            figures = f"{1e3 * statistics.median(seconds):.1f} ms (least {1e3 * min(seconds):.1f})"
            print(f"| dsv3ctl {' '.join(words)} | {figures} | < {goal} ms |", flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    options = parse_options()
    parts = {"start": start, "idle": idle, "record": record, "commands": commands}
    unknown = [part for part in options.parts if part not in parts]
    if unknown:
        sys.exit(f"no part is called {unknown[0]}: {', '.join(parts)}")
    print(HEADER)
    for part in options.parts or parts:
        parts[part](options)


if __name__ == "__main__":
    main()
