"""LoRA (arXiv:2106.09685): low-rank updates attached to frozen linear layers.

The two matrices are sublayers `lora_A` and `lora_B` of the adapted layer, whose weight is unchanged: a
forward hook adds their output. A model may have several named adapters; the active one is attached.
"""

import zlib
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.models.family import family_of
from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.collectives import copy_to_group, reduce_from_group, reduce_replicated_grads
from paddle_glm.parallel.layers import ColumnParallelLinear, RowParallelLinear, linear, new_parameter
from paddle_glm.parallel.rng import sharded_rng
from paddle_glm.parallel.sequence import gather_tokens, reduce_scatter_tokens
from paddle_glm.peft.adapter import Adapter
from paddle_glm.peft.lora_config import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    LoraConfig,
    check_adapter_shapes,
    lora_specs,
    read_lora_weights,
    tensor_file_name,
)
from paddle_glm.sharding import ParameterSpec

DEFAULT_NAME = "default"  # what PEFT calls an only adapter


class _LoraMatrix(nn.Layer):
    """This rank's shard of A or B, float32."""

    def __init__(self, spec: ParameterSpec, group: ProcessGroup) -> None:
        super().__init__()
        shape = spec.sharding.local_shape(spec.shape, group.rank, group.degree)
        self.weight = new_parameter(
            self, shape, "float32", spec.sharding.axis is not None and group.degree > 1
        )


class _LoraHook:
    """Adds scale * B(A(dropout(x))) to a layer's output for x; A and B are sharded like the layer."""

    def __init__(self, dropout: float, scale: float) -> None:
        self.dropout, self.scale = dropout, scale

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, group, slices = inputs[0], layer.group, layer.token_group
        is_column, is_sliced = isinstance(layer, ColumnParallelLinear), slices.degree > 1
        if self.dropout and layer.training:
            x = self._apply_dropout(x, group, replicated=is_column and not is_sliced)
        if is_column:
            low_rank = linear(x, copy_to_group(layer.lora_A.weight, slices))
            # A x is replicated; each rank's rows of B compute its shard of the output.
            rows = reduce_replicated_grads(layer.lora_B.weight, layer.replicated_rows, group)
            whole = gather_tokens(low_rank, slices) if is_sliced else copy_to_group(low_rank, group)
            return output + self.scale * linear(whole, rows)
        low_rank = linear(x, layer.lora_A.weight)
        total = reduce_scatter_tokens(low_rank, slices) if is_sliced else reduce_from_group(low_rank, group)
        return output + self.scale * linear(total, copy_to_group(layer.lora_B.weight, slices))

    def _apply_dropout(self, x: Tensor, group: ProcessGroup, replicated: bool) -> Tensor:
        if replicated:
            return F.dropout(x, self.dropout)
        with sharded_rng(group):
            return F.dropout(x, self.dropout)


@dataclass(frozen=True)
class _LoraLayer:
    """The matrices and the hook of one adapter for one linear layer."""

    lora_A: _LoraMatrix
    lora_B: _LoraMatrix
    hook: _LoraHook

    def attach_to(self, layer: Any) -> None:
        layer.lora_A, layer.lora_B, layer.lora_hook = self.lora_A, self.lora_B, self.hook
        layer.lora_handle = layer.register_forward_post_hook(self.hook)

    @staticmethod
    def detach_from(layer: Any) -> None:
        layer.lora_handle.remove()
        del layer.lora_A, layer.lora_B, layer.lora_hook, layer.lora_handle


@dataclass
class _AdapterRegistry:
    """{adapter name: {module: layer}} of a model, and the name of the active adapter."""

    adapters: dict[str, dict[str, _LoraLayer]] = field(default_factory=dict)
    active: str | None = None


def attach_lora(model: CausalLM, config: LoraConfig, seed: int = 0, name: str = DEFAULT_NAME) -> Adapter:
    """Attach an untrained adapter to the linear layers selected by `config`, and activate it.

    A is initialised as in PEFT, uniform(-1/sqrt(in), 1/sqrt(in)), depending only on `seed` and names, B with
    zeros, so outputs do not change yet. Raises `InputError` if no layer matches or the name is taken.
    """
    modules = [module for module, _ in linear_layers(model) if config.matches(module)]
    if not modules:
        known = ", ".join(sorted({module.rpartition(".")[2] for module, _ in linear_layers(model)}))
        raise InputError(
            f"lora_target_modules {' '.join(config.target_modules)}: the model's linear layers are {known}"
        )
    adapter = _inject_adapter(model, config, modules, name)
    arrays = {}
    for key, spec in adapter.specs.items():
        array = np.zeros(spec.shape, np.float32)
        if key.endswith("lora_A.weight"):
            generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
            limit = spec.shape[1] ** -0.5
            array = generator.uniform(-limit, limit, spec.shape).astype(np.float32)
        arrays[adapter.file_names[key]] = array
    adapter.load_arrays(arrays)
    return adapter


