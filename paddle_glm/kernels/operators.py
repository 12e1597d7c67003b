"""The native operators, in dygraph and in traced graphs; see csrc/operators_*.cc."""

from typing import Any

from paddle import Tensor, _C_ops


def quantized_linear(x: Tensor, values: Tensor, scale: Tensor, bits: int, arithmetic: str = "auto") -> Tensor:
    """x float32 [..., in] @ weight in kernel order [out, in].T -> float32 [..., out].

    values: int8 [out, in * bits / 8]; scale: float32 [out] or [out, groups]. arithmetic: see csrc/kernels.h.
    """
    return _call("quantized_linear", x, values, scale, bits, arithmetic)


def quantized_linear_transposed(
    grad: Tensor, values: Tensor, scale: Tensor, bits: int, arithmetic: str = "float32"
) -> Tensor:
    """grad float32 [..., out] @ weight in kernel order [out, in] -> float32 [..., in]."""
    return _call("quantized_linear_transposed", grad, values, scale, bits, arithmetic)


def quantized_embedding(ids: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Rows of a weight in kernel order: ids int64 [...] -> float32 [..., in]."""
    return _call("quantized_embedding", ids, values, scale, bits)


def _call(name: str, *arguments: Any) -> Tensor:
    results: Any = _C_ops._run_custom_op(f"paddle_glm_{name}", *arguments)  # type: ignore[attr-defined]
    result: Tensor = results[0] if isinstance(results, list) else results
    return result
