#!/usr/bin/env bash
# What needs a GPU: its tests, every golden through `edgewise verify --backend cuda`, the same text as on the CPU,
# and with --sanitize the tests under compute-sanitizer.
#   tools/gpu_check.sh [--sanitize] [FOLDER WITH edgewise, frail_edgewise AND THE TESTS cuda_*, backends_cuda_*]    default: build, which it makes first
set -uo pipefail
cd "$(dirname "$0")/.."
sanitize=
if [ "${1:-}" = --sanitize ]; then sanitize=1; shift; fi
programs=${1:-}
if [ -z "$programs" ]; then
  make deps all && cmake -S . -B build -DEDGEWISE_TESTS=ON >/dev/null && ninja -C build backends_cuda_test cuda_runtime_test cuda_fault_test frail_edgewise || exit 2
  mkdir -p build/gpu && ln -sf ../edgewise ../tests/{backends_cuda_test,cuda_runtime_test,cuda_fault_test,frail_edgewise} build/gpu/ && programs=build/gpu
fi
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report() { if [ "$2" = 0 ]; then echo "ok    $1"; else echo "FAIL  $1"; failed=1; fi; }

# One behind the other's fault, to see that the next process has a sound GPU.
for tests in cuda_fault_test cuda_runtime_test backends_cuda_test; do
  "$programs/$tests" >"$work/log" 2>&1; status=$?
  grep -E "FAILED|PASSED|Failure|exception|actual|Expected" "$work/log" | head -40
  report $tests $status
done
python3 -c "import numpy" 2>/dev/null && fault_test=(python3 tests/serve_fault_test.py "$programs/frail_edgewise") ||
  fault_test=(tests/run_cli_tests.sh "$programs/frail_edgewise" serve_fault_test build/venv-tests)
EDGEWISE_FRAIL_DEVICE=frail-cuda "${fault_test[@]}"; report "a server whose GPU fails" $?
if [ -n "$sanitize" ]; then
  compute-sanitizer --tool memcheck --error-exitcode 1 "$programs/backends_cuda_test" \
    --gtest_filter='*Float:*Trees:*Company*:*TokenScales:StepResults*' >"$work/log" 2>&1; status=$?
  tail -3 "$work/log"
  report "tests under compute-sanitizer" $status
fi
for golden in models/*/golden.safetensors tests/data/checkpoints/*/golden.safetensors; do
  for dtype in fp32 bf16; do
    "$programs/edgewise" verify "$(dirname "$golden")" --golden "$golden" --backend cuda --dtype $dtype 2>&1 | tail -3
    report "$golden $dtype" "${PIPESTATUS[0]}"
  done
done
# The whole runtime on both devices: answers must be equal.
edgewise() { "$programs/edgewise" "$@" >"$work/log" 2>&1 || { tail -3 "$work/log"; failed=1; }; }
edgewise export --model_dir models/edge-tiny-16m --draft_model_dir models/edge-tiny-16m-eagle3 --output_dir "$work/onnx"
for device in cpu cuda; do
  edgewise build --onnx_dir "$work/onnx" --engine_dir "$work/$device" --device $device --max_batch_size 8 --kv_cache_policy paged
  edgewise build --onnx_dir "$work/onnx" --engine_dir "$work/$device-int8" --device $device --kv_dtype int8
done
answers() {
  local engine=$1; shift
  for prompt in "What is machine learning in one sentence?" "Tell me a story about a fox." "Why is the sky blue?"; do
    "$programs/edgewise" run "$work/$engine" "$prompt" --quiet --max_tokens 100 "$@" 2>>"$work/errors"; echo
  done
}
same() { grep -q . "$2" && cmp "$2" "$3"; report "$1" $?; }
greedy="--temperature 0"
answers cpu $greedy --no_eagle >"$work/a"; answers cuda $greedy --no_eagle >"$work/b"; same "greedy text on CPU and GPU" "$work/a" "$work/b"
answers cuda $greedy --eagle >"$work/c"; same "greedy text with and without EAGLE" "$work/b" "$work/c"
lora="--lora models/edge-tiny-16m-lora-upper"
answers cpu $greedy --no_eagle $lora >"$work/d"; answers cuda $greedy --no_eagle $lora >"$work/e"; same "with an adapter" "$work/d" "$work/e"
answers cpu-int8 $greedy --no_eagle >"$work/f"; answers cuda-int8 $greedy --no_eagle >"$work/g"; same "with an INT8 cache" "$work/f" "$work/g"
drawn="--temperature 0.7 --top_p 0.9 --top_k 40 --repetition_penalty 1.1 --seed 5"
answers cpu $drawn --no_eagle >"$work/h"; answers cuda $drawn --no_eagle >"$work/i"; same "drawn text on CPU and GPU" "$work/h" "$work/i"
answers cuda $drawn --eagle >"$work/j"; same "drawn text with and without EAGLE" "$work/i" "$work/j"
answers cpu $drawn --no_eagle --regex "[a-z ]{80}" >"$work/k"; answers cuda $drawn --no_eagle --regex "[a-z ]{80}" >"$work/l"; same "drawn text of a format" "$work/k" "$work/l"
exit $failed
