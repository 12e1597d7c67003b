"""GPTQ (arXiv:2210.17323) over a float model, one block at a time, calibrated on rows of data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_glm.array_types import Array
from paddle_glm.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from paddle_glm.checkpoint.reshard import ConversionResult, reshard
from paddle_glm.errors import InputError
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.models.base import CausalLM
from paddle_glm.models.family import family_of
from paddle_glm.numpy_interop import writable_array
from paddle_glm.parallel.layers import ColumnParallelLinear, RowParallelLinear
from paddle_glm.quantization import (
    QuantizationConfig,
    QuantizedWeight,
    dequantize,
    quantization_of,
    weight_name,
)
from paddle_glm.quantization.gptq import gptq

# (blocks done, blocks in all)
ProgressCallback = Callable[[int, int], None]


@dataclass
class _BlockInput:
    """The inputs of a block for one batch; token_mask: bool [batch, tokens], False for padding."""

    x: Tensor
    positions: Any
    mask: AttentionMask
    token_mask: Tensor


def gptq_quantize_folder(
    source: Path | str,
    target: Path | str,
    batches: Iterable[Mapping[str, Array]],
    bits: int,
    group_size: int | None = None,
    embeddings: bool = False,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> ConversionResult:
    """Write the float model in `source`, quantised by GPTQ with `batches` as calibration data.

    bits, group_size, embeddings: as for `CausalLM.quantize`. batches, progress: as for `calibrate`; weights
    that it leaves out are rounded to nearest. options: those of `reshard`.
    """
    checkpoint = open_checkpoint(source, options.get("family"))
    checkpoint.validate()
    family = family_of(checkpoint.config)
    config = family.quantized_config(checkpoint.config, bits, group_size, embeddings)
    specs, quantization = family.parameters(config), quantization_of(config)
    assert quantization is not None
    linear_only = replace(quantization, embeddings=False)
    calibrated = {name for name, spec in checkpoint.parameter_specs.items() if linear_only.applies_to(spec)}

    @cache
    def calibrated_weights() -> dict[str, QuantizedWeight]:
        # Computed when the first one is written: the target has been checked by then.
        return calibrate(checkpoint, quantization, batches, progress)

    def replace_tensor(_: Checkpoint, name: str, rank: int, degree: int, tensor: LazyTensor) -> LazyTensor:
        weight = weight_name(name)
        if weight not in calibrated:
            return tensor
        field = QuantizedWeight._fields.index("values" if name == weight else "scale")
        split = specs[name].sharding.split
        return LazyTensor(
            tensor.dtype, tensor.shape, lambda: [split(calibrated_weights()[weight][field], rank, degree)]
        )

    quantize = (bits, group_size, embeddings)
    return reshard(source, target, transform=replace_tensor, quantize=quantize, **options)


@paddle.no_grad()
def calibrate(
    checkpoint: Checkpoint,
    quantization: QuantizationConfig,
    batches: Iterable[Mapping[str, Array]],
    progress: ProgressCallback | None = None,
) -> dict[str, QuantizedWeight]:
    """GPTQ of the linear weights in a float model's blocks, by name; without embedding and head.

    batches: int64 `input_ids`, `attention_mask` [batch, tokens] and `position_ids` of texts like those that
    the model will see. Each block is calibrated on the outputs of the quantised blocks below it. Memory: one
    block in float32, the embedding and the head, the batches' activations, Hessians [in, in] of the block's
    layers, and the results. Raises `InputError` for a weight that cannot be quantised.
    """
    model = family_of(checkpoint.config).model_class()(
        replace(checkpoint.config, num_layers=1, pre_seq_len=None)
    )
    model.eval()
    [block] = model.blocks()
    [first_path] = [f"{name}." for name, layer in model.named_sublayers() if layer is block]
    for name, parameter in model.named_parameters():
        if not name.startswith(first_path):
            _load_parameter(parameter, checkpoint, name)
    block_inputs = [_embed_batch(model, batch) for batch in batches]
    quantized: dict[str, QuantizedWeight] = {}
    for index in range(checkpoint.config.num_layers):
        block_path = f"{first_path.removesuffix('0.')}{index}."
        for name, parameter in block.named_parameters():
            _load_parameter(parameter, checkpoint, block_path + name)
        for name, weight in _quantize_block(block, block_inputs, quantization, block_path):
            quantized[f"{block_path}{name}.weight"] = weight
        for block_input in block_inputs:
            block_input.x = block(block_input.x, block_input.positions, block_input.mask)
        if progress is not None:
            progress(index + 1, checkpoint.config.num_layers)
    return quantized


def _load_parameter(parameter: paddle.Tensor, checkpoint: Checkpoint, name: str) -> None:
    with writable_array(parameter) as values:
        checkpoint.read_into(values, name)


def _embed_batch(model: CausalLM, batch: Mapping[str, Array]) -> _BlockInput:
    names = ("input_ids", "position_ids", "attention_mask")
    ids, positions, attention = (paddle.to_tensor(batch[name]) for name in names)
    mask = model.build_attention_mask(ids, positions, attention)
    return _BlockInput(model.embed(ids), model.position_embeddings(positions), mask, attention != 0)


def _quantize_block(
    block: nn.Layer, block_inputs: Sequence[_BlockInput], quantization: QuantizationConfig, block_path: str
) -> Iterable[tuple[str, QuantizedWeight]]:
    """(name, quantised weight) of the block's linear layers, whose weights are replaced by the rounded ones.

    The inputs of all layers are taken from the float block in one pass; a pass per layer, after rounding
    those before it, measured no better.
    """
    layers = {
        name: layer
        for name, layer in block.named_sublayers()
        if isinstance(layer, (ColumnParallelLinear, RowParallelLinear))
    }
    hessians = _hessians(block, layers, block_inputs)
    for name, layer in layers.items():
        try:
            weight = gptq(
                layer.weight.numpy(), hessians.pop(name), quantization.bits, quantization.group_size
            )
        except InputError as error:
            raise InputError(f"{block_path}{name}.weight cannot be quantised: {error}") from error
        layer.weight.set_value(dequantize(*weight, quantization.bits))
        yield name, weight


def _hessians(
    block: nn.Layer, layers: Mapping[str, Any], block_inputs: Sequence[_BlockInput]
) -> dict[str, Array]:
    """X^T X, float64 [in, in], of the inputs X of each of the block's layers."""
    sums = {name: np.zeros([layer.weight.shape[1]] * 2) for name, layer in layers.items()}

    def hessian_hook(name: str, token_mask: Tensor) -> Callable[[nn.Layer, tuple[Tensor, ...]], None]:
        def add(layer: nn.Layer, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0][token_mask]
            sums[name] += paddle.matmul(x, x, transpose_x=True).numpy()

        return add

    for block_input in block_inputs:
        handles = [
            layer.register_forward_pre_hook(hessian_hook(name, block_input.token_mask))
            for name, layer in layers.items()
        ]
        block(block_input.x, block_input.positions, block_input.mask)
        for handle in handles:
            handle.remove()
    return sums
