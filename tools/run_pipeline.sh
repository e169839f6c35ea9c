#!/usr/bin/env bash
# make run: builds Edgewise, then takes a model through quantize, export, build and run, and says where the time went.
set -euo pipefail
build=$1 model=$2 prompt=$3
now() { date +%s.%N; }
elapsed() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%5.1f s", b - a }'; }
start=$(now)

t=$(now)
"${MAKE:-make}" --no-print-directory all BUILD="$build"
echo "compile   $(elapsed "$t")  $build/edgewise"

edgewise=$build/edgewise
out=out/$(basename "$model")
stage() {  # name, what it makes, command ...
  local name=$1 makes=$2 t; shift 2
  t=$(now)
  "$@" >/dev/null
  printf '%-9s %s  %s (%s)\n' "$name" "$(elapsed "$t")" "$makes" "$(du -sh "$makes" | cut -f1)"
}
stage quantize "$out/int4" "$edgewise" quantize --model_dir "$model" --output_dir "$out/int4" --quantization int4_awq --group_size 32 --calib_size 32
stage export "$out/onnx" "$edgewise" export --model_dir "$out/int4" --output_dir "$out/onnx"
stage build "$out/engine" "$edgewise" build --onnxDir "$out/onnx" --engineDir "$out/engine"
t=$(now)
echo
echo "> $prompt"
"$edgewise" run "$out/engine" "$prompt" --temperature 0
echo
echo "run       $(elapsed "$t")"
echo "all       $(elapsed "$start")"
echo
echo "Your own checkpoint: make run MODEL=path/to/checkpoint PROMPT=\"...\"   (or: $edgewise run path/to/checkpoint \"...\")"
