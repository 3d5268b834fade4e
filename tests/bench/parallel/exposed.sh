#!/usr/bin/env bash
# What of an axis' communication nothing hides: two ranks of one thread each, on two hosts made of network namespaces, their link a token
# bucket (tbf) so slow that sending takes the given share of a step that hides nothing. Prints, with overlap of gradient sums off and on: the step,
# the time spent waiting (exposed), and the time that the link takes for the step's bytes, which are counted at the interface.
# ep switches the overlap of the experts' exchange instead; tp, cp and pp have no switch: off and on are the same run twice.
# zero1: half of the bytes are weights, which nothing hides. ep: DSV3_BENCH_SHARED (4) shared experts, because they and the experts are
# what an exchange hides behind.
# Needs root, iproute2 and two cores. usage: tests/bench/parallel/exposed.sh dp|zero1|ep|tp|cp|pp [CONFIG] [SHARE …]; DSV3_BENCH_STEPS (20;
# ep 3), DSV3_BENCH_BIN, DSV3_BENCH_TOKENS (2048, of a step; ep 65536), DSV3_BENCH_SETS ("KEY=VALUE …", for every run).
set -euo pipefail
cd "$(dirname "$0")/../../.."
bin=${DSV3_BENCH_BIN:-$PWD/build/${DSV3_PRESET:-dev}/bin}
axis=${1:-dp}
config=${2:-configs/demo.yaml}
shift $(($# < 2 ? $# : 2))
shares=("${@:-0.5}")
steps=${DSV3_BENCH_STEPS:-20}
tokens=${DSV3_BENCH_TOKENS:-2048} # of a step; the demo: 8 sequences of 256
work=$(mktemp -d)
a=dsv3-a b=dsv3-b
switch=parallel.overlap_grad_reduce
[ "$axis" != ep ] || switch=parallel.overlap_expert_exchange
case $axis in
  dp) sets=(parallel.data_parallel_size=2 parallel.zero_stage=0 training.micro_batch_size=4) ;;
  zero1) sets=(parallel.data_parallel_size=2 parallel.zero_stage=1 training.micro_batch_size=4) ;;
  # 32 micro-batches a step, so that it is rows that the link is busy with: the sums of the dense gradients, once a step, are as long as
  # the rows of two of them, and hide behind one.
  ep) sets=(parallel.expert_parallel_size=2 parallel.data_parallel_size=1 parallel.zero_stage=0 training.micro_batch_size=4
    training.global_batch_size=256 "model.moe.num_shared_experts=${DSV3_BENCH_SHARED:-4}")
    steps=${DSV3_BENCH_STEPS:-3} tokens=${DSV3_BENCH_TOKENS:-65536} ;;
  tp) sets=(parallel.tensor_parallel_size=2 parallel.data_parallel_size=1 training.micro_batch_size=8) ;;
  cp) sets=(parallel.context_parallel_size=2 parallel.data_parallel_size=1 training.micro_batch_size=8) ;;
  pp) sets=(parallel.pipeline_parallel_size=2 parallel.data_parallel_size=1 training.micro_batch_size=1) ;;
  *) echo "usage: $0 dp|zero1|ep|tp|cp|pp [CONFIG] [SHARE …]" >&2 && exit 2 ;;
esac
read -ra more <<<"${DSV3_BENCH_SETS:-}"
sets+=(training.eval_interval_steps=0 training.eval_batches=1 "training.max_steps=$((steps + 5))" training.lr_warmup_steps=2 "${more[@]}")

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

# Bytes that the first host has sent.
sent() { nsenter --net="/run/netns/$a" cat /proc/net/dev | awk '$1 == "eth0:" {print $10}'; }

# rank RANK OVERLAP
rank() {
  local ns=$a words=() set
  [ "$1" = 0 ] || ns=$b
  for set in "${sets[@]}" "$switch=$2"; do words+=(--set "$set"); done
  DSV3_JOB_TOKEN=bench OMP_NUM_THREADS=1 nsenter --net="/run/netns/$ns" taskset -c "$1" "$bin/dsv3-worker" train --spec "$config" \
    --rank "$1" --world 2 --rendezvous tcp:10.77.0.1:29511 --fresh "${words[@]}" >"$work/rank-$1.log" 2>&1
}

median() { sort -g | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# measure OVERLAP: "STEP_S EXPOSED_S BYTES" of rank 0, medians of the steps after five; bytes sent in a step, by the mean of the run.
measure() {
  local before after step comm
  before=$(sent)
  rank 1 "$1" &
  rank 0 "$1" || { cat "$work/rank-0.log" "$work/rank-1.log" >&2 && return 1; }
  wait "$!"
  after=$(sent)
  step=$(grep -E '^step ' "$work/rank-0.log" | tail -n "$steps" | sed 's/.* \([0-9,]*\) tok.s.*/\1/; s/,//g' | awk "{print $tokens / \$1}" | median)
  comm=$(grep -E '^step ' "$work/rank-0.log" | tail -n "$steps" | sed 's/.* comm \([0-9.]*\)ms.*/\1/' | awk '{print $1 / 1000}' | median)
  echo "$step $comm $(((after - before) / (steps + 5)))"
}

"$bin/dsv3ctl" submit "$config" --set training.max_steps=1 --wait >/dev/null 2>&1 # prepares the data
echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; commit $(git rev-parse --short HEAD); $(date +%F)"
rate off
read -r free free_comm bytes < <(measure false)
echo "$axis, no limit, overlap off: step $free s, exposed $free_comm s; $bytes bytes sent a step"
for share in "${shares[@]}"; do
  bits=$(awk "BEGIN {printf \"%.0f\", 8 * $bytes / (($free - $free_comm) * $share / (1 - $share))}")
  rate "$bits"
  for round in 1 2; do
    read -r off_step off_comm off_bytes < <(measure false)
    read -r on_step on_comm on_bytes < <(measure true)
    awk "BEGIN {
      printf \"$axis, link %.0f Mbit/s (share %s), round %d: off: step %.3f s, exposed %.3f s of %.3f s on the link; \", \
        $bits / 1e6, $share, $round, $off_step, $off_comm, 8 * $off_bytes / $bits
      printf \"on: step %.3f s, exposed %.3f s of %.3f s; hidden by overlap %.0f %% of the exposed, step %.2f x faster\n\", \
        $on_step, $on_comm, 8 * $on_bytes / $bits, 100 * (1 - $on_comm / $off_comm), $off_step / $on_step}"
  done
done
