#!/usr/bin/env bash
# What overlapping gradient sums with the backward pass hides: two ranks of one thread each, on two hosts made of network
# namespaces, their link a token bucket (tbf). Prints the step and the time that nothing hid, with overlap off and on.
# Needs root, iproute2 and two cores. usage: tests/bench/overlap.sh [CONFIG] [SHARE …]: SHARE is the communication's share of a step
# without overlap.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$PWD/build/${DSV3_PRESET:-dev}/bin
config=${1:-configs/demo.yaml}
shift || true
shares=("${@:-0.5}")
steps=${DSV3_BENCH_STEPS:-30}
work=$(mktemp -d)
a=dsv3-a b=dsv3-b

cleanup() {
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
cleanup
mkdir -p "$work"
ip netns add "$a"
ip netns add "$b"
ip -n "$a" link add eth0 mtu 9000 type veth peer name eth0 mtu 9000 netns "$b"
for n in 1 2; do
  ns=$([ $n = 1 ] && echo "$a" || echo "$b")
  ip -n "$ns" addr add "10.77.0.$n/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" link set lo up
done

# rate BITS_PER_S | rate off
rate() {
  local ns
  for ns in "$a" "$b"; do
    tc -n "$ns" qdisc del dev eth0 root 2>/dev/null || true
    [ "$1" = off ] || tc -n "$ns" qdisc replace dev eth0 root tbf rate "$1bit" burst 256k latency 50ms
  done
}

rank() {
  local ns=$a
  [ "$1" = 0 ] || ns=$b
  DSV3_JOB_TOKEN=bench OMP_NUM_THREADS=1 nsenter --net="/run/netns/$ns" taskset -c "$1" "$bin/dsv3-worker" train --spec "$config" \
    --rank "$1" --world 2 --rendezvous tcp:10.77.0.1:29511 --fresh --set parallel.data_parallel_size=2 \
    --set training.micro_batch_size=4 --set training.eval_interval_steps=0 --set training.eval_batches=1 --set "training.max_steps=$((steps + 5))" \
    --set training.lr_warmup_steps=2 --set "parallel.overlap_grad_reduce=$2" >"$work/rank-$1.log" 2>&1
}

median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# measure OVERLAP: prints "STEP_S COMM_S" of rank 0, medians of the steps after five.
measure() {
  rank 1 "$1" &
  rank 0 "$1"
  wait
  local tokens=2048 # 8 sequences of 256
  local step comm
  step=$(grep -E '^step ' "$work/rank-0.log" | tail -n "$steps" | sed 's/.* \([0-9,]*\) tok.s.*/\1/; s/,//g' | awk "{print $tokens / \$1}" | median)
  comm=$(grep -E '^step ' "$work/rank-0.log" | tail -n "$steps" | sed 's/.* comm \([0-9.]*\)ms.*/\1/' | awk '{print $1 / 1000}' | median)
  echo "$step $comm"
}

"$bin/dsv3ctl" submit "$config" --set training.max_steps=1 --wait >/dev/null 2>&1 # prepares the data
params=$("$bin/dsv3ctl" params "$config" --json | sed -n 's/^ *"total": \([0-9]*\),$/\1/p' | head -1)
bytes=$((params * 4))
echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
rate off
read -r free free_comm < <(measure false)
echo "no limit, overlap off: step $free s, exposed $free_comm s; $bytes bytes of gradients a rank and step"
for share in "${shares[@]}"; do
  bits=$(awk "BEGIN {printf \"%.0f\", 8 * $bytes / (($free - $free_comm) * $share / (1 - $share))}")
  rate "$bits"
  for round in 1 2; do
    read -r off_step off_comm < <(measure false)
    read -r on_step on_comm < <(measure true)
    awk "BEGIN {printf \"link %.0f Mbit/s (share %s), round %d: off: step %.3f s, exposed %.3f s; on: step %.3f s, exposed %.3f s; hidden %.0f %% of the exposed, step %.2f x faster\n\", \
      $bits / 1e6, $share, $round, $off_step, $off_comm, $on_step, $on_comm, 100 * (1 - $on_comm / $off_comm), $off_step / $on_step}"
  done
done
