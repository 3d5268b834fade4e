#!/usr/bin/env bash
# Predicted and measured memory of the worst rank, on CPUs: real jobs of a few steps, whose arenas' ledgers `dsv3ctl memory` gives beside the
# plan's. Prints one row a configuration: what the plan's lines say without the process itself (the arena can't see it), what was measured, and
# the error; then the largest. Load doesn't change these figures; OMP_NUM_THREADS does, a little: the plan takes a rank to have its share of
# the cores.
# usage: tests/bench/predict_memory.sh; DSV3_BENCH_BIN, DSV3_BENCH_LINES=1 (every line of every rank), DSV3_BENCH_STATE (a kept state directory).
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${DSV3_BENCH_BIN:-$PWD/build/${DSV3_PRESET:-dev}/bin}
if [ -n "${DSV3_BENCH_STATE:-}" ]; then
  state=$DSV3_BENCH_STATE
else
  state=$(mktemp -d /var/tmp/dsv3-bench-XXXXXX)
  trap '"$bin/dsv3ctl" down --state-dir "$state" >/dev/null 2>&1 || true; rm -rf "$state"' EXIT
fi

few="training.max_steps=3 training.lr_warmup_steps=1 training.eval_interval_steps=0 training.eval_batches=1 checkpoint.keep_last=1"
few+=" checkpoint.interval_steps=0"
two="parallel.data_parallel_size=2"
four="parallel.data_parallel_size=4"
# axes NAME=SIZE…: those axes of the layout, the others whole; names without their "_parallel_size".
axes() {
  local axis pair
  for axis in tensor context pipeline expert data; do
    local size=1
    for pair in "$@"; do [ "${pair%=*}" = $axis ] && size=${pair#*=}; done
    echo -n " parallel.${axis}_parallel_size=$size"
  done
}
small="cluster.devices=cpu model.num_layers=4 training.seq_length=512 training.global_batch_size=2 training.micro_batch_size=1"
configs=(
  "demo"
  "demo training.dtype=fp32"
  "demo $two training.micro_batch_size=4"
  "demo $four training.micro_batch_size=1"
  "demo model.mtp_layers=1"
  "demo checkpoint.interval_steps=2 checkpoint.async=true"
  "demo checkpoint.interval_steps=2 checkpoint.async=false training.micro_batch_size=2"
  "demo model.moe.num_experts=32 model.moe.num_experts_per_token=4"
  "demo model.max_context_length=2048 training.seq_length=2048 training.global_batch_size=2 training.micro_batch_size=2"
  "demo training.moments_dtype=bf16 training.global_batch_size=32 training.micro_batch_size=32"
  "bench-cpu"
  "bench-cpu training.dtype=fp32 training.micro_batch_size=4 $two"
  "bench-cpu model.d_model=1024 model.dense_intermediate_size=4096 model.num_layers=6 training.micro_batch_size=4"
  "small $small"
  "small $small training.seq_length=2048 training.dtype=fp32 model.mtp_layers=1"
  # An axis and a choice each, then axes together.
  "demo$(axes tensor=2)"
  "demo$(axes tensor=2) parallel.expert_tensor_parallel_size=2"
  "demo$(axes context=2)"
  "demo$(axes expert=2) training.micro_batch_size=4"
  "demo$(axes expert=2) training.micro_batch_size=4 parallel.overlap_expert_exchange=false"
  "demo$(axes expert=2) training.micro_batch_size=4 training.dtype=fp32"
  "demo$(axes pipeline=2) training.micro_batch_size=2"
  "demo$(axes pipeline=2) training.micro_batch_size=2 parallel.pipeline_schedule=afab"
  "demo$(axes pipeline=2) training.micro_batch_size=1 parallel.pipeline_schedule=zero_bubble"
  "demo$(axes pipeline=2) training.micro_batch_size=1 parallel.pipeline_schedule=interleaved"
  "demo$(axes pipeline=2) training.micro_batch_size=2 model.mtp_layers=1"
  "demo$(axes data=2) training.micro_batch_size=2 parallel.zero_stage=0"
  "demo$(axes data=2) training.micro_batch_size=2 parallel.zero_stage=1"
  "demo$(axes data=2) training.micro_batch_size=2 parallel.zero_stage=2"
  "demo$(axes) parallel.offload_optimizer=true"
  "demo parallel.recompute=selective"
  "demo parallel.recompute=full"
  "demo$(axes tensor=2) parallel.recompute=selective"
  "demo$(axes pipeline=2) training.micro_batch_size=2 parallel.recompute=full"
  "demo$(axes tensor=2 pipeline=2) training.micro_batch_size=2"
  "demo$(axes expert=2 data=2) training.micro_batch_size=2"
  "demo$(axes tensor=2 context=2) training.micro_batch_size=4 model.mtp_layers=1"
  "demo$(axes tensor=2 data=2) training.micro_batch_size=2 parallel.zero_stage=2"
  "demo$(axes pipeline=4) training.micro_batch_size=1"
  "demo$(axes pipeline=2 data=2) training.micro_batch_size=2 model.mtp_layers=1 checkpoint.interval_steps=2 checkpoint.async=true"
)
# DSV3_BENCH_ONLY: those whose words it matches, a regular expression.

# row TITLE FILE: one line of the table from `memory --json`; the error in percent goes to $state/errors.
row() {
  python3 - "$1" "$2" "$state/errors" "${DSV3_BENCH_LINES:-}" <<'PY'
import json, sys
title, path, errors, every = sys.argv[1:]
GIB = 2.0**30

def sums(rank):
    inside = [n for n in rank["names"] if n["measured_bytes"] is not None]  # in the arena
    return sum(n["predicted_bytes"] or 0 for n in inside), sum(n["measured_bytes"] for n in inside), inside

def percent(predicted, measured):
    return 100.0 * (predicted - measured) / measured if measured else 0.0

# The rank that needs most; then the one whose plan is farthest off.
ranks = [sums(rank) for rank in json.load(open(path))["ranks"]]
predicted, measured, _ = max(ranks, key=lambda s: s[1])
farthest = max(ranks, key=lambda s: abs(percent(s[0], s[1])))
error = percent(farthest[0], farthest[1])
open(errors, "a").write(f"{abs(error)}\n")
print(f"| {title} | {predicted / GIB:.3f} | {measured / GIB:.3f} | {percent(predicted, measured):+.2f} % | {error:+.2f} % |")
for number, (_, whole, lines) in enumerate(ranks if every else []):
    for line in lines:
        p, m = line["predicted_bytes"] or 0, line["measured_bytes"] or 0
        mark = "**" if max(p, m) > 0.01 * whole and abs(percent(p, m)) > 5 else ""
        print(f"|   rank {number} {line['name']} | {p / 1e6:.3f} MB | {m / 1e6:.3f} MB | {mark}{percent(p, m):+.2f} %{mark} | |")
PY
}

echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; $(date +%F)"
echo "| configuration | predicted GiB | measured GiB | error | of the rank farthest off |"
echo "|---|---|---|---|---|"
rm -f "$state/errors"
for config in "${configs[@]}"; do
  if ! grep -qE -- "${DSV3_BENCH_ONLY:-}" <<<"$config"; then continue; fi
  read -ra words <<<"$config"
  sets=()
  for word in $few "${words[@]:1}"; do sets+=(--set "$word"); done
  job=$(nice -n 19 "$bin/dsv3ctl" submit "${words[0]}" --state-dir "$state" "${sets[@]}" 2>"$state/said") || { cat "$state/said" >&2; exit 1; }
  "$bin/dsv3ctl" wait "$job" --state-dir "$state" --timeout 600 >"$state/said" 2>&1 || { cat "$state/said" >&2; exit 1; }
  "$bin/dsv3ctl" memory "$job" --state-dir "$state" --json >"$state/memory.json"
  row "${config//training./}" "$state/memory.json"
done
echo "largest error: $(sort -g "$state/errors" | tail -1) %"
