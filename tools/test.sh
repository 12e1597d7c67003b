#!/usr/bin/env bash
# Everything a change must pass: lint, format, types, tests.
#   bash tools/test.sh          # all of it, for every change that lands
#   bash tools/test.sh --fast   # for the loop of daily work: no tests that start processes, build C++, train
#                               # or export (marker `integration`, see tests/conftest.py)
# Other arguments go to pytest; -n 0 runs it in one process, for -s and --pdb:
#   bash tools/test.sh -n 0 tests/test_main.py -k unknown
# Reference numbers and real data are looked for in ../shared, or in $PADDLE_GLM_SHARED.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
install_chromium() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  echo "[test] apt-get install chromium"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
}

selected=()
if [ "${1:-}" = --fast ]; then
  shift
  selected=(-m "not slow and not integration")
fi
bash tools/setup_env.sh cpu,train,onnx,openvino,serve,web,hub,clients,dev
[ ${#selected[@]} != 0 ] || bash tools/setup_cpp.sh || echo "[test] the tests of cpp_infer are skipped"
[ ${#selected[@]} != 0 ] || command -v chromium >/dev/null || install_chromium ||
  echo "[test] the tests of web pages in Chromium are skipped (Debian, Ubuntu, as root: apt-get install chromium)"
bin="$root/.venv/bin"

step() { echo "[test] $*"; "$@"; }
step "$bin/ruff" check .
step "$bin/ruff" format --check .
step "$bin/mypy"

# tests/conftest.py says which tests stay in one process, and puts the long ones first.
processes="$(nproc)"
parallel=(-n "$((processes < 8 ? processes : 8))" --dist loadfile --no-loadscope-reorder)
echo "[test] pytest $*"
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
status=0
"$bin/python" -m pytest "${parallel[@]}" ${selected[@]+"${selected[@]}"} "$@" 2>&1 | tee "$output" ||
  status=${PIPESTATUS[0]}
echo "[test] $(tail -n 1 "$output")"
exit "$status"
