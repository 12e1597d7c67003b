"""Folders that hold what was trained beside a model, given where a model is expected."""

import json
from pathlib import Path

from paddle_glm.errors import InputError

# The small configuration of each kind -> the flag that takes such a folder.
ADAPTER_FLAGS = {"prefix_config.json": "--ptuning_checkpoint", "adapter_config.json": "--lora_path"}


def check_is_model_folder(folder: str | Path) -> None:
    """Raise `InputError` for a folder of a prefix or of adapters alone, saying how to give it."""
    for name, flag in ADAPTER_FLAGS.items():
        path = Path(folder) / name
        if not path.is_file() or (path.parent / "config.json").is_file():
            continue
        try:
            base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None
        raise InputError(
            f"{folder} holds no model, only what was trained beside one: give --model_name_or_path "
            f"{base or 'BASE'} {flag} {folder}"
        )
