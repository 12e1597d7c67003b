"""LoRA adapters folded into a base folder, one tensor at a time; no framework is imported."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array
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
    """Write W + scale * B A for every adapted weight of the model in `source`; options are `reshard`'s.

    The sum is made in float32 and rounded to the dtype that is written.
    Raises `InputError` where the adapter is of another model, and for a quantised one: rounding would lose
    what the adapter has learnt.
    """
    weights = read_lora_weights(lora_path)

    def edit(checkpoint: Checkpoint, name: str, rank: int, degree: int, tensor: LazyTensor) -> LazyTensor:
        module = name.removesuffix(".weight")
        if module not in weights.pairs or module == name:
            return tensor
        specs = lora_specs(module, checkpoint.parameter_specs, weights.config.lora_rank_of(module))

        def chunks() -> Iterable[Array]:
            pieces = []
            for spec, array in zip(specs, weights.pairs[module], strict=True):
                pieces.append(spec.sharding.split(array, rank, degree).astype(np.float32))
            local = checkpoint.read(name, rank, degree).astype(np.float32)
            local += np.float32(weights.config.scaling_of(module)) * (pieces[1] @ pieces[0])
            return cast_chunks([local], tensor.dtype, name)

        return LazyTensor(tensor.dtype, tensor.shape, chunks)

    config = ModelConfig.from_pretrained(source, options.get("family"))
    if config.quantization_bit:
        raise InputError(
            f"{source} is quantised to {config.quantization_bit} bits: fold the adapter into the float model "
            "it was made from, then run `paddle-glm quantize`; or answer with both, --lora_path beside it"
        )
    check_adapter_shapes(weights, family_of(config).parameters(config), lora_path)
    return reshard(source, target, transform=edit, **options)
