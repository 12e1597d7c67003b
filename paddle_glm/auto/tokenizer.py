"""`AutoTokenizer`: the tokenizer of a folder, whichever family it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paddle_glm.config import FAMILY_KEY, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.hub import resolve_model_folder
from paddle_glm.models.family import get_family
from paddle_glm.models.registry import family_names
from paddle_glm.pretrained_kwargs import supported_kwargs
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.tokenizers.files import read_config
from paddle_glm.tokenizers.tokenizer_config_keys import check_tokenizer_config


class AutoTokenizer:
    """Builds the tokenizer of a folder's family."""

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        family: str | None = None,
        revision: str | None = None,
        download: bool | str | None = None,
        cache_dir: str | Path | None = None,
        **keywords: Any,
    ) -> Tokenizer:
        """The tokenizer of a hub folder, a merged folder, or a folder that `save_pretrained` wrote.

        family: one of `family_names()`, where the files do not name it.
        revision, download, cache_dir: as for `hub.resolve_model_folder`.
        keywords: `trust_remote_code` and similar ones, which have no effect: code in a folder is never run.
        Raises `InputError` for other keywords, an unknown family, and a folder or SentencePiece model that is
        missing or truncated.
        """
        supported_kwargs(keywords, ())
        path = resolve_model_folder(folder, download, revision, cache_dir)
        if not path.exists():
            raise InputError(f"{path} not found: expected a folder with a tokenizer model")
        name = family or detect_family(path if path.is_dir() else path.parent)
        tokenizer: Tokenizer = get_family(name).tokenizer_class().from_pretrained(path)
        check_tokenizer_config(tokenizer)
        return tokenizer


def detect_family(folder: Path) -> str:
    """The family by our own key, else by config.json, else by the name of the tokenizer's file."""
    values = read_config(folder)
    if FAMILY_KEY in values:
        return str(values[FAMILY_KEY])
    if (folder / "config.json").is_file():
        return ModelConfig.from_pretrained(folder).family
    text = json.dumps(values).lower()
    files = {name: get_family(name).vocab_file for name in family_names()}
    candidates = [name for name, file in files.items() if (folder / file).is_file()]
    if not candidates:
        raise InputError(f"{folder} holds no tokenizer: expected {' or '.join(sorted(set(files.values())))}")
    if len(candidates) == 1:
        return candidates[0]
    for name in reversed(candidates):
        if name in text:
            return name
    raise InputError(
        f"{folder} does not say which family its tokenizer belongs to (no config.json): "
        f"give --family (in Python family=), one of {', '.join(family_names())}"
    )
