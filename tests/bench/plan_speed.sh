#!/usr/bin/env bash
# How long the planner's commands take, as whole processes: medians of 5 (or DSV3_BENCH_RUNS).
# usage: tests/bench/plan_speed.sh; DSV3CTL=… measures another binary. On a loaded machine, first: echo -20 > /proc/self/autogroup
set -euo pipefail
cd "$(dirname "$0")/../.."
ctl=${DSV3CTL:-$PWD/build/${DSV3_PRESET:-dev}/bin/dsv3ctl}
runs=${DSV3_BENCH_RUNS:-5}
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export XDG_STATE_HOME=$state DSV3CTL_CONFIG_DIR=${DSV3CTL_CONFIG_DIR:-$PWD/configs}

# median GOAL COMMAND…: one row. Exit 6 is an answer too (it does not fit).
median() {
  local goal=$1 times=() start rc
  shift
  for ((i = 0; i < runs; ++i)); do
    start=$(date +%s%N)
    rc=0
    "$ctl" "$@" >"$state/out" 2>"$state/err" || rc=$?
    times+=($((($(date +%s%N) - start) / 1000)))
    if ((rc != 0 && rc != 6)); then
      echo "dsv3ctl $*: exit $rc" >&2
      cat "$state/err" >&2
      exit 1
    fi
  done
  printf '%s\n' "${times[@]}" | sort -n | awk -v what="$*" -v goal="$goal" \
    '{ t[NR] = $1 / 1000 } END { printf "| %s | %.1f ms (%.1f to %.1f) | %s |\n", what, t[int((NR + 1) / 2)], t[1], t[NR], goal }'
}

echo "| dsv3ctl … | median of $runs (least to most) | goal |"
echo "|---|---|---|"
median "< 1 s" plan 671b --gpus 2048 --gpu-memory 80 --gpu h100
median "< 5 s" plan 671b --gpus 16384 --gpu-memory 80 --gpu h100
median "" plan 671b --gpus 32 --gpu-memory 80 --gpu h100
median "< 50 ms" recommend --gpus 32 --gpu-memory 80
median "" params 671b
