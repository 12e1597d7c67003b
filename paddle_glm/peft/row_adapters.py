"""Adapters of a server, by name: each row of a batch has one of them, or none."""

from collections.abc import Sequence
from pathlib import Path

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.kv_cache.tensors import PrefixCache
from paddle_glm.models.base import CausalLM
from paddle_glm.peft.lora_config import ADAPTER_CONFIG_FILE, read_lora_config
from paddle_glm.peft.lora_rows import LoraRows
from paddle_glm.peft.prefix import open_prefix, read_fitting_prefix


class NamedAdapters:
    """LoRA adapters and P-Tuning v2 prefixes of a model (`paddle_glm.models.dygraph.RowAdapters`)."""

    def __init__(self, model: CausalLM) -> None:
        self._model, self._lora = model, LoraRows(model)
        self._prefixes: dict[str, PrefixCache | None] = {}  # None: a LoRA adapter

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._prefixes)

    def load(self, name: str, folder: str | Path) -> None:
        """Load an adapter folder. Raises `InputError` for one of another model, or without an adapter."""
        prefix = None
        if _has_lora(folder):
            self._lora.load(name, folder)
        else:
            prefix = open_prefix(self._model, folder)
        self._prefixes[name] = prefix

    def prefix(self, name: str) -> PrefixCache | None:
        """That rows of this adapter have in place of the model's own; None: the adapter is none."""
        return self._prefixes[name]

    def use(self, rows: Sequence[str | None]) -> None:
        """Let row i of the next steps have the adapter `rows[i]`, whose prefix is in the cache."""
        self._lora.use([None if name is None or self._prefixes[name] else name for name in rows])


def check_adapter_folder(folder: str | Path, config: ModelConfig) -> None:
    """Raise `InputError`, without the model, for a folder that `NamedAdapters.load` does not take."""
    if _has_lora(folder):
        read_lora_config(folder)
    else:
        read_fitting_prefix(folder, config)


def _has_lora(folder: str | Path) -> bool:
    if not Path(folder).is_dir():
        raise InputError(f"{folder} not found: expected the folder of a LoRA adapter or of a prefix")
    return (Path(folder) / ADAPTER_CONFIG_FILE).is_file()
