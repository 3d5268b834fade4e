#!/usr/bin/env bash
# What periodic checkpoints cost: the demo's steps without any and with one every ten steps, in turn (AB BA AB …), the last two kept.
# Prints for each pair the seconds of both, their ratio and the processor time of both, then the median ratio. The time runs from the line of step 10 to the line
# of the last step, so it holds as many whole checkpoints as it has tens of steps: the copy, what writing and deleting take from the steps
# beside them, and any waiting. The cores must be quiet: writing takes the gaps that training leaves.
# usage: tests/bench/checkpoint.sh [CONFIG] [--set KEY=VALUE …]; DSV3_BENCH_STEPS (100), DSV3_BENCH_PAIRS (5), DSV3_BENCH_BIN.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${DSV3_BENCH_BIN:-build/${DSV3_PRESET:-dev}/bin}
config=configs/demo.yaml
if [ $# -gt 0 ] && [ "$1" != --set ]; then
  config=$1
  shift
fi
steps=${DSV3_BENCH_STEPS:-100}
pairs=${DSV3_BENCH_PAIRS:-5}
more=("$@")
work=$(mktemp -d /var/tmp/dsv3-bench-XXXXXX) # on a disk
trap 'rm -rf "$work"' EXIT

# The worker with a checkpoint every INTERVAL steps; its processor time goes to $work/cpu.
train() {
  local TIMEFORMAT='%U %S'
  { time "$bin/dsv3-worker" train --spec "$config" --checkpoint-dir "$work/saved" --set "checkpoint.interval_steps=$1" \
    --set "training.max_steps=$((steps + 10))" --set training.lr_warmup_steps=5 --set training.eval_interval_steps=0 \
    --set training.eval_batches=1 --set checkpoint.keep_last=2 "${more[@]}" 2>"$work/log"; } 2>"$work/cpu"
}

# measure INTERVAL: "SECONDS CPU_SECONDS", of the steps after ten and of the whole process.
measure() {
  local line begin='' end=''
  rm -rf "$work/saved"
  while read -r line; do
    case $line in
      "step 10/"*) begin=$EPOCHREALTIME ;;
      "step $((steps + 10))/"*) end=$EPOCHREALTIME ;;
    esac
  done < <(train "$1")
  wait "$!" # for what it used
  [ -n "$end" ] || { cat "$work/log" >&2 && return 1; }
  grep 'still being written' "$work/log" >&2 || true
  awk "{printf \"%.3f %.2f\", $end - $begin, \$1 + \$2}" "$work/cpu"
}

median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
measure 0 >"$work/warm-up"
for pair in $(seq "$pairs"); do
  if [ $((pair % 2)) = 1 ]; then
    without=$(measure 0) with=$(measure 10)
  else
    with=$(measure 10) without=$(measure 0)
  fi
  ratio=$(awk "BEGIN {printf \"%.4f\", ${with% *} / ${without% *}}")
  echo "$ratio" >>"$work/ratios"
  echo "pair $pair: $steps steps without ${without% *} s, with one every 10 steps ${with% *} s: $ratio x; processor ${without#* } s, ${with#* } s"
done
echo "median: $(median <"$work/ratios") x"
