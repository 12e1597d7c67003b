"""Detect adapter folders that are passed where a model folder is expected."""

import json
from pathlib import Path

from paddle_glm.errors import InputError

# Config file of each kind of adapter -> the flag for such a folder.
ADAPTER_FLAGS = {"prefix_config.json": "--ptuning_checkpoint", "adapter_config.json": "--lora_path"}


def check_is_model_folder(folder: str | Path) -> None:
    """Raise `InputError` for a folder that contains only a prefix or LoRA, with the flag for it."""
    for name, flag in ADAPTER_FLAGS.items():
        path = Path(folder) / name
        if not path.is_file() or (path.parent / "config.json").is_file():
            continue
        try:
            base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None
        raise InputError(
            f"{folder} has no model, only an adapter: give --model_name_or_path {base or 'BASE'} "
            f"{flag} {folder}"
        )
