"""Adds the prefix or the LoRA adapters that the arguments ask for to a model, or loads them."""

from dataclasses import replace
from pathlib import Path

from paddle_glm.array_types import Array
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.peft.adapter import Adapter
from paddle_glm.peft.lora import attach_lora, load_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.lora_keys import DEFAULT_TARGET_MODULES
from paddle_glm.peft.prefix import attach_prefix, load_prefix
from paddle_glm.training.model_arguments import ModelArguments


def create_adapter(model: CausalLM, model_args: ModelArguments, seed: int) -> Adapter | None:
    """Add a prefix or LoRA to the model and freeze the model; None where the whole model is trained.

    Raises `InputError` where a trained adapter is missing or does not fit model and arguments.
    """
    adapter = _create_prefix(model, model_args, seed) or _create_lora(model, model_args, seed)
    if adapter is None:
        return None
    adapter.freeze_base_model()
    return replace(
        adapter,
        config_values={**adapter.config_values, "base_model_name_or_path": model_args.model_name_or_path},
    )


def load_adapter_weights(folder: Path, adapter: Adapter) -> None:
    """Load the adapter's weights from a checkpoint of the same method; raises `InputError` for others."""
    path = folder / adapter.weights_file
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {adapter.weights_file}: it is a checkpoint of another training method"
        )
    arrays: dict[str, Array] = open_safetensors(path)
    expected = {adapter.file_names[name]: spec.shape for name, spec in adapter.specs.items()}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise InputError(f"{path} holds tensors of other names or sizes: give the flags it was trained with")
    adapter.load_arrays(arrays)


def _create_prefix(model: CausalLM, model_args: ModelArguments, seed: int) -> Adapter | None:
    length = model_args.prefix_length
    if model_args.ptuning_checkpoint is not None:
        return load_prefix(model, model_args.ptuning_checkpoint)
    if length is None:
        return None
    return attach_prefix(model, length, model_args.prefix_projection, seed=seed)


def _create_lora(model: CausalLM, model_args: ModelArguments, seed: int) -> Adapter | None:
    if model_args.lora_path is not None:
        return load_lora(model, model_args.lora_path)
    if not model_args.lora:
        return None
    targets = tuple(model_args.lora_target_modules or DEFAULT_TARGET_MODULES)
    config = LoraConfig(model_args.lora_rank, model_args.lora_alpha, model_args.lora_dropout, targets)
    return attach_lora(model, config, seed)
