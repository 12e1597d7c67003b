#!/usr/bin/env bash
# What cpp_infer needs to be built, from apt: does nothing where it is there already.
#   bash tools/setup_cpp.sh
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
packages=(cmake g++ make pkg-config libsentencepiece-dev nlohmann-json3-dev)

have_tools() {
  local tool
  for tool in cmake g++ make pkg-config; do command -v "$tool" >/dev/null || return 1; done
  pkg-config --exists sentencepiece nlohmann_json
}

# The Paddle wheel of .venv takes symbols from libpython; Debian has that in a package of its own.
missing_libpython() { # prints the package, where .venv's Python comes without its library
  [ -x "$root/.venv/bin/python" ] || return 0
  "$root/.venv/bin/python" - <<'PY'
import ctypes.util, os, sys, sysconfig
name = f"libpython3.{sys.version_info[1]}.so.1.0"
if not os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR"), name)):
    if ctypes.util.find_library(f"python3.{sys.version_info[1]}") is None:
        print(f"libpython3.{sys.version_info[1]}")
PY
}

library="$(missing_libpython)"
have_tools && [ -z "$library" ] && exit 0
have_tools && packages=()
[ -z "$library" ] || packages+=("$library")

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "error: cpp_infer needs packages (Debian and Ubuntu, as root: apt-get install ${packages[*]})" >&2
  exit 2
fi
echo "[setup] apt-get install ${packages[*]}"
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  "${packages[@]}" >/dev/null; } || ! have_tools || [ -n "$(missing_libpython)" ]; then
  echo "error: apt-get did not bring all that cpp_infer needs: ${packages[*]}" >&2
  exit 2
fi
