#!/usr/bin/env bash
# make fuzz: builds the fuzz targets with clang's sanitizers and runs each for a while on its seeds and what it found
# before (kept in build-fuzz/corpus). A crash leaves its input in build-fuzz/crashes and ends with exit code 1.
set -euo pipefail
seconds=$1 jobs=$2
cmake --preset fuzz >/dev/null
ninja -C build-fuzz -j "$jobs" fuzz
mkdir -p build-fuzz/crashes
failed=0
for program in build-fuzz/fuzz/*_fuzz; do
  name=$(basename "$program")
  seeds=()
  for folder in tests/fuzz/$name $([ "$name" = chat_template_fuzz ] && echo tests/data/chat_templates); do
    [ -d "$folder" ] && seeds+=("$folder")
  done
  mkdir -p "build-fuzz/corpus/$name"
  echo "== $name: $seconds s"
  if ! "$program" -max_total_time="$seconds" -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=20 -max_len=65536 -print_final_stats=0 \
      -artifact_prefix="build-fuzz/crashes/$name-" "build-fuzz/corpus/$name" "${seeds[@]}" >"build-fuzz/$name.log" 2>&1; then
    failed=1
    tail -40 "build-fuzz/$name.log"
  fi
  grep -E '^Done|DONE' "build-fuzz/$name.log" | tail -1 || true
done
exit $failed
