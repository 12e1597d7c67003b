"""Functions with a gradient of their own."""

from typing import TYPE_CHECKING, Any

from paddle import Tensor
from paddle.autograd import PyLayer


class Function(PyLayer):
    """Paddle's PyLayer whose `apply`, which has no annotations, gives one tensor."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Any) -> Tensor: ...
