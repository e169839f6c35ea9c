#!/usr/bin/env bash
# Runs onnx_runtime_test.py with one version of ONNX Runtime ("newest" or a number), in a virtual environment that is
# made once. Usage: tests/run_onnx_runtime.sh build/edgewise 1.24.3 VENV_DIR
set -euo pipefail
edgewise=$1 version=$2 venv=$3
here=$(cd "$(dirname "$0")" && pwd)
package=onnxruntime
[ "$version" = newest ] || package=onnxruntime==$version
if [ ! -f "$venv/ready" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$package" onnx
  touch "$venv/ready"
fi
exec "$venv/bin/python" "$here/onnx_runtime_test.py" "$edgewise"
