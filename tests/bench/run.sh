#!/usr/bin/env bash
# Benchmarks of this machine; figures that are kept go into RESULTS.md with date, machine and commit.
#   step [CONFIG]        the training step beside PyTorch's and transformers' on the same model, one markdown table
#   overhead [PART …]    submit to the first step, an idle coordinator, recording, short commands
#   predict [OPTION …]   step time and memory as `dsv3ctl plan` predicts them beside measured ones
#   exposed dp|zero1|ep|tp|cp|pp [CONFIG] [SHARE …]   communication that nothing hides, axis by axis, on a slow link
#   parallel-checkpoint [LAYOUT …]   a checkpoint every ten steps, written by several ranks
#   replay               pipeline schedules: recorded times replayed, bubbles beside the formulas'
#   comm [ROUNDS]        the communicator beside Open MPI        checkpoint: what it costs
# PyTorch is optional: give its interpreter in DSV3_BENCH_PYTHON (versions: tests/golden/requirements.txt).
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${DSV3_BENCH_BIN:-$PWD/build/${DSV3_PRESET:-dev}/bin}
what=${1:-step}
[ $# -eq 0 ] || shift

machine() {
  echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
}

case $what in
  step)
    machine
    config=${1:-configs/demo.yaml}
    [ $# -eq 0 ] || shift
    python3 tests/bench/step_table.py "$config" --bin "$bin" "$@"
    ;;
  overhead)
    machine
    python3 tests/bench/overhead.py --bin "$bin" "$@"
    ;;
  predict)
    machine
    python3 tests/bench/predict.py --bin "$bin" "$@"
    ;;
  comm) exec tests/bench/comm/compare.sh "$@" ;;
  checkpoint) exec tests/bench/checkpoint.sh "$@" ;;
  exposed) exec tests/bench/parallel/exposed.sh "$@" ;;
  parallel-checkpoint) exec tests/bench/parallel/checkpoint.sh "$@" ;;
  replay)
    machine
    cmake --build "build/${DSV3_PRESET:-dev}" --target bench_schedule_replay >/dev/null
    exec "$(find "build/${DSV3_PRESET:-dev}" -name bench_schedule_replay -type f)"
    ;;
  *) echo "usage: tests/bench/run.sh step|overhead|predict|comm|exposed|checkpoint|parallel-checkpoint|replay [CONFIG]" >&2; exit 2 ;;
esac
