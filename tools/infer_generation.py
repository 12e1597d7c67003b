"""Runs an exported graph: the same as `paddle-glm infer`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_glm.main import main

if __name__ == "__main__":
    raise SystemExit(main(["infer", *sys.argv[1:]]))
