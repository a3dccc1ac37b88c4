#!/bin/bash
# Runs the comparison suites where they are present (BENCH names their directory) and prints our own figures otherwise:
# time from `hardway up` to a Ready node, and the daemons' memory when idle.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/target/release
bench=${BENCH:-$PWD/../shared/bench}
if [ -x "$bench/compare" ]; then
  targets=("$bench/targets/hardway.env")
  [ -n "${UPSTREAM_BIN:-}" ] && targets+=("$bench/targets/upstream.env")
  HARDWAY_BIN=$bin "$bench/compare" --suites "${SUITES:-crud,list}" --scale "${SCALE:-small}" "${targets[@]}"
else
  echo "no comparison suites at $bench (set BENCH): only start-up and memory are measured"
fi
dir=$(mktemp -d)
trap '"$bin/hardway" down --dir "$dir"' EXIT
begin=$(date +%s.%N)
"$bin/hardway" up --dir "$dir" >/dev/null
awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN {printf "hardway up to a Ready node: %.1f s\n", b - a}'
sleep 10
total=0
for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
  rss=$(awk '/^VmRSS/ {print $2}' "/proc/$(cat "$dir/run/$name.pid")/status")
  total=$((total + rss))
  awk -v n="$name" -v k="$rss" 'BEGIN {printf "%-26s %6.1f MiB\n", n, k / 1024}'
done
awk -v k="$total" 'BEGIN {printf "%-26s %6.1f MiB\n", "the five together", k / 1024}'
