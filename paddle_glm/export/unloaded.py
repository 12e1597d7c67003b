"""A model whose weights stay in its folder: layers to trace, and what reads each tensor for a writer."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import paddle

from paddle_glm.array_types import Array
from paddle_glm.auto.dygraph import DygraphOptions
from paddle_glm.checkpoint import Checkpoint, open_checkpoint
from paddle_glm.checkpoint.lazy_tensor import LazyTensor
from paddle_glm.checkpoint.quantize_on_load import QuantizingCheckpoint, quantize_on_load
from paddle_glm.hub import resolve_model_folder
from paddle_glm.models.base import CausalLM, lazy_tensors
from paddle_glm.models.family import family_of
from paddle_glm.numpy_interop import numpy_dtype
from paddle_glm.peft.lora import load_lora
from paddle_glm.peft.lora_config import check_adapter_shapes, read_lora_weights
from paddle_glm.peft.merge import merged_tensor
from paddle_glm.peft.prefix import attach_prefix_encoder, load_prefix


@dataclass(frozen=True)
class UnloadedModel:
    """model: its base's parameters have no memory. weights: the values of all parameters, by hub name."""

    model: CausalLM
    weights: dict[str, LazyTensor]


def open_unloaded(path: str | Path, options: DygraphOptions) -> UnloadedModel:
    """The model that `AutoModel.from_pretrained` would load with these options, whose dtype is not "auto".

    Float weights are read in chunks and quantised ones a tensor at a time, when they are written; adapters
    of float weights are merged into them. Raises `InputError` as `AutoModel.from_pretrained` does.
    """
    keywords, dtype = options.model_keywords(), options.dtype
    folder = resolve_model_folder(path)
    checkpoint = open_checkpoint(folder, options.family)
    checkpoint.validate()
    quantization = (keywords["quantization_bit"], keywords["quantization_group_size"])
    source = quantize_on_load(checkpoint, *quantization)
    config = source.config
    with paddle.LazyGuard():
        model: CausalLM = family_of(config).model_class()(config, dtype)
    model.eval()
    stored = {name for name, _ in model.named_parameters()}
    if config.pre_seq_len is not None:
        attach_prefix_encoder(model)
        load_prefix(model, folder)
    if options.ptuning_checkpoint is not None:
        load_prefix(model, options.ptuning_checkpoint)
    if options.lora_path is not None and config.quantization_bit:
        load_lora(model, options.lora_path)  # beside the integers
    weights = dict(lazy_tensors((name, one) for name, one in model.named_parameters() if name not in stored))
    weights.update({name: _stored_tensor(source, name, dtype) for name in stored})
    if options.lora_path is not None and not config.quantization_bit:
        _merge_lora(weights, checkpoint, options.lora_path)
    return UnloadedModel(model, weights)


def _stored_tensor(source: Checkpoint | QuantizingCheckpoint, name: str, dtype: str) -> LazyTensor:
    fixed = source.parameter_specs[name].dtype
    tensor = source.read_lazy(name, dtype=numpy_dtype(fixed or dtype))
    if fixed is None or not isinstance(source, QuantizingCheckpoint):
        return tensor
    # Reading a whole tensor of integers keeps its scales, which come next: each weight is rounded once.
    return LazyTensor(tensor.dtype, tensor.shape, partial(_read_whole, source, name))


def _read_whole(source: QuantizingCheckpoint, name: str) -> list[Array]:
    return [source.read(name)]


def _merge_lora(weights: dict[str, LazyTensor], checkpoint: Checkpoint, lora_path: str) -> None:
    lora = read_lora_weights(lora_path)
    check_adapter_shapes(lora, checkpoint.parameter_specs, lora_path)
    for module, (lora_a, lora_b) in lora.matrices.items():
        name, scaling = f"{module}.weight", lora.config.scaling_of(module)
        stored = checkpoint.read_lazy(name)
        weights[name] = merged_tensor(stored, lora_a, lora_b, scaling, weights[name].dtype, name)
