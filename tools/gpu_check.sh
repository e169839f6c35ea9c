#!/usr/bin/env bash
# What needs a GPU: its tests, every golden through `edgewise verify --backend cuda`, the same greedy text as on the CPU,
# and with --sanitize the tests under compute-sanitizer.
#   tools/gpu_check.sh [--sanitize] [FOLDER WITH edgewise AND backends_cuda_test]    default: build, which it makes first
set -uo pipefail
cd "$(dirname "$0")/.."
sanitize=
if [ "${1:-}" = --sanitize ]; then sanitize=1; shift; fi
programs=${1:-}
if [ -z "$programs" ]; then
  make deps all && cmake -S . -B build -DEDGEWISE_TESTS=ON >/dev/null && ninja -C build backends_cuda_test || exit 2
  mkdir -p build/gpu && ln -sf ../edgewise ../tests/backends_cuda_test build/gpu/ && programs=build/gpu
fi
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report() { if [ "$2" = 0 ]; then echo "ok    $1"; else echo "FAIL  $1"; failed=1; fi; }

"$programs/backends_cuda_test" >"$work/log" 2>&1; status=$?
grep -E "FAILED|PASSED|Failure|actual|Expected" "$work/log" | head -40
report "tests" $status
if [ -n "$sanitize" ]; then
  compute-sanitizer --tool memcheck --error-exitcode 1 "$programs/backends_cuda_test" \
    --gtest_filter='*Float:*Trees:*Company*:*TokenScales' >"$work/log" 2>&1; status=$?
  tail -3 "$work/log"
  report "tests under compute-sanitizer" $status
fi
for golden in models/*/golden.safetensors tests/data/checkpoints/*/golden.safetensors; do
  for dtype in fp32 bf16; do
    "$programs/edgewise" verify "$(dirname "$golden")" --golden "$golden" --backend cuda --dtype $dtype 2>&1 | tail -3
    report "$golden $dtype" "${PIPESTATUS[0]}"
  done
done
"$programs/edgewise" export --model_dir models/edge-tiny-16m --output_dir "$work/onnx" >"$work/log" 2>&1 || { tail -3 "$work/log"; failed=1; }
for device in cpu cuda; do
  "$programs/edgewise" build --onnx_dir "$work/onnx" --engine_dir "$work/$device" --device $device >"$work/log" 2>&1 ||
    { tail -3 "$work/log"; failed=1; }
  for prompt in "What is machine learning in one sentence?" "Tell me a story about a fox." "Why is the sky blue?"; do
    "$programs/edgewise" run "$work/$device" "$prompt" --temperature 0 --max_tokens 120 2>>"$work/errors"
  done >"$work/text-$device"
done
cmp "$work/text-cpu" "$work/text-cuda"
report "the same greedy text as on the CPU" $?
exit $failed
