#!/usr/bin/env bash
# What cpp_infer needs to be built, from apt: does nothing where it is there already.
#   bash tools/setup_cpp.sh
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
server=libcpp-httplib-dev # for --serve; not in every release of Debian and Ubuntu
packages=(cmake g++ make pkg-config libsentencepiece-dev nlohmann-json3-dev)

have_tools() {
  local tool
  for tool in cmake g++ make pkg-config; do command -v "$tool" >/dev/null || return 1; done
  pkg-config --exists sentencepiece nlohmann_json
}

have_server() { pkg-config --exists cpp-httplib; }

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install() {
  echo "[setup] apt-get install $*"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
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
if ! have_tools || [ -n "$library" ]; then
  have_tools && packages=()
  [ -z "$library" ] || packages+=("$library")
  if ! can_install; then
    echo "error: cpp_infer needs packages (Debian and Ubuntu, as root: apt-get install ${packages[*]})" >&2
    exit 2
  fi
  if ! install "${packages[@]}" || ! have_tools || [ -n "$(missing_libpython)" ]; then
    echo "error: apt-get did not bring all that cpp_infer needs: ${packages[*]}" >&2
    exit 2
  fi
fi
if ! have_server && ! { can_install && install "$server" && have_server; }; then
  echo "[setup] $server is not there: the program is built without --serve" >&2
fi
