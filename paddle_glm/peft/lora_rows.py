"""LoRA adapters of a server: each row of a batch has one of them, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.models.base import CausalLM
from paddle_glm.models.family import family_of
from paddle_glm.numpy_interop import step_tensor
from paddle_glm.parallel.collectives import reduce_from_group
from paddle_glm.parallel.layers import RowParallelLinear, linear
from paddle_glm.peft.lora import check_is_linear, linear_layers
from paddle_glm.peft.lora_config import check_adapter_shapes, lora_specs, read_lora_weights
from paddle_glm.sharding import ParameterSpec


class _LowRank(NamedTuple):
    """This rank's shards of one layer's matrices, of several adapters behind each other.

    lora_A: [ranks, in]; lora_B: [out, ranks], times the scale, both in the dtype of activations. ranks:
    (adapter, number of ranks) in this order.
    """

    lora_A: Tensor
    lora_B: Tensor
    ranks: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _RowsHook:
    """Adds B(mask * A(x)) to a layer's output. mask: [rows, 1, ranks], 1 for a row's own; None: all are."""

    matrices: _LowRank
    mask: Tensor | None

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        low_rank = linear(inputs[0], self.matrices.lora_A)
        if isinstance(layer, RowParallelLinear):
            low_rank = reduce_from_group(low_rank, layer.group)
        if self.mask is not None:
            low_rank = low_rank * self.mask
        return output + linear(low_rank, self.matrices.lora_B)


class LoraRows:
    """Named LoRA adapters of a model that generates; the model's blocks have hooks only while a row uses one.

    One product with the matrices of all adapters in use serves all rows: a row's own ranks are kept, the
    others are multiplied by 0, so that a row without an adapter gets + 0.
    """

    def __init__(self, model: CausalLM) -> None:
        self._model, self._layers = model, dict(linear_layers(model))
        self._adapters: dict[str, dict[str, _LowRank]] = {}
        self._several: dict[str, _LowRank] = {}  # the matrices of `_stacked`, by module
        self._stacked: set[str] = set()
        self._rows: tuple[str | None, ...] | None = ()  # that the hooks are for; None: some are missing
        self._handles: list[Any] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    def load(self, name: str, folder: str | Path) -> None:
        """Load an adapter folder, ours or PEFT's. Raises `InputError` for one of another model."""
        weights, config = read_lora_weights(folder), self._model.config
        base = family_of(config).float_parameters(config)
        check_adapter_shapes(weights, base, folder)
        check_is_linear(weights.matrices, self._layers)
        adapter = {}
        for module, (lora_a, lora_b) in weights.matrices.items():
            rank = weights.config.lora_rank_of(module)
            spec_a, spec_b = lora_specs(module, base, rank)
            scaled = lora_b.astype(np.float32) * np.float32(weights.config.scaling_of(module))
            adapter[module] = _LowRank(
                self._local(spec_a, lora_a.astype(np.float32)), self._local(spec_b, scaled), ((name, rank),)
            )
        self._adapters[name] = adapter

    def use(self, rows: Sequence[str | None]) -> None:
        """Let row i of the next steps have the adapter `rows[i]`; None: the model alone."""
        if self._rows == (rows := tuple(rows)):
            return
        self._rows = None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        names = [name for name in self._adapters if name in rows]
        masks: dict[Any, Tensor | None] = {}
        for module, matrices in self._matrices(names).items():
            if matrices.ranks not in masks:
                masks[matrices.ranks] = self._mask(matrices.ranks, rows)
            hook = _RowsHook(matrices, masks[matrices.ranks])
            self._handles.append(self._layers[module].register_forward_post_hook(hook))
        self._rows = rows

    def _matrices(self, names: Sequence[str]) -> Mapping[str, _LowRank]:
        """By module, the matrices of these adapters, perhaps with those of others."""
        if len(names) < 2:
            return self._adapters[names[0]] if names else {}
        if not self._stacked.issuperset(names):
            parts = {}
            for module in self._layers:
                found = [self._adapters[name][module] for name in names if module in self._adapters[name]]
                if found:
                    parts[module] = _stack(found)
            self._several, self._stacked = parts, set(names)
        return self._several

    def _mask(self, ranks: tuple[tuple[str, int], ...], rows: Sequence[str | None]) -> Tensor | None:
        names, sizes = zip(*ranks, strict=True)
        mask = np.array([[row == name for name in names] for row in rows], dtype=np.float32)
        if mask.all():
            return None
        spread = np.repeat(mask, sizes, axis=1)[:, None]
        return step_tensor(spread).astype(self._model.weight_format.compute_dtype)

    def _local(self, spec: ParameterSpec, whole: Array) -> Tensor:
        group = self._model.group
        local = spec.sharding.split(whole, group.rank, group.degree)
        return step_tensor(local).astype(self._model.weight_format.compute_dtype)


@paddle.no_grad()
def _stack(parts: Sequence[_LowRank]) -> _LowRank:
    lora_a = paddle.concat([part.lora_A for part in parts], axis=0)
    lora_b = paddle.concat([part.lora_B for part in parts], axis=1)
    return _LowRank(lora_a, lora_b, tuple(one for part in parts for one in part.ranks))
