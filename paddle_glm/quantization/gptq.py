"""GPTQ (arXiv:2210.17323): rounding that makes up, input after input, for the error made so far.

What counts is the error of a layer's outputs for the inputs X that it sees: tr(E H E^T) for the error E of
the weight and H = X^T X. With H = (1 + F) D (1 + F)^T, where F is strictly upper triangular and D diagonal,
that is the sum over the inputs k of D_k |e_k + E_{<k} F_{<k,k}|^2: it is least where E_{<k} F_{<k,k} is added
to the weights of input k before they are rounded. That this is GPTQ, without an inverse of H, is shown in
arXiv:2307.13304.
"""

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError
from paddle_glm.quantization.packing import QuantizedWeight, check_group_size, pack_int4

# Of the mean of H's diagonal, added to it: a Cholesky factor exists however few rows there were.
_DAMPING = 0.01
# Inputs that pass their errors on one by one; all later inputs get those of a block in one product.
_BLOCK = 128
# Of the scale that reaches the largest weight: smaller ones cut that off and are finer for all others.
_CLIP_RATIOS = np.linspace(1.0, 0.5, 26, dtype=np.float32)
_SEARCH_BYTES = 4 << 20


def gptq(weight: Array, hessian: Array, bits: int, group_size: int | None = None) -> QuantizedWeight:
    """Quantise a float weight [out, in] for inputs like X, in the format of `quantize`.

    hessian: X^T X [in, in]. Scales are those of the least squared error of the weights alone. Inputs are
    taken in the order of their size, the largest first, while many others can still make up for them.
    Raises `InputError` where groups do not divide the inputs, and for NaN or infinity.
    """
    outputs, inputs = weight.shape
    check_group_size(inputs, bits, group_size)
    group = group_size or inputs
    weight = weight.astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(hessian).all()):
        raise InputError("the weight or what it is multiplied with holds NaN or infinity")
    scale = _search_scale(weight.reshape(outputs, -1, group), bits)
    order = np.argsort(-np.diag(hessian), kind="stable")
    feedback = _feedback(hessian[np.ix_(order, order)])
    # Inputs come first from here on, so that those of a block lie together in memory.
    target, scales = weight.T[order], scale.T[order // group]
    integers, errors = np.empty((inputs, outputs), np.int8), np.empty((inputs, outputs), np.float32)
    for start in range(0, inputs, _BLOCK):
        block = slice(start, min(start + _BLOCK, inputs))
        adjusted = target[block] + feedback[:start, block].T @ errors[:start]
        for k in range(start, block.stop):
            row = adjusted[k - start] + feedback[start:k, k] @ errors[start:k]
            rounded = _round_and_clip(row, scales[k], bits)
            integers[order[k]] = rounded
            errors[k] = target[k] - rounded * scales[k]
    values = np.ascontiguousarray(integers.T)
    return QuantizedWeight(pack_int4(values) if bits == 4 else values, scale if group_size else scale[:, 0])


def _feedback(hessian: Array) -> Array:
    """F, float32 [in, in]; `hessian` float64 is overwritten."""
    diagonal = np.diag_indices_from(hessian)
    # Inputs that were all zero say nothing, and every weight is as good: none is made up for.
    hessian[diagonal] += _DAMPING * hessian[diagonal].mean() or 1.0
    # Cholesky's factor is lower triangular; that of H read backwards, itself read backwards, is upper.
    factor = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    feedback = factor.astype(np.float32)
    feedback /= feedback[diagonal]
    feedback[diagonal] = 0
    return feedback


def _search_scale(weight: Array, bits: int) -> Array:
    """float32 [out, groups] for a weight [out, groups, group]: the least squared error of each group."""
    scale = np.empty(weight.shape[:2], np.float32)
    rows = max(1, _SEARCH_BYTES // (4 * weight[0].size))
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        max_scale = np.abs(weight[part]).max(axis=-1) / np.float32(2 ** (bits - 1) - 1)
        best_error = np.full(max_scale.shape, np.inf, np.float32)
        for ratio in _CLIP_RATIOS:
            candidate = max_scale * ratio
            expanded = candidate[..., None]
            error = np.square(weight[part] - _round_and_clip(weight[part], expanded, bits) * expanded).sum(
                axis=-1
            )
            scale[part] = np.where(error < best_error, candidate, scale[part])
            best_error = np.minimum(error, best_error)
    return scale


def _round_and_clip(weight: Array, scale: Array, bits: int) -> Array:
    """int8, the nearest of what `bits` can hold without its lowest; 0 where the scale is."""
    limit = 2 ** (bits - 1) - 1
    nearest: Array = np.rint(weight / np.where(scale > 0, scale, np.float32(np.inf)))
    return np.clip(nearest, -limit, limit).astype(np.int8)
