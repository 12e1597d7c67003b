"""`half`, `bfloat16`, `float` and `cast` of a model in memory."""

from typing import Any, TypeVar

import paddle

from paddle_glm.config import DTYPES
from paddle_glm.errors import InputError
from paddle_glm.models.prefix_encoder import PREFIX_ENCODER
from paddle_glm.parallel.layers import ParallelWeight, WeightFormat, new_parameter

_Model = TypeVar("_Model", bound="DtypeMixin")


class DtypeMixin:
    """Mixin of `CausalLM`; its methods work in place, one weight at a time."""

    def half(self: _Model) -> _Model:
        """Cast float weights to float16; see `cast`."""
        return self.cast("float16")

    def float16(self: _Model, *_: Any) -> _Model:
        """Cast float weights to float16; see `cast`."""
        return self.cast("float16")

    def bfloat16(self: _Model, *_: Any) -> _Model:
        """Cast float weights to bfloat16; see `cast`."""
        return self.cast("bfloat16")

    def float(self: _Model, *_: Any) -> _Model:
        """Cast float weights to float32; see `cast`. Earlier rounding is not undone."""
        return self.cast("float32")

    def double(self: _Model, *_: Any) -> _Model:
        """Raise `InputError`: float64 is not supported."""
        return self.cast("float64")

    @paddle.no_grad()
    def cast(self: _Model, dtype: Any) -> _Model:
        """Cast float weights to `dtype` (anything `canonical_dtype_name` accepts); returns the model.

        Quantised weights, their scales, prefixes and LoRA adapters are unchanged. Parameters are replaced by
        new objects, so create optimizers afterwards. Raises `InputError` for an unsupported dtype.
        """
        model: Any = self
        dtype = canonical_dtype_name(dtype)
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        table = model.family.parameters(model.config)
        layers = dict(model.named_sublayers())
        for name, old in list(model.named_parameters()):
            if name not in table or table[name].dtype is not None or name.startswith(PREFIX_ENCODER):
                continue
            owner, _, attribute = name.rpartition(".")
            new = new_parameter(layers[owner], tuple(old.shape), dtype, old.is_distributed)
            new.set_value(old.astype(dtype))
            new.stop_gradient = old.stop_gradient
            setattr(layers[owner], attribute, new)
        model.weight_format = WeightFormat(dtype, model.weight_format.quantization)
        for layer in layers.values():
            if isinstance(layer, ParallelWeight):
                layer.weight_format = model.weight_format
        model.rotary_table.set_value(paddle.to_tensor(model.build_rotary_table()))
        if (encoder := getattr(model.transformer, "prefix_encoder", None)) is not None:
            encoder.weight_dtype = model.weight_dtype
        return self


def canonical_dtype_name(dtype: Any) -> str:
    """Canonical name of a dtype ("float16" for "fp16", "half", and dtypes of Paddle, numpy and PyTorch)."""
    name = str(getattr(dtype, "__name__", dtype)).rpartition(".")[2]
    return {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32"}.get(name, name)
