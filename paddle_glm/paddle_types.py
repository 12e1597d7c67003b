"""Paddle's base classes, whose own methods have no annotations, with the types of what they give."""

from typing import TYPE_CHECKING, Any

from paddle import Tensor, nn
from paddle.autograd import PyLayer


class Function(PyLayer):
    """A function of one tensor or more with a gradient of its own; `apply` gives one tensor."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Any) -> Tensor: ...


class TensorLayer(nn.Layer):
    """A layer whose call gives one tensor."""

    @property
    def has_hooks(self) -> bool:
        """Whether a call does more than `forward`."""
        return bool(self._forward_pre_hooks or self._forward_post_hooks)

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...
