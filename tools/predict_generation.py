"""Generates answers for the rows of a file: the same as `paddle-glm predict`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_glm.main import main

if __name__ == "__main__":
    raise SystemExit(main(["predict", *sys.argv[1:]]))
