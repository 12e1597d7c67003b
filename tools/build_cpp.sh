#!/usr/bin/env bash
# Builds the C++ program, cpp_infer/build/paddle_glm_infer, and prints its path as the last line.
#   bash tools/build_cpp.sh                                # on the paddlepaddle of .venv
#   bash tools/build_cpp.sh -DPADDLE_INFERENCE_DIR=FOLDER  # arguments go to cmake: cpp_infer/README.md
# Takes a minute the first time, and a second where nothing has changed. No option is remembered for the next call.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$root/cpp_infer/build"
options=(-DPADDLE_GLM_TESTS=OFF -DPADDLE_INFERENCE_DIR= -DONNXRUNTIME_DIR= -DFASTDEPLOY_INSTALL_DIR=)
[ ! -x "$root/.venv/bin/python" ] || options+=("-DPADDLE_GLM_PYTHON=$root/.venv/bin/python")

bash "$root/tools/setup_cpp.sh"
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
if ! { cmake -S "$root/cpp_infer" -B "$folder" "${options[@]}" "$@" &&
  cmake --build "$folder" --parallel "$(nproc)"; } >"$output" 2>&1; then
  cat "$output" >&2
  echo "error: the C++ program could not be built; what stopped it is above" >&2
  exit 2
fi
echo "$folder/paddle_glm_infer"
