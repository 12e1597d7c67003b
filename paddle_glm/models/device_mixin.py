"""`to`, `cuda` and `cpu` of a model, as in PyTorch and Paddle."""

from typing import Any, TypeVar

from paddle import nn

from paddle_glm.config import DTYPES
from paddle_glm.hardware import device_name, use_device
from paddle_glm.models.dtype_mixin import canonical_dtype_name

_Model = TypeVar("_Model", bound="DeviceMixin")


class DeviceMixin:
    """Mixin of `CausalLM`; its methods work in place and also set Paddle's current device."""

    def to(
        self: _Model,
        device: Any = None,
        dtype: Any = None,
        blocking: bool | None = None,
        *_: Any,
        **__: Any,
    ) -> _Model:
        """Move to a device ("cpu", "gpu", "cuda", "gpu:1", a place of Paddle's), `cast` to a dtype, or both.

        The first argument may also be a dtype, as in `model.to("float16")`. Raises `InputError` for a missing
        GPU and for names that are neither device nor dtype.
        """
        model: Any = self
        if dtype is None and canonical_dtype_name(device) in (*DTYPES, "float64"):
            device, dtype = None, device
        if dtype is not None:
            model.cast(canonical_dtype_name(dtype))
        if device is not None:
            place = use_device(device)
            nn.Layer.to(model, device=place, blocking=blocking)
        return self

    @property
    def device(self: Any) -> str:
        """The device of the weights: "cpu" or "gpu:N"."""
        return device_name(self.rotary_table.place)

    def cuda(self: _Model, device: Any = None) -> _Model:
        """Move to the GPU, or to GPU number `device`. Raises `InputError` if there is none."""
        if device is None:
            return self.to("gpu")
        return self.to(device)

    def cpu(self: _Model) -> _Model:
        """Move to the CPU."""
        return self.to("cpu")

    def astype(self: _Model, dtype: Any = None) -> _Model:
        """`cast`, which also takes dtypes of Paddle and numpy."""
        return self.to(dtype=dtype)

    type = astype
