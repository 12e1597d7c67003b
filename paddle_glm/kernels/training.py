"""The native operators of a training step, with their gradients; see csrc/training.h.

Operators are used where `usable` says so: float32 on a CPU, in dygraph, with a gradient to come. Elsewhere
layers compute with Paddle's own.
"""

import paddle
from paddle import Tensor

from paddle_glm.kernels.library import kernel_library
from paddle_glm.kernels.operators import run_operator
from paddle_glm.kernels.usage import recomputed_block


def usable(*tensors: Tensor) -> bool:
    """Whether operators here can compute with these tensors."""
    return (
        paddle.in_dynamic_mode()
        and (
            bool(recomputed_block)
            or (paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors))
        )
        and all(tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() for tensor in tensors)
        and kernel_library() is not None
    )


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x [..., size] / sqrt(mean(x^2) + epsilon) * weight [size]."""
    y, _ = run_operator("rms_norm_training", x, weight, epsilon)
    return y


def swiglu(x: Tensor) -> Tensor:
    """silu(first half of the last axis) * second half, [..., 2 * n] -> [..., n]."""
    return run_operator("swiglu_training", x)[0]


def split_rotary(
    qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Split a projection; rotate adjacent pairs of the first 2 * half channels of queries and keys.

    qkv: [batch, tokens, (heads + 2 * kv_heads) * head_dim], queries, keys, values; cos, sin:
    [batch, 1, tokens, half]. Returns queries * scale [batch, heads, tokens, head_dim], and keys and values
    [batch, kv_heads, tokens, head_dim].
    """
    query, key, value = run_operator("split_rotary", qkv, cos, sin, heads, kv_heads, scale)
    return query, key, value


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """softmax(scores + mask) of the last axis.

    scores: [batch, groups, heads of a group * tokens, total]; mask: [batch or 1, 1, tokens, total].
    """
    return run_operator("masked_softmax", scores, mask)[0]


def softmax_grad(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the scores of `masked_softmax` from its result y and that of y; all of one shape."""
    return run_operator("softmax_vjp", y, grad)[0]


def softmax_statistics(logits: Tensor, labels: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """The maximum of logits [..., n], the sum of exp(logit - maximum), and the label's logit, float32 [...].

    logits: the shard of the vocabulary from id `first` on; labels: int64 [...]; the logit of a label in
    another shard is 0.
    """
    maximum, total, target = run_operator("softmax_statistics", logits, labels, first)
    return maximum, total, target


def softmax_minus_label(
    logits: Tensor, labels: Tensor, logsumexp: Tensor, scale: Tensor, first: int
) -> Tensor:
    """(exp(logits - logsumexp) - 1 at the label) * scale; logsumexp and scale: [...]."""
    return run_operator("softmax_minus_label", logits, labels, logsumexp, scale, first)[0]


def in_place(*tensors: Tensor) -> bool:
    """Whether `squared_norm` and `adamw` can compute with these tensors."""
    return (
        all(
            tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() and tensor.is_contiguous()
            for tensor in tensors
        )
        and kernel_library() is not None
    )


def squared_norm(x: Tensor) -> float:
    """The sum of squares; the same bits for any number of threads."""
    library = kernel_library()
    assert library is not None
    return float(library.paddle_glm_squared_norm(x.data_ptr(), x.size))


def adamw(
    parameter: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    beta_powers: tuple[Tensor, Tensor],
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    gradient_scale: float,
) -> None:
    """One step of AdamW in place, as `paddle.optimizer.AdamW` computes it, of gradient * gradient_scale."""
    library = kernel_library()
    assert library is not None
    places = [tensor.data_ptr() for tensor in (parameter, *moments, *beta_powers)]
    library.paddle_glm_adamw(
        gradient.data_ptr(),
        gradient.size,
        *places,
        learning_rate,
        *betas,
        epsilon,
        weight_decay,
        gradient_scale,
    )
