#!/usr/bin/env bash
# The speed on this GPU, in one table and gpu_bench.json, within ten minutes: decode, batches and prefill at the shapes of real
# models with random weights, the share of what the GPU's memory allows, and transformers in the same run.
#   tools/gpu_bench.sh [--models SHAPE:WEIGHTS ...] [FURTHER FLAGS OF gpu_bench.py]
# EDGEWISE names the program (default: build/edgewise, made first), WORK a folder with room for 45 GB (default: in memory).
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${EDGEWISE:-}" ]; then
  make deps all >&2
  EDGEWISE=build/edgewise
fi
work=$(mktemp -d "${WORK:-/dev/shm}/edgewise-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 tools/gpu_bench.py "$EDGEWISE" --work "$work" "$@"
