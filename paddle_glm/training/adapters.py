"""From arguments to what is trained: all of the model, a prefix, or LoRA adapters."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from paddle_glm.checkpoint.tensor_file import open_safetensors
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.peft.adapter import Adapter
from paddle_glm.peft.lora import attach_lora, load_lora
from paddle_glm.peft.lora_config import DEFAULT_TARGETS, LoraConfig
from paddle_glm.peft.prefix import attach_prefix, load_prefix
from paddle_glm.training.arguments import ModelArguments


def wrap(model: CausalLM, wanted: ModelArguments, seed: int) -> Adapter | None:
    """Wrap the model as the arguments say and freeze the rest of it; None where all of it is trained.

    Raises `InputError` where an adapter to go on from is missing or does not fit model and arguments.
    """
    adapter = _prefix(model, wanted, seed) or _lora(model, wanted, seed)
    if adapter is None:
        return None
    adapter.freeze_model()
    return replace(
        adapter, settings={**adapter.settings, "base_model_name_or_path": wanted.model_name_or_path}
    )


def load_adapter(folder: Path, adapter: Adapter) -> None:
    """Fill the adapter from a folder that a run of the same method wrote."""
    path = folder / adapter.file
    if not path.is_file():
        raise InputError(f"{folder} holds no {adapter.file}: it was written by a run that trains otherwise")
    arrays: dict[str, np.ndarray] = open_safetensors(path)
    expected = {adapter.names[name]: spec.shape for name, spec in adapter.specs.items()}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise InputError(f"{path} holds tensors of other names or sizes: give the flags it was trained with")
    adapter.fill(arrays)


def _prefix(model: CausalLM, wanted: ModelArguments, seed: int) -> Adapter | None:
    length = wanted.prefix_length
    if wanted.ptuning_checkpoint is not None:
        return load_prefix(model, wanted.ptuning_checkpoint)
    if length is None:
        return None
    return attach_prefix(model, length, wanted.prefix_projection, seed=seed)


def _lora(model: CausalLM, wanted: ModelArguments, seed: int) -> Adapter | None:
    if wanted.lora_path is not None:
        return load_lora(model, wanted.lora_path)
    if not wanted.lora:
        return None
    targets = tuple(wanted.lora_target_modules or DEFAULT_TARGETS)
    config = LoraConfig(wanted.lora_rank, wanted.lora_alpha, wanted.lora_dropout, targets)
    return attach_lora(model, config, seed)
