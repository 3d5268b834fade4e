#!/usr/bin/env bash
# Runs every fuzzer that was built, two at a time: tests/fuzz/run.sh BUILD_DIR [SECONDS_EACH]
# DSV3_FUZZ_SEED=N repeats a run's choices (0, the default: new ones every time).
# What grows is kept in BUILD_DIR/corpus, what fails in BUILD_DIR/crashes (named FORMAT-crash-…); fails when there is any.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$1
seconds=${2:-60}
crashes=$build/crashes
logs=$build/logs
mkdir -p "$crashes" "$logs"

run_one() {
  local format=${1##*/fuzz_} log grown found dictionary=()
  log=$3/$format.log grown=${1%/bin/*}/corpus/$format
  mkdir -p "$grown"
  [ ! -f "tests/fuzz/dictionaries/$format.dict" ] || dictionary=("-dict=tests/fuzz/dictionaries/$format.dict")
  if "$1" "$grown" "tests/fuzz/corpus/$format" "-max_total_time=$2" "-seed=${DSV3_FUZZ_SEED:-0}" -max_len=8192 -timeout=10 -rss_limit_mb=2048 \
      -print_final_stats=1 "${dictionary[@]}" "-artifact_prefix=$4/$format-" >"$log" 2>&1; then
    echo "fuzz $format: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, no fault"
  else
    echo "fuzz $format: FAILED"
    grep -E 'ERROR|SUMMARY|runtime error|check failed' "$log" || tail -n 5 "$log"
    found=$(sed -n 's/.*Test unit written to *//p' "$log" | tail -n 1)
    [ -z "$found" ] || printf '  the input:     %s\n  to replay it:  %s %s\n' "$found" "$1" "$found"
    return 1
  fi
}
export -f run_one
printf '%s\n' "$build"/bin/fuzz_* | xargs -P 2 -I{} bash -c 'run_one "$@"' _ {} "$seconds" "$logs" "$crashes"
