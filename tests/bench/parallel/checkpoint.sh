#!/usr/bin/env bash
# What a checkpoint every ten steps costs when several ranks write it, each its own part: the demo with one every twenty steps; the ten steps
# after it (copy, writing, publishing, what the one before leaves) over the ten before the next one, so that a machine that drifts drifts in both.
# Prints each pair's ratio and the median, for each layout. Times run from rank 0's line of one step to that of another. The cores must be quiet.
# usage: tests/bench/parallel/checkpoint.sh [LAYOUT …] (dp2 tp2 pp2 ep2; none: dp2); a layout takes about a minute. DSV3_BENCH_CONFIG,
# DSV3_BENCH_PAIRS (15), DSV3_BENCH_BIN.
set -euo pipefail
cd "$(dirname "$0")/../../.."
bin=${DSV3_BENCH_BIN:-$PWD/build/${DSV3_PRESET:-dev}/bin}
config=${DSV3_BENCH_CONFIG:-configs/demo.yaml}
pairs=${DSV3_BENCH_PAIRS:-15}
layouts=("${@:-dp2}")
work=$(mktemp -d /var/tmp/dsv3-bench-XXXXXX) # on a disk
trap 'rm -rf "$work"' EXIT

sets_of() {
  local zero=parallel.zero_stage=1 one=parallel.data_parallel_size=1
  case $1 in
    dp2) echo "parallel.data_parallel_size=2 $zero training.micro_batch_size=4" ;;
    tp2) echo "parallel.tensor_parallel_size=2 $one training.micro_batch_size=8" ;;
    pp2) echo "parallel.pipeline_parallel_size=2 $one training.micro_batch_size=2" ;;
    ep2) echo "parallel.expert_parallel_size=2 $one $zero training.micro_batch_size=4" ;;
    *) echo "layouts: dp2 tp2 pp2 ep2" >&2 && return 2 ;;
  esac
}

# rank RANK SET …
rank() {
  local rank=$1 words=() set
  shift
  for set in "$@"; do words+=(--set "$set"); done
  DSV3_JOB_TOKEN=bench OMP_NUM_THREADS=1 exec "$bin/dsv3-worker" train --spec "$config" --rank "$rank" --world 2 --rendezvous "local:bench $$ $turn" \
    --checkpoint-dir "$work/saved" --set checkpoint.interval_steps=20 --set "training.max_steps=$((20 * (pairs + 2)))" \
    --set training.lr_warmup_steps=5 --set training.eval_interval_steps=0 --set training.eval_batches=1 --set checkpoint.keep_last=2 \
    "${words[@]}" 2>"$work/log-$rank"
}

# measure LAYOUT: a ratio a line, of the pairs after the second checkpoint (the first one's buffers are made then).
measure() {
  local line sets
  read -ra sets <<<"$(sets_of "$1")"
  rm -rf "$work/saved"
  turn=$EPOCHREALTIME # a rendezvous of its own
  rank 1 "${sets[@]}" >"$work/out-1" &
  while read -r line; do
    case $line in "step "*) echo "$EPOCHREALTIME" ;; esac
  done < <(rank 0 "${sets[@]}") >"$work/times"
  wait
  [ "$(wc -l <"$work/times")" = $((20 * (pairs + 2))) ] || { cat "$work"/log-* >&2 && return 1; }
  grep 'still being written' "$work"/log-* >&2 || true
  awk '{t[NR] = $1} END {for (s = 40; s + 20 <= NR; s += 20) printf "%.4f\n", (t[s + 10] - t[s]) / (t[s + 20] - t[s + 10])}' "$work/times"
}

median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
for layout in "${layouts[@]}"; do
  measure "$layout" >"$work/ratios"
  echo "$layout: ten steps with a checkpoint over ten without: $(paste -sd ' ' "$work/ratios"); median $(median <"$work/ratios") x"
done
