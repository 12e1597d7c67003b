"""LoRA (arXiv:2106.09685): a trained product of two thin matrices beside frozen linear layers.

Both stand as sublayers `lora_A` and `lora_B` in the layer whose output they add to, which is left as it is:
a hook behind its forward adds theirs.
"""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.errors import InputError
from paddle_glm.families import ParameterSpec, family_of
from paddle_glm.parallel import TPGroup
from paddle_glm.parallel.layers import ColumnLinear, RowLinear, linear, new_parameter
from paddle_glm.parallel.ops import copy_to_group, reduce_from_group, sum_shared_rows
from paddle_glm.parallel.random import sharded_rng
from paddle_glm.peft.adapter import Adapter
from paddle_glm.peft.lora_config import (
    CONFIG_FILE,
    FILE,
    LoraConfig,
    LoraWeights,
    file_name,
    read_lora,
    specs_of,
)

if TYPE_CHECKING:
    from paddle_glm.models.base import CausalLM


class _Factor(nn.Layer):
    """One of the two matrices, float32, this process's slice."""

    def __init__(self, spec: ParameterSpec, group: TPGroup) -> None:
        super().__init__()
        shape = spec.sharding.local_shape(spec.shape, group.rank, group.degree)
        self.weight = new_parameter(
            self, shape, "float32", spec.sharding.axis is not None and group.degree > 1
        )


class _Hook:
    """Adds scale * B(A(dropout(x))) to what a layer gives for x; A and B are cut as the layer is."""

    def __init__(self, config: LoraConfig) -> None:
        self.dropout, self.scale = config.dropout, config.scale

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, group = inputs[0], layer.group
        is_column = isinstance(layer, ColumnLinear)
        if self.dropout and layer.training:
            x = self._dropped(x, group, whole=is_column)
        thin = linear(x, layer.lora_A.weight)
        if is_column:
            # Every process has all of A x, of which its rows of B make its part of the output.
            rows = sum_shared_rows(layer.lora_B.weight, layer.shared, group)
            added = linear(copy_to_group(thin, group), rows)
        else:
            added = linear(reduce_from_group(thin, group), layer.lora_B.weight)
        return output + self.scale * added

    def _dropped(self, x: Tensor, group: TPGroup, whole: bool) -> Tensor:
        if whole:
            return F.dropout(x, self.dropout)
        with sharded_rng(group):
            return F.dropout(x, self.dropout)


def attach_lora(model: "CausalLM", config: LoraConfig, seed: int = 0) -> Adapter:
    """Put untrained adapters beside the linear layers that `config` names; they change nothing yet.

    A begins as PEFT's, uniform(-1/sqrt(inputs), 1/sqrt(inputs)), by `seed` and name alone, B as zeros.
    Raises `InputError` where no layer has such a name.
    """
    modules = [name for name, layer in _linear_layers(model) if config.matches(name)]
    if not modules:
        known = ", ".join(sorted({name.rpartition(".")[2] for name, _ in _linear_layers(model)}))
        raise InputError(
            f"lora_target_modules {' '.join(config.targets)}: the model's linear layers are {known}"
        )
    adapter = _attach(model, config, modules)
    arrays = {}
    for name, spec in adapter.specs.items():
        array = np.zeros(spec.shape, np.float32)
        if name.endswith("lora_A.weight"):
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            limit = spec.shape[1] ** -0.5
            array = generator.uniform(-limit, limit, spec.shape).astype(np.float32)
        arrays[adapter.names[name]] = array
    adapter.fill(arrays)
    return adapter


def load_lora(model: "CausalLM", folder: str | Path) -> Adapter:
    """Give the model the adapter in a folder, ours or PEFT's.

    Raises `InputError` where the folder holds none, or one of another model.
    """
    weights = read_lora(folder)
    adapter = _attach(model, weights.config, list(weights.pairs))
    for name, spec in adapter.specs.items():
        module, _, part = name.removesuffix(".weight").rpartition(".lora_")
        found = weights.pairs[module][part == "B"].shape
        if found != spec.shape:
            raise InputError(f"{folder}: {name} has shape {found}, the model needs {spec.shape}")
    fill_lora(adapter, weights)
    return adapter


def fill_lora(adapter: Adapter, weights: LoraWeights) -> None:
    """Set an adapter's parameters, in place, from what a folder holds."""
    pairs = weights.pairs.items()
    adapter.fill({file_name(module, part): pair[part == "B"] for module, pair in pairs for part in "AB"})


@paddle.no_grad()
def fold_lora(model: "CausalLM") -> None:
    """Add every adapter to the weight beside it and take it away; the whole model must be here."""
    for _, layer in list(_linear_layers(model)):
        if "lora_A" not in layer._sub_layers:
            continue
        delta = paddle.matmul(layer.lora_B.weight, layer.lora_A.weight) * layer.lora_hook.scale
        weight = layer.weight
        weight.set_value((weight.astype("float32") + delta).astype(weight.dtype))
        layer.lora_handle.remove()
        del layer.lora_A, layer.lora_B


def _attach(model: "CausalLM", config: LoraConfig, modules: list[str]) -> Adapter:
    table, layers = family_of(model.config).parameters(model.config), dict(_linear_layers(model))
    specs: dict[str, ParameterSpec] = {}
    for module in modules:
        pair = specs_of(module, table, config.rank)
        if module not in layers:
            raise InputError(f"{module} takes no adapter: the model's linear layers do")
        layer = layers[module]
        if "lora_A" in layer._sub_layers:
            raise InputError(f"{module} has an adapter already: one at a time")
        for part, spec in zip("AB", pair, strict=True):
            layer.add_sublayer(f"lora_{part}", _Factor(spec, model.group))
            specs[f"{module}.lora_{part}.weight"] = spec
        layer.lora_hook = _Hook(config)
        layer.lora_handle = layer.register_forward_post_hook(layer.lora_hook)
    names = {name: f"base_model.model.{name}" for name in specs}
    settings = config.to_peft()
    return Adapter(model, specs, names, FILE, CONFIG_FILE, settings)


def _linear_layers(model: "CausalLM") -> list[tuple[str, Any]]:
    kinds = (ColumnLinear, RowLinear)
    return [(name, layer) for name, layer in model.named_sublayers() if isinstance(layer, kinds)]
