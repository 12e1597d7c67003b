"""AdamW in one pass over memory: by a native kernel on a CPU, elsewhere by Paddle's for many tensors."""

from collections import defaultdict
from typing import Any

from paddle import Tensor, _C_ops
from paddle.optimizer import AdamW

from paddle_glm.errors import InputError
from paddle_glm.kernels import training
from paddle_glm.kernels.library import kernel_library
from paddle_glm.training.gradients import HybridParallelClipGrad

# Elements per block of threads; as in apex, which Paddle's kernel follows.
_CHUNK_SIZE = 2048 * 32


class FusedAdamW(AdamW):
    """`paddle.optimizer.AdamW` with the same state.

    A native kernel updates float32 parameters on a CPU, and scales their gradients for clipping. All other
    parameters are updated by one call for each dtype and weight decay. A step does not wait for a GPU, except
    where `GradScaler` asks whether gradients are finite.

    offload: moments and master weights lie in the host's memory, where the native kernel updates them
    (ZeRO-Offload, arXiv:2101.06840); gradients and new parameters pass between the devices one by one.
    """

    _beta1: float
    _beta2: float
    _epsilon: float
    _weight_decay: float

    def __init__(self, offload: bool = False, **options: Any) -> None:
        """Raises `InputError` where `offload` lacks the native kernels."""
        super().__init__(**options)
        if offload and kernel_library() is None:
            raise InputError(
                "--offload_optim updates weights by the native CPU kernels: `paddle-glm kernels` builds "
                "them, and says what is missing"
            )
        self._offload = offload
        self._together: list[tuple[Tensor, Tensor]] = []
        if isinstance(self._grad_clip, HybridParallelClipGrad):
            self._grad_clip.leaves_scaling = True

    def clear_grad(self, set_to_zero: bool = False) -> None:
        """Drop gradients: backward then writes them, where it would add to zeros."""
        super().clear_grad(set_to_zero)

    def step(self) -> None:
        """Update the parameters that have gradients."""
        super().step()
        params_and_grads, self._together = self._together, []
        groups: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, gradient in params_and_grads:
            groups[parameter.dtype, self._decays(parameter)].append((parameter, gradient))
        for (_, decays), members in groups.items():
            self._update_together(members, self._weight_decay if decays else 0.0)

    def _append_optimize_op(self, block: Any, param_and_grad: tuple[Any, Tensor]) -> None:
        parameter, gradient = param_and_grad
        clip = self._grad_clip
        scale = clip.scale if isinstance(clip, HybridParallelClipGrad) else None
        if self._offload:
            master = self._master_weights.get(parameter.name)
            weights = parameter.detach().cpu() if master is None else master
            self._update_in_place(param_and_grad, weights, gradient.cpu().astype("float32"), scale)
            parameter.copy_(weights.astype(parameter.dtype), False)
            return
        if not training.in_place(parameter, gradient):
            if scale is not None:
                gradient.multiply_(scale.astype(gradient.dtype))
            self._together.append(param_and_grad)
            return
        self._update_in_place(param_and_grad, parameter, gradient, scale)

    def _update_in_place(
        self, param_and_grad: tuple[Tensor, Tensor], weights: Tensor, gradient: Tensor, scale: Tensor | None
    ) -> None:
        """One step of a parameter by the native kernel. weights, gradient: its values, float32 on the CPU."""
        parameter = param_and_grad[0]
        first, second, power1, power2 = self._state(parameter)
        training.adamw(
            weights,
            gradient,
            (first, second),
            (power1, power2),
            float(self._create_param_lr(param_and_grad)),
            (self._beta1, self._beta2),
            self._epsilon,
            self._weight_decay if self._decays(parameter) else 0.0,
            1.0 if scale is None else float(scale),
        )

    def _get_device_for_param(self, name: str) -> Any:
        """Where AdamW makes the state of a parameter."""
        return "cpu" if self._offload else super()._get_device_for_param(name)

    def _create_master_weight(self, param: Tensor) -> Any:
        if not self._offload or param.name in self._master_weights:
            return super()._create_master_weight(param)
        master = param.detach().cpu().astype("float32")
        master.name = self._gen_master_weight_var_name(param)
        self._master_weights[param.name] = master
        return master

    def _decays(self, parameter: Tensor) -> bool:
        return self._apply_decay_param_fun is None or bool(self._apply_decay_param_fun(parameter.name))

    def _state(self, parameter: Tensor) -> list[Any]:
        """The two moments, and the two powers of beta."""
        kinds = (
            self._moment1_acc_str,
            self._moment2_acc_str,
            self._beta1_pow_acc_str,
            self._beta2_pow_acc_str,
        )
        return [self._get_accumulator_master(kind, parameter) for kind in kinds]

    def _update_together(self, params_and_grads: list[tuple[Tensor, Tensor]], weight_decay: float) -> None:
        """One step of parameters of one dtype, which all had as many: the first one's powers of beta count.

        The operator is `fused_adam_` (paddle/phi/kernels/fused_adam_kernel.h and gpu/fused_adam_kernel.cu,
        3.3.1), which AdamW's own `adamw_` agrees with. Powers of beta stay in the host's memory.
        """
        parameters, gradients = (list(tensors) for tensors in zip(*params_and_grads, strict=True))
        first, second, power1, power2 = map(list, zip(*map(self._state, parameters), strict=True))
        masters = None
        if self._multi_precision and self._is_dtype_fp16_or_bf16(parameters[0].dtype):
            masters = [self._master_weights[parameter.name] for parameter in parameters]
        rates = self._create_param_lr(params_and_grads[0])
        state = (rates, first, second, None, power1, power2, masters, None)
        numbers = (self._beta1, self._beta2, self._epsilon, _CHUNK_SIZE, weight_decay)
        flags = (True, masters is not None, False, False)  # AdamW, masters, powers of its own, AMSGrad
        _C_ops.fused_adam_(parameters, gradients, *state, *numbers, *flags)
