"""Another dtype for the weights of a model that is in memory: `half`, `bfloat16`, `float`."""

from typing import TYPE_CHECKING, Any

import paddle

from paddle_glm.config import DTYPES
from paddle_glm.errors import InputError
from paddle_glm.families.prefix_encoder import PREFIX_ENCODER
from paddle_glm.parallel.layers import ParallelWeight, WeightFormat, new_parameter

if TYPE_CHECKING:
    from paddle_glm.models.base import CausalLM


class DtypeMixin:
    """The methods, for `CausalLM` to inherit; they work in place, on one weight after another."""

    def half(self: Any) -> "CausalLM":
        """Keep float weights in float16; see `cast`."""
        return self.cast("float16")

    def float16(self: Any, *_: Any) -> "CausalLM":
        """Keep float weights in float16; see `cast`."""
        return self.cast("float16")

    def bfloat16(self: Any, *_: Any) -> "CausalLM":
        """Keep float weights in bfloat16; see `cast`."""
        return self.cast("bfloat16")

    def float(self: Any, *_: Any) -> "CausalLM":
        """Keep float weights in float32; see `cast`. What was rounded before stays rounded."""
        return self.cast("float32")

    def double(self: Any, *_: Any) -> "CausalLM":
        """Raises `InputError`: there is no float64 here."""
        return self.cast("float64")

    @paddle.no_grad()
    def cast(self: Any, dtype: Any) -> "CausalLM":
        """Keep float weights in `dtype`, as `canonical_dtype_name` reads it, from now on; returns the model.

        Integers, their scales, a prefix and LoRA adapters stay as they are, and computing follows `dtype`.
        Parameters become new objects, so that an optimizer has to be made afterwards.
        """
        dtype = canonical_dtype_name(dtype)
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        table = self.family.parameters(self.config)
        layers = dict(self.named_sublayers())
        for name, old in list(self.named_parameters()):
            if name not in table or table[name].dtype is not None or name.startswith(PREFIX_ENCODER):
                continue
            owner, _, attribute = name.rpartition(".")
            new = new_parameter(layers[owner], tuple(old.shape), dtype, old.is_distributed)
            new.set_value(old.astype(dtype))
            new.stop_gradient = old.stop_gradient
            setattr(layers[owner], attribute, new)
        self.set_weight_format(WeightFormat(dtype, self.weight_format.quantization))
        for layer in layers.values():
            if isinstance(layer, ParallelWeight):
                layer.weight_format = self.weight_format
        self.rotary_table.set_value(paddle.to_tensor(self.build_rotary_table()))
        if (encoder := getattr(self.transformer, "prefix_encoder", None)) is not None:
            encoder.weight_dtype = self.weight_dtype
        return self


def canonical_dtype_name(dtype: Any) -> str:
    """ "float16" of it, of "fp16", "half" and the dtypes of Paddle, numpy and PyTorch; else its text."""
    name = str(getattr(dtype, "__name__", dtype)).rpartition(".")[2]
    return {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32"}.get(name, name)
