#!/usr/bin/env bash
# What a checkpoint every ten steps costs when several ranks write it, each its own part: the demo's steps without any and with one every ten
# steps, in turn (AB BA …). Prints each pair's seconds and their ratio, then the median ratio, for each layout. Time runs from the line of step 10
# to the line of the last step. The cores must be quiet.
# usage: tests/bench/parallel/checkpoint.sh [LAYOUT …] (dp2 tp2 pp2 ep2; none: dp2); a layout takes about two minutes. DSV3_BENCH_CONFIG,
# DSV3_BENCH_STEPS (40), DSV3_BENCH_PAIRS (3), DSV3_BENCH_BIN.
set -euo pipefail
cd "$(dirname "$0")/../../.."
bin=${DSV3_BENCH_BIN:-$PWD/build/${DSV3_PRESET:-dev}/bin}
config=${DSV3_BENCH_CONFIG:-configs/demo.yaml}
steps=${DSV3_BENCH_STEPS:-40}
pairs=${DSV3_BENCH_PAIRS:-3}
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

# rank RANK INTERVAL SET …
rank() {
  local rank=$1 interval=$2 words=() set
  shift 2
  for set in "$@"; do words+=(--set "$set"); done
  DSV3_JOB_TOKEN=bench OMP_NUM_THREADS=1 exec "$bin/dsv3-worker" train --spec "$config" --rank "$rank" --world 2 --rendezvous "local:bench $$ $turn" \
    --checkpoint-dir "$work/saved" --set "checkpoint.interval_steps=$interval" --set "training.max_steps=$((steps + 10))" \
    --set training.lr_warmup_steps=5 --set training.eval_interval_steps=0 --set training.eval_batches=1 --set checkpoint.keep_last=2 \
    "${words[@]}" 2>"$work/log-$rank"
}

# measure INTERVAL LAYOUT: seconds of the steps after ten.
measure() {
  local line begin='' end='' sets
  read -ra sets <<<"$(sets_of "$2")"
  rm -rf "$work/saved"
  turn=$EPOCHREALTIME # a rendezvous of its own
  rank 1 "$1" "${sets[@]}" >"$work/out-1" &
  while read -r line; do
    case $line in
      "step 10/"*) begin=$EPOCHREALTIME ;;
      "step $((steps + 10))/"*) end=$EPOCHREALTIME ;;
    esac
  done < <(rank 0 "$1" "${sets[@]}")
  wait
  [ -n "$end" ] || { cat "$work"/log-* >&2 && return 1; }
  grep 'still being written' "$work"/log-* >&2 || true
  awk "BEGIN {printf \"%.3f\", $end - $begin}"
}

median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
for layout in "${layouts[@]}"; do
  measure 0 "$layout" >"$work/warm-up"
  rm -f "$work/ratios"
  for pair in $(seq "$pairs"); do
    if [ $((pair % 2)) = 1 ]; then
      without=$(measure 0 "$layout") with=$(measure 10 "$layout")
    else
      with=$(measure 10 "$layout") without=$(measure 0 "$layout")
    fi
    awk "BEGIN {printf \"%.4f\n\", $with / $without}" >>"$work/ratios"
    echo "$layout, pair $pair: $steps steps without $without s, with one every 10 steps $with s: $(tail -1 "$work/ratios") x"
  done
  echo "$layout: median $(median <"$work/ratios") x"
done
