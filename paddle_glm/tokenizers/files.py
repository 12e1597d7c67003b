"""The files of a tokenizer's folder."""

import json
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from paddle_glm.errors import InputError

CONFIG_FILE = "tokenizer_config.json"


def load_sentencepiece(path: Path) -> SentencePieceProcessor:
    """Load a SentencePiece model; raises `InputError` for a missing, truncated or different file."""
    if not path.is_file():
        raise InputError(
            f"{path} not found: a ChatGLM folder holds {path.name} beside its weights; copy it there"
        )
    if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not the model: run `git lfs pull` in that folder")
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) is not a whole SentencePiece model ({error}): "
            "download it again"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of `tokenizer_config.json`, {} if there is none."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): mend it or download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected an object")
    return values
