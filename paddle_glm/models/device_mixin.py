"""Moving a model between devices: `to`, `cuda`, `cpu`, as PyTorch's and Paddle's users call them."""

from typing import TYPE_CHECKING, Any

from paddle import nn

from paddle_glm.config import DTYPES
from paddle_glm.hardware import use_device
from paddle_glm.models.dtype_mixin import canonical_dtype_name

if TYPE_CHECKING:
    from paddle_glm.models.base import CausalLM


class DeviceMixin:
    """The methods, for `CausalLM` to inherit; they work in place.

    Paddle computes on its current device, so that a move sets that too.
    """

    def to(
        self: Any, device: Any = None, dtype: Any = None, blocking: bool | None = None, *_: Any, **__: Any
    ) -> "CausalLM":
        """Move to a device ("cpu", "gpu", "cuda", "gpu:1", a place of Paddle's), `cast` to a dtype, or both.

        A dtype may come first, as in `model.to("float16")`. Raises `InputError` for a GPU that is not there
        and for names of neither.
        """
        if dtype is None and canonical_dtype_name(device) in (*DTYPES, "float64"):
            device, dtype = None, device
        if dtype is not None:
            self.cast(canonical_dtype_name(dtype))
        if device is not None:
            place = use_device(canonical_device_name(device))
            nn.Layer.to(self, device=place, blocking=blocking)
        return self

    @property
    def device(self: Any) -> str:
        """Where the weights are: "cpu" or "gpu:N"."""
        return canonical_device_name(next(iter(self.parameters())).place)

    def cuda(self: Any, device: Any = None) -> "CausalLM":
        """Move to the GPU, or to that of a number; raises `InputError` where there is none."""
        if device is None:
            return self.to("gpu")
        return self.to(device)

    def cpu(self: Any) -> "CausalLM":
        """Move to the CPU."""
        return self.to("cpu")

    def astype(self: Any, dtype: Any = None) -> "CausalLM":
        """`cast`, which also takes dtypes of Paddle and numpy."""
        return self.to(dtype=dtype)

    type = astype


def canonical_device_name(device: Any) -> str:
    """What `use_device` reads, of a name, a GPU's number, and a place, whose text is "Place(gpu:0)"."""
    if isinstance(device, int):
        return f"gpu:{device}"
    return str(device).removeprefix("Place(").removesuffix(")")
