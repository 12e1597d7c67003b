#!/usr/bin/env bash
# Everything a change must pass: lint, format, types, tests. Arguments go to pytest:
#   bash tools/test.sh tests/test_main.py -k unknown
# Reference numbers and real data are looked for in ../shared, or in $PADDLE_GLM_SHARED.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
bash tools/setup_env.sh cpu,train,onnx,openvino,serve,web,hub,dev
bash tools/setup_cpp.sh || echo "[test] the tests of cpp_infer are skipped"
bin="$root/.venv/bin"

step() { echo "[test] $*"; "$@"; }
step "$bin/ruff" check .
step "$bin/ruff" format --check .
step "$bin/mypy"

echo "[test] pytest $*"
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
status=0
"$bin/python" -m pytest "$@" 2>&1 | tee "$output" || status=${PIPESTATUS[0]}
echo "[test] $(tail -n 1 "$output")"
exit "$status"
