"""Replaces main.py in THUDM's ptuning/train.sh and evaluate.sh: the same as `paddle-glm ptuning`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_glm.main import main

if __name__ == "__main__":
    raise SystemExit(main(["ptuning", *sys.argv[1:]]))
