#!/usr/bin/env bash
# The communicator beside Open MPI's TCP, in turn: `tests/bench/run.sh comm [ROUNDS]` (5). Medians over the rounds, and the median
# of the rounds' ratios: of latencies (µs) ours / theirs, of bandwidths (GB/s of the 64 MiB buffer) ours / theirs.
# DSV3_BENCH_TRANSPORT=tcp takes our TCP sockets instead of unix ones. Without Open MPI only ours is measured.
set -euo pipefail
cd "$(dirname "$0")/../../.."
build=${DSV3_BUILD_DIR:-build/${DSV3_PRESET:-dev}}
rounds=${1:-5}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
theirs=()
if command -v mpirun >/dev/null; then theirs=(bench_comm_mpi); fi
cmake --build "$build" --target bench_comm_mesh "${theirs[@]}" >&2
echo "machine: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2), $(nproc) cores; load $(cut -d' ' -f1 /proc/loadavg)" \
  "commit $(git rev-parse --short HEAD); $(date +%F)"
for round in $(seq "$rounds"); do
  for ranks in 2 4; do
    "$build/bin/bench_comm_mesh" "$ranks" "${DSV3_BENCH_TRANSPORT:-auto}" | sed "s/^/$round /"
    [ ${#theirs[@]} = 0 ] || mpirun --oversubscribe -n "$ranks" --mca plm isolated --mca btl tcp,self --mca btl_tcp_if_include lo \
      "$build/bin/bench_comm_mpi" | sed "s/^/$round /"
  done
done | awk '
  function median(list, n, v, i, j, t) {
    n = split(list, v, " ")
    for (i = 2; i <= n; ++i) for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; --j) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
  }
  $2 == "#" { waiting = $0; next }
  {
    key = $3 " " $4
    if (!(key in seen)) { seen[key] = 1; order[++cases] = key }
    all[$2, key] = all[$2, key] " " $5
    one[$1, $2, key] = $5
    if ($2 == "ompi") ratio[key] = ratio[key] " " one[$1, "ours", key] / $5
  }
  END {
    printf "%5s  %-20s %10s %10s %7s\n", "ranks", "case", "ours", "Open MPI", "ratio"
    for (i = 1; i <= cases; ++i) {
      split(order[i], part, " ")
      theirs = all["ompi", order[i]]
      printf "%5d  %-20s %10.2f", part[1], part[2], median(all["ours", order[i]])
      if (theirs != "") printf " %10.2f %7.2f", median(theirs), median(ratio[order[i]])
      printf "\n"
    }
    sub(/^[0-9]+ # /, "", waiting)
    print waiting
  }'
