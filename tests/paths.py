"""Where tests find reference numbers and real data, which are not part of the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PADDLE_GLM_SHARED", ROOT.parent / "shared"))


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(
            f"{path.name} not found under {SHARED}: set PADDLE_GLM_SHARED to the folder that holds it"
        )
    return path


def reference(name: str) -> Path:
    """A file or folder of the originals' numbers; skips the test where they are missing."""
    return _existing(SHARED / "reference" / name)


def data(name: str) -> Path:
    """A file or folder of real data (tokenizers, AdvertiseGen, school_math); skips where missing."""
    return _existing(SHARED / "data" / name)
