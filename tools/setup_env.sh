#!/usr/bin/env bash
# Makes or reuses .venv in the checkout and installs the pinned packages of the extras named.
#   bash tools/setup_env.sh cpu,train
# Installs only what is new: a stamp in .venv remembers which extras were installed from which pins.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
extras="${1:?usage: tools/setup_env.sh EXTRA[,EXTRA...]}"
venv="$root/.venv"
stamp="$venv/.paddle_glm_installed"

say() { echo "[setup] $*"; }

# A name on the PATH may be a shim that cannot run, so a candidate has to prove itself.
find_python() { # find_python MODULE...: prints the first usable interpreter that has these modules
  local candidate
  for candidate in ${PYTHON:-} python3.12 python3.11 python3.10 python3; do
    if "$candidate" - "$@" >/dev/null 2>&1 <<'PY'; then
import importlib.util, sys
good = (3, 10) <= sys.version_info[:2] <= (3, 12) and all(map(importlib.util.find_spec, sys.argv[1:]))
sys.exit(not good)
PY
      echo "$candidate"
      return
    fi
  done
  return 1
}

make_venv() {
  local python
  if ! python="$(find_python venv ensurepip)"; then
    if ! find_python >/dev/null; then
      echo "error: no Python 3.10, 3.11 or 3.12 found: install one, or set PYTHON to its path" >&2
      exit 2
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
      echo "error: Python's venv module is missing: install it (Debian and Ubuntu: apt-get install python3-venv)" >&2
      exit 2
    fi
    say "Python's venv module is missing: apt-get install python3-venv"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    python="$(find_python venv ensurepip)" || { echo "error: python3-venv did not bring a usable Python" >&2; exit 2; }
  fi
  say "making .venv with $("$python" --version)"
  "$python" -m venv "$venv"
}

usable() { "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; }

if [ ! -e "$venv" ]; then
  make_venv
elif ! usable; then
  echo "error: $venv exists but its Python does not run (moved or half made): remove it and start again" >&2
  exit 2
fi

# paddlepaddle and paddlepaddle-gpu own the same files: where the GPU wheel is in place, keep it.
if [[ ",$extras," == *,cpu,* ]] && "$venv/bin/python" -m pip show -q paddlepaddle-gpu >/dev/null 2>&1; then
  say "paddlepaddle-gpu is installed: the CPU wheel is left out"
  extras="$(echo ",$extras," | sed 's/,cpu,/,/; s/^,//; s/,$//')"
fi

pins="$(cat "$root/constraints.txt" "$root/setup.py" "$root/pyproject.toml" | "$venv/bin/python" -c \
  'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
missing=()
for extra in ${extras//,/ }; do
  grep -qsx "$pins $extra" "$stamp" || missing+=("$extra")
done

if [ ${#missing[@]} = 0 ]; then
  say "reusing .venv ($("$venv/bin/python" --version), extras $extras)"
  exit 0
fi

SECONDS=0
say "installing the pinned packages of [$extras] into .venv (one or two minutes the first time)"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check \
  --constraint "$root/constraints.txt" --editable "$root[$extras]"
for extra in "${missing[@]}"; do echo "$pins $extra" >>"$stamp"; done
say "installed $("$venv/bin/python" -m pip list --format=freeze 2>/dev/null | wc -l) packages in $SECONDS s"

# Optional: without a compiler everything works, more slowly. Later changes are built at their first use.
if [[ ",$extras," == *,cpu,* ]]; then
  "$venv/bin/paddle-glm" kernels 2>&1 | sed 's/^/[setup] /' || true
fi
