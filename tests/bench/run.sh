#!/usr/bin/env bash
# Benchmarks of this machine. `run.sh step` times the training step of configs/demo.yaml beside PyTorch's on the same model,
# in turn, and prints both medians and their ratio. PyTorch is optional: give its interpreter in DSV3_BENCH_PYTHON
# (versions: tests/golden/requirements.txt). `run.sh comm [ROUNDS]` times the
# communicator beside Open MPI. Figures that are kept go into RESULTS.md with date, machine and commit.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=build/${DSV3_PRESET:-dev}/bin
config=${2:-configs/demo.yaml}
steps=30

# The median of the lines on standard input.
median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# Median seconds of a step after ten, with the given --set overrides.
ours() {
  local job
  job=$("$bin/dsv3ctl" submit "$config" --set training.max_steps=$((steps + 10)) --set training.lr_warmup_steps=5 "$@" --wait 2>/dev/null)
  "$bin/dsv3ctl" metrics "$job" --json --after-step 10 | sed 's/.*"step_s":\([0-9.e+-]*\).*/\1/' | median
}

theirs() {
  "$DSV3_BENCH_PYTHON" -W ignore tests/bench/pytorch/train_step.py --config "$config" --steps "$steps" "$@" 2>/dev/null |
    sed 's/.*"step_s": *\([0-9.e+-]*\).*/\1/'
}

case ${1:-step} in
  step)
    echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
    for dtype in bf16 fp32; do
      a=$(ours --set "training.dtype=$dtype")
      echo "dsv3ctl   $dtype: $a s a step"
      [ -n "${DSV3_BENCH_PYTHON:-}" ] || continue
      for flags in "--attention sdpa_padded" "--attention eager" "--compile --attention sdpa_padded" "--compile --attention eager"; do
        # shellcheck disable=SC2086  # the flags are words
        b=$(theirs --dtype "$dtype" $flags)
        echo "PyTorch   $dtype $flags: $b s a step, $(awk "BEGIN {printf \"%.2f\", $b / $a}") x ours"
      done
    done
    ;;
  comm) shift; exec tests/bench/comm/compare.sh "$@" ;;
  overlap) shift; exec tests/bench/overlap.sh "$@" ;;
  checkpoint) shift; exec tests/bench/checkpoint.sh "$@" ;;
  *) echo "usage: tests/bench/run.sh step|comm|overlap|checkpoint [CONFIG]" >&2; exit 2 ;;
esac
