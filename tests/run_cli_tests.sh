#!/usr/bin/env bash
# Runs one Python test of the command line in a virtual environment that is made once.
# Usage: tests/run_cli_tests.sh build/edgewise cli_test VENV_DIR; "all" runs every one that wants this program.
set -euo pipefail
edgewise=$1 test=$2 venv=$3
packages="numpy openai jsonschema"
here=$(cd "$(dirname "$0")" && pwd)
is_ready() { [ "$(cat "$venv/ready" 2>/dev/null)" = "$packages" ]; }
if ! is_ready; then
  (
    mkdir -p "$(dirname "$venv")"
    flock 9  # CTest may run several tests at once
    if ! is_ready; then
      rm -rf "$venv"
      python3 -m venv "$venv"
      "$venv/bin/pip" install --quiet --disable-pip-version-check $packages
      echo "$packages" >"$venv/ready"
    fi
  ) 9>"$venv.lock"
fi
[ "$test" = all ] && tests=(cli_test cli_request_test cli_fault_test chat_test prequantized_test server_test speculation_test embedding_test structured_test) || tests=("$test")
for name in "${tests[@]}"; do
  PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" "$here/$name.py" "$edgewise"
done
