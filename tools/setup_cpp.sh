#!/usr/bin/env bash
# What cpp_infer needs to be built, from apt: does nothing where it is there already.
#   bash tools/setup_cpp.sh
set -euo pipefail

packages=(cmake g++ make pkg-config libsentencepiece-dev nlohmann-json3-dev)

complete() {
  command -v cmake g++ make pkg-config >/dev/null && pkg-config --exists sentencepiece nlohmann_json
}

complete 2>/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "error: cpp_infer needs packages (Debian and Ubuntu: apt-get install ${packages[*]})" >&2
  exit 2
fi
echo "[setup] apt-get install ${packages[*]}"
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
complete || { echo "error: the packages do not bring all that cpp_infer needs" >&2; exit 2; }
