"""Predicted beside measured: step time and peak memory of configurations that the calibration never saw, as one markdown table.

    tests/bench/run.sh predict [--calibration FILE] [--only NAME,…] [--steps N]

Everything is predicted first (`dsv3ctl plan --json` with the calibration), then run as a user submits it; the measured step is the median after
warm-up, the measured memory the largest resident set of a rank. Without a calibration file this machine is measured before. Every point is
printed. Nothing else should run meanwhile. Needs only Python's library.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time

from step_table import ctl, peak_rss, say, state_dir, workers_of

WARMUP = 3
DEMO, BENCH = "configs/demo.yaml", "configs/bench-cpu.yaml"
# None of these sizes is a line of the calibration's grids alone, and none is its reference model's.
CASES = {
    "demo": (DEMO, {}),
    "demo-fp32": (DEMO, {"training.dtype": "fp32"}),
    "short": (DEMO, {"training.seq_length": 128, "training.global_batch_size": 4, "training.micro_batch_size": 4}),
    "long": (DEMO, {"model.max_context_length": 1024, "training.seq_length": 1024, "training.global_batch_size": 4,
                    "training.micro_batch_size": 2, "model.d_model": 384, "model.num_heads": 6, "model.num_layers": 6}),
    "experts-16": (DEMO, {"model.moe.num_experts": 16, "model.moe.num_experts_per_token": 4, "model.moe.expert_intermediate_size": 128,
                          "training.micro_batch_size": 4}),
    "experts-4-fp32": (DEMO, {"model.moe.num_experts": 4, "model.moe.num_experts_per_token": 1, "model.moe.expert_intermediate_size": 384,
                              "model.d_model": 320, "model.num_heads": 5, "training.dtype": "fp32", "training.global_batch_size": 4,
                              "training.micro_batch_size": 4}),
    "bench-cpu": (BENCH, {}),
    "bench-cpu-fp32": (BENCH, {"training.dtype": "fp32", "training.global_batch_size": 4, "training.micro_batch_size": 2}),
    "ranks-2": (DEMO, {"parallel.data_parallel_size": 2, "training.micro_batch_size": 4}),
    "ranks-2-fp32": (BENCH, {"parallel.data_parallel_size": 2, "training.dtype": "fp32", "training.seq_length": 256,
                             "training.micro_batch_size": 4}),
    "ranks-4": (DEMO, {"parallel.data_parallel_size": 4, "training.micro_batch_size": 2}),
    "new-narrow": (DEMO, {"model.d_model": 192, "model.num_heads": 3, "model.num_layers": 14, "training.micro_batch_size": 8}),
    "new-top-1": (DEMO, {"model.moe.num_experts": 12, "model.moe.num_experts_per_token": 1, "model.moe.expert_intermediate_size": 512,
                         "model.moe.num_shared_experts": 2, "training.global_batch_size": 6, "training.micro_batch_size": 3}),
    "new-vocabulary": (DEMO, {"model.vocab_size": 24576, "model.mtp_layers": 1, "training.micro_batch_size": 4}),
    "new-direct-fp32": (DEMO, {"model.mla.q_lora_rank": "null", "model.mla.kv_lora_rank": 96, "training.seq_length": 192,
                               "training.global_batch_size": 12, "training.micro_batch_size": 6, "training.dtype": "fp32"}),
    "new-ranks-2": (BENCH, {"parallel.data_parallel_size": 2, "model.num_layers": 5, "training.micro_batch_size": 2,
                            "training.global_batch_size": 4}),
    # One row an axis and a choice, then axes together. Ranks are two where there are two cores.
    "tp-2": (DEMO, {"parallel.tensor_parallel_size": 2, "training.micro_batch_size": 8}),
    "tp-2-etp": (DEMO, {"parallel.tensor_parallel_size": 2, "parallel.expert_tensor_parallel_size": 2, "training.micro_batch_size": 8}),
    "cp-2": (DEMO, {"parallel.context_parallel_size": 2, "training.micro_batch_size": 8}),
    "ep-2": (DEMO, {"parallel.expert_parallel_size": 2, "parallel.zero_stage": 1, "training.micro_batch_size": 4}),
    "pp-2": (DEMO, {"parallel.pipeline_parallel_size": 2, "training.micro_batch_size": 2}),
    "pp-2-afab": (DEMO, {"parallel.pipeline_parallel_size": 2, "parallel.pipeline_schedule": "afab", "training.micro_batch_size": 1}),
    "pp-2-zero-bubble": (DEMO, {"parallel.pipeline_parallel_size": 2, "parallel.pipeline_schedule": "zero_bubble",
                                "training.micro_batch_size": 1}),
    "pp-2-interleaved": (DEMO, {"parallel.pipeline_parallel_size": 2, "parallel.pipeline_schedule": "interleaved",
                                "training.micro_batch_size": 1}),
    "zero-1": (BENCH, {"parallel.data_parallel_size": 2, "parallel.zero_stage": 1, "training.micro_batch_size": 2}),
    "zero-0": (BENCH, {"parallel.data_parallel_size": 2, "parallel.zero_stage": 0, "training.micro_batch_size": 2}),
    "selective": (BENCH, {"parallel.recompute": "selective", "training.micro_batch_size": 4}),
    "full": (BENCH, {"parallel.recompute": "full", "training.micro_batch_size": 4}),
    "tp-2-pp-2": (DEMO, {"parallel.tensor_parallel_size": 2, "parallel.pipeline_parallel_size": 2, "training.micro_batch_size": 2}),
    "ep-2-dp-2": (DEMO, {"parallel.expert_parallel_size": 2, "parallel.data_parallel_size": 2, "parallel.zero_stage": 1,
                         "training.micro_batch_size": 2}),
}  # fmt: skip
AXES = ("tensor", "context", "pipeline", "expert", "data")
# The calibration's form was chosen while the others were looked at; these were first run when it stood.
NEW = [name for name in CASES if name.startswith("new-")]
QUIET = {"training.lr_warmup_steps": 2, "training.eval_interval_steps": 0, "training.eval_batches": 1}


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, help="folder of dsv3ctl")
    parser.add_argument("--calibration", default="", help="file of dsv3ctl calibrate; none: calibrate now")
    parser.add_argument("--only", default="", help="names with commas between")
    parser.add_argument("--steps", type=int, default=12, help="timed steps, 10 at least")
    parser.add_argument("--json", default="", help="also write every point to this file")
    options = parser.parse_args()
    options.names = [name for name in CASES if not options.only or name in options.only.split(",")]
    if not options.names:
        sys.exit(f"--only: known are {', '.join(CASES)}")
    return options


def words_of(options, name):
    config, changes = CASES[name]
    values = {**QUIET, "training.max_steps": WARMUP + options.steps, **changes}
    if any(key.endswith("_parallel_size") for key in changes):  # what a case doesn't cut is whole, not the planner's choice
        values = {**{f"parallel.{axis}_parallel_size": 1 for axis in AXES}, **values}
    return [config, *[word for key, value in values.items() for word in ("--set", f"{key}={value}")]]


def predict(options, name):
    plan = json.loads(ctl(options, "plan", *words_of(options, name), "--json"))
    layout, predicted = plan["layout"], plan["predicted"]
    ranks = layout["tp"] * layout["cp"] * layout["pp"] * layout["ep"] * layout["dp"]
    return {"name": name, "ranks": ranks, "predicted_s": predicted["step_s"], "predicted_bytes": predicted["peak_memory_bytes"]}


def measure(options, point):
    name = point["name"]
    job = ctl(options, "submit", *words_of(options, name)).strip().split("\n")[-1]
    peak, state = 0, ""
    while state not in ("COMPLETED", "FAILED", "CANCELLED"):
        state = json.loads(ctl(options, "status", job, "--json"))["job"]["state"]
        peak = max([peak, *map(peak_rss, workers_of(options, job))])
        time.sleep(0.2)
    rows = [json.loads(line) for line in ctl(options, "metrics", job, "--json").splitlines()]
    if len(rows) < WARMUP + options.steps:
        sys.exit(f"{job} ({name}) did not run to its end: see 'dsv3ctl status {job}'")
    times = sorted(row["step_s"] for row in rows[WARMUP:])
    point.update(measured_s=statistics.median(times), least_s=times[0], measured_bytes=peak)
    return point


def line(point):
    mib = 1 << 20
    ratio = point["predicted_s"] / point["measured_s"]
    memory = point["predicted_bytes"] / point["measured_bytes"] if point["measured_bytes"] else float("nan")
    return (
        f"| {point['name']} | {point['ranks']} | {point['predicted_s']:.4f} | {point['measured_s']:.4f} | {ratio:.3f} | {point['least_s']:.4f} "
        f"| {point['predicted_bytes'] / mib:,.0f} | {point['measured_bytes'] / mib:,.0f} | {memory:.3f} |"
    )


def main():
    options = parse_options()
    with state_dir(options):
        calibration = f"{options.state}/calibration.json"
        os.makedirs(options.state, exist_ok=True)
        if options.calibration:
            shutil.copy(options.calibration, calibration)
        else:
            say("calibrating")
            ctl(options, "calibrate", "--ranks", "1,2,4")
        points = [predict(options, name) for name in options.names]
        if any(point["predicted_s"] is None for point in points):
            sys.exit("the plan has no step time: is the calibration this machine's?")
        say("predicted: " + ", ".join(f"{point['name']} {point['predicted_s']:.4f} s" for point in points))
        print("| configuration | ranks | predicted, s | measured, s | predicted / measured | least step, s "
              "| predicted peak, MiB | measured, MiB | ratio |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|")
        for point in points:
            print(line(measure(options, point)), flush=True)
    errors = [abs(point["predicted_s"] / point["measured_s"] - 1) for point in points]
    times = [point["measured_s"] for point in points]
    fresh = [error for point, error in zip(points, errors) if point["name"] in NEW]
    print(f"\n{len(points)} configurations, steps span {max(times) / min(times):.1f} ×; error of the step time: "
          f"mean {100 * statistics.mean(errors):.1f} %, largest {100 * max(errors):.1f} %")  # fmt: skip
    if fresh:
        print(f"of the {len(fresh)} that the calibration was not built with: mean {100 * statistics.mean(fresh):.1f} %, largest {100 * max(fresh):.1f} %")
    if options.json:
        with open(options.json, "w", encoding="ascii") as file:
            json.dump(points, file, indent=1)


if __name__ == "__main__":
    main()
