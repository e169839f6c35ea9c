#!/usr/bin/env bash
# Installs the Debian packages the build needs, if any is missing. `tools/install_deps.sh fuzz` adds clang's runtime.
set -euo pipefail
packages=(
  g++ cmake ninja-build mold pkg-config
  nlohmann-json3-dev libfmt-dev libcli11-dev libyaml-cpp-dev libpcre2-dev libutf8proc-dev
  libprotobuf-dev protobuf-compiler libflatbuffers-dev flatbuffers-compiler libxxhash-dev
  libhwy-dev libssl-dev libevent-dev libedit-dev libgtest-dev
  python3 python3-venv
)
[ "${1:-}" = fuzz ] && packages+=(clang-14 libfuzzer-14-dev libclang-rt-14-dev)
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
run=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "error: these packages are missing and this user is not root: ${missing[*]}" >&2; exit 2; }
  run=(sudo)
fi
log=$(mktemp)
if ! { "${run[@]}" apt-get update && DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -20 "$log" >&2
  echo "error: apt-get could not install the packages above; its log is $log" >&2
  exit 2
fi
rm -f "$log"
