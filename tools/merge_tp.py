"""Merges tensor-parallel shards into one checkpoint: the same as `paddle-glm merge`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_glm.main import main

if __name__ == "__main__":
    raise SystemExit(main(["merge", *sys.argv[1:]]))