def load_lora(model: CausalLM, folder: str | Path, name: str = DEFAULT_NAME) -> Adapter:
    """Load an adapter folder, ours or PEFT's, under a name, and activate it.

    Raises `InputError` if the folder has no adapter or one of another model, or if the name is taken.
    """
    weights = read_lora_weights(folder)
    check_adapter_shapes(weights, family_of(model.config).float_parameters(model.config), folder)
    adapter = _inject_adapter(model, weights.config, list(weights.matrices), name)
    arrays = {}
    for module, (lora_a, lora_b) in weights.matrices.items():
        arrays[tensor_file_name(module, "A")] = lora_a
        arrays[tensor_file_name(module, "B")] = lora_b
    adapter.load_arrays(arrays)
    return adapter


def use_lora(model: CausalLM, name: str | None) -> None:
    """Activate the adapter of that name; None: use the base model alone.

    Raises `InputError` if the model has no such adapter.
    """
    registry = _registry_of(model)
    if name is not None and name not in registry.adapters:
        known = ", ".join(map(repr, registry.adapters)) or "none"
        raise InputError(f"the model has no adapter {name!r}; it has {known}: load one with load_lora")
    layers = dict(linear_layers(model))
    for module in registry.adapters[registry.active] if registry.active is not None else ():
        _LoraLayer.detach_from(layers[module])
    registry.active = name
    for module, lora_layer in registry.adapters[name].items() if name is not None else ():
        lora_layer.attach_to(layers[module])


def adapter_names(model: CausalLM) -> list[str]:
    """The names of the model's adapters, in the order in which they were attached."""
    return list(_registry_of(model).adapters)


@paddle.no_grad()
def merge_and_unload(model: CausalLM) -> None:
    """Merge the active adapter into the weights and remove all adapters; the model must not be sharded.

    Raises `InputError` for a quantised model, since rounding would lose the update.
    """
    if model.config.quantization_bit:
        raise InputError("LoRA cannot be merged into quantised weights: merge it into the float model")
    registry = _registry_of(model)
    active = registry.adapters[registry.active] if registry.active is not None else {}
    use_lora(model, None)
    registry.adapters.clear()
    layers = dict(linear_layers(model))
    for module, lora_layer in active.items():
        delta = paddle.matmul(lora_layer.lora_B.weight, lora_layer.lora_A.weight) * lora_layer.hook.scale
        weight = layers[module].weight
        weight.set_value((weight.astype("float32") + delta).astype(weight.dtype))


def _inject_adapter(model: CausalLM, config: LoraConfig, modules: list[str], name: str) -> Adapter:
    registry = _registry_of(model)
    if name in registry.adapters:
        raise InputError(f"the model has an adapter {name!r} already: give this one another name")
    float_specs = family_of(model.config).float_parameters(model.config)
    check_is_linear(modules, dict(linear_layers(model)))
    specs: dict[str, ParameterSpec] = {}
    tensors: dict[str, Tensor] = {}
    adapter: dict[str, _LoraLayer] = {}
    for module in modules:
        matrix_specs = lora_specs(module, float_specs, config.lora_rank_of(module))
        lora_a, lora_b = (_LoraMatrix(spec, model.group) for spec in matrix_specs)
        adapter[module] = _LoraLayer(lora_a, lora_b, _LoraHook(config.dropout, config.scaling_of(module)))
        for letter, matrix, spec in zip("AB", (lora_a, lora_b), matrix_specs, strict=True):
            specs[f"{module}.lora_{letter}.weight"] = spec
            tensors[f"{module}.lora_{letter}.weight"] = matrix.weight
    registry.adapters[name] = adapter
    use_lora(model, name)
    names = {key: f"base_model.model.{key}" for key in specs}
    return Adapter(model, tensors, specs, names, ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE, config.to_peft())


def _registry_of(model: Any) -> _AdapterRegistry:
    """The model's adapters, stored as an attribute that the model class does not know."""
    if not hasattr(model, "lora_adapters"):
        model.lora_adapters = _AdapterRegistry()
    registry: _AdapterRegistry = model.lora_adapters
    return registry


def linear_layers(model: CausalLM) -> list[tuple[str, Any]]:
    """(name, layer) of the layers that can have an adapter."""
    kinds = (ColumnParallelLinear, RowParallelLinear)
    return [(name, layer) for name, layer in model.named_sublayers() if isinstance(layer, kinds)]


def check_is_linear(modules: Iterable[str], layers: Container[str]) -> None:
    """Raise `InputError` for a module that is not one of `linear_layers`."""
    for module in modules:
        if module not in layers:
            raise InputError(f"{module} cannot have an adapter: it is not one of the model's linear layers")
