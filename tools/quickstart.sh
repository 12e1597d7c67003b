#!/usr/bin/env bash
# From nothing to answers on a machine with Python 3.10-3.12: makes .venv, then runs the whole chain.
#   bash tools/quickstart.sh                 rows from a grammar; offline but for the packages
#   bash tools/quickstart.sh --data FOLDER   real rows (train.json and dev.json, as AdvertiseGen has)
#   bash tools/quickstart.sh --method lora|ptuning|full --quantization_bit 8|4
# Everything goes to ./quickstart, which is made anew each time.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SECONDS=0
bash "$root/tools/setup_env.sh" cpu,train
cd "$root"
exec .venv/bin/python -m tools.quickstart --setup_seconds "$SECONDS" "$@"
