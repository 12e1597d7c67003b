"""Merge LoRA adapters into a model folder, one tensor at a time; imports no framework."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.lazy_tensor import LazyTensor, cast_chunks
from paddle_glm.checkpoint.reader import Checkpoint
from paddle_glm.checkpoint.reshard import ConversionResult, reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from paddle_glm.peft.lora_config import check_adapter_shapes, lora_specs, read_lora_weights


def merge_lora(
    source: Path | str, lora_path: Path | str, target: Path | str, **options: Any
) -> ConversionResult:
    """Write the model in `source` with W + scale * B A for every adapted weight; options are `reshard`'s.

    Computed in float32 and rounded to the target dtype. Raises `InputError` if the adapter is of another
    model, and for a quantised model, since rounding would lose the update.
    """
    weights = read_lora_weights(lora_path)

    def merge_tensor(
        checkpoint: Checkpoint, name: str, rank: int, degree: int, tensor: LazyTensor
    ) -> LazyTensor:
        module = name.removesuffix(".weight")
        if module not in weights.matrices or module == name:
            return tensor
        specs = lora_specs(module, checkpoint.parameter_specs, weights.config.lora_rank_of(module))
        lora_a, lora_b = (
            spec.sharding.split(array, rank, degree)
            for spec, array in zip(specs, weights.matrices[module], strict=True)
        )
        stored = checkpoint.read_lazy(name, rank, degree)
        return merged_tensor(stored, lora_a, lora_b, weights.config.scaling_of(module), tensor.dtype, name)

    config = ModelConfig.from_pretrained(source, options.get("family"))
    if config.quantization_bit:
        raise InputError(
            f"{source} is quantised to {config.quantization_bit} bits: merge the adapter into the float "
            "model, then run `paddle-glm quantize`; or keep both and pass --lora_path"
        )
    check_adapter_shapes(weights, family_of(config).parameters(config), lora_path)
    return reshard(source, target, transform=merge_tensor, **options)


def merged_tensor(
    weight: LazyTensor, lora_a: Array, lora_b: Array, scaling: float, dtype: DType, name: str
) -> LazyTensor:
    """weight [out, in] + scaling * B [out, rank] A [rank, in] in `dtype`, computed a block of rows at a time.

    name: of the weight, for messages.
    """

    def chunks() -> Iterator[Array]:
        a, start = lora_a.astype(np.float32), 0
        for rows in weight.chunks():
            b = lora_b[start : start + len(rows)].astype(np.float32)
            start += len(rows)
            yield rows.astype(np.float32) + np.float32(scaling) * (b @ a)

    return LazyTensor(dtype, weight.shape, lambda: cast_chunks(chunks(), dtype, name))
