#!/usr/bin/env bash
# make test: builds everything with its tests and runs them.
set -euo pipefail
jobs=$1
cmake -S . -B build -G Ninja -DEDGEWISE_TESTS=ON >build.log 2>&1 || { cat build.log; exit 2; }
rm -f build.log
ninja -C build -j "$jobs"
ctest --test-dir build --output-on-failure
echo "Your own checkpoint: build/edgewise run path/to/checkpoint \"prompt\"; against a golden: build/edgewise verify path/to/checkpoint --golden golden.safetensors"
