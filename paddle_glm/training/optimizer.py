"""AdamW with its update in one pass over memory on a CPU."""

from typing import Any

from paddle import Tensor
from paddle.optimizer import AdamW

from paddle_glm.kernels import training
from paddle_glm.training.gradients import HybridParallelClipGrad


class FusedAdamW(AdamW):
    """`paddle.optimizer.AdamW` with the same state.

    A native kernel updates float32 parameters on a CPU, and scales their gradients for clipping.
    """

    _beta1: float
    _beta2: float
    _epsilon: float
    _weight_decay: float

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if isinstance(self._grad_clip, HybridParallelClipGrad):
            self._grad_clip.leaves_scaling = True

    def clear_grad(self, set_to_zero: bool = False) -> None:
        """Drop gradients: backward then writes them, where it would add to zeros."""
        super().clear_grad(set_to_zero)

    def _append_optimize_op(self, block: Any, param_and_grad: tuple[Tensor, Tensor]) -> None:
        parameter, gradient = param_and_grad
        clip = self._grad_clip
        scale = clip.scale if isinstance(clip, HybridParallelClipGrad) else 1.0
        if not training.in_place(parameter, gradient):
            if scale != 1.0:
                gradient.scale_(scale)
            super()._append_optimize_op(block, param_and_grad)  # type: ignore[no-untyped-call]
            return
        names = (
            self._moment1_acc_str,
            self._moment2_acc_str,
            self._beta1_pow_acc_str,
            self._beta2_pow_acc_str,
        )
        first, second, power1, power2 = (self._get_accumulator_master(name, parameter) for name in names)
        decays = self._apply_decay_param_fun is None or self._apply_decay_param_fun(parameter.name)
        training.adamw(
            parameter,
            gradient,
            (first, second),
            (power1, power2),
            float(self._create_param_lr(param_and_grad)),
            (self._beta1, self._beta2),
            self._epsilon,
            self._weight_decay if decays else 0.0,
            scale,
        )
