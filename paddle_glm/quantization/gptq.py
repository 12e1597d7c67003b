"""GPTQ (arXiv:2210.17323): round input by input, compensating the error made so far.

It minimises the error of a layer's outputs on its inputs X: tr(E H E^T) with the weight error E and
H = X^T X. With H = (1 + F) D (1 + F)^T, F strictly upper triangular and D diagonal, this is the sum over
inputs k of D_k |e_k + E_{<k} F_{<k,k}|^2, which is least if E_{<k} F_{<k,k} is added to the weights of input
k before they are rounded. arXiv:2307.13304 shows that this is GPTQ, without inverting H.
"""

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError
from paddle_glm.quantization.packing import QuantizedWeight, check_group_size, pack_int4

# Fraction of the mean of H's diagonal added to it, so that Cholesky succeeds with few calibration rows.
_DAMPING = 0.01
# Errors are propagated input by input within a block, and to all later blocks in one matmul.
_BLOCK = 128
# Candidate scales relative to the one that covers the largest weight: smaller ones clip it and are finer.
_CLIP_RATIOS = np.linspace(1.0, 0.5, 26, dtype=np.float32)
_SEARCH_BYTES = 4 << 20  # float32 weights per block of the search


def gptq(weight: Array, hessian: Array, bits: int, group_size: int | None = None) -> QuantizedWeight:
    """Quantise a float weight [out, in] for inputs like X; the result has the format of `quantize`.

    hessian: X^T X, float64 [in, in]. Scales minimise the squared error of the weights themselves. Inputs are
    processed by decreasing magnitude, while many others are left to compensate (act-order). Raises
    `InputError` if groups do not divide the inputs, and for NaN or infinity.
    """
    outputs, inputs = weight.shape
    check_group_size(inputs, bits, group_size)
    group = group_size or inputs
    weight = weight.astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(hessian).all()):
        raise InputError("the weight or its calibration inputs contain NaN or infinity")
    scale = _search_scale(weight.reshape(outputs, -1, group), bits)
    order = np.argsort(-np.diag(hessian), kind="stable")
    feedback = _feedback(hessian[np.ix_(order, order)])
    # From here on inputs are axis 0, so that those of a block are contiguous.
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
    """F, float32 [in, in]; `hessian` (float64) is overwritten."""
    diagonal = np.diag_indices_from(hessian)
    # If all inputs were zero any weight is as good, and nothing is compensated.
    hessian[diagonal] += _DAMPING * hessian[diagonal].mean() or 1.0
    # Cholesky's factor is lower triangular; reversing both axes of H and of its factor makes it upper.
    factor = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    feedback = factor.astype(np.float32)
    feedback /= feedback[diagonal]
    feedback[diagonal] = 0
    return feedback


def _search_scale(weight: Array, bits: int) -> Array:
    """Scales [out, groups], float32, of least squared error for a weight [out, groups, group]."""
    scale = np.empty(weight.shape[:2], np.float32)
    rows = max(1, _SEARCH_BYTES // (4 * weight[0].size))
    for start in range(0, len(weight), rows):
        block, block_scale = weight[start : start + rows], scale[start : start + rows]
        max_scale = np.abs(block).max(axis=-1) / np.float32(2 ** (bits - 1) - 1)
        best_error = np.full(max_scale.shape, np.inf, np.float32)
        for ratio in _CLIP_RATIOS:
            candidate = max_scale * ratio
            expanded = candidate[..., None]
            error = np.square(block - _round_and_clip(block, expanded, bits) * expanded).sum(axis=-1)
            block_scale[...] = np.where(error < best_error, candidate, block_scale)
            best_error = np.minimum(error, best_error)
    return scale


def _round_and_clip(weight: Array, scale: Array, bits: int) -> Array:
    """int8, weight / scale rounded and clipped to +-(2^(bits-1) - 1); 0 where the scale is 0."""
    limit = 2 ** (bits - 1) - 1
    nearest: Array = np.rint(weight / np.where(scale > 0, scale, np.float32(np.inf)))
    return np.clip(nearest, -limit, limit).astype(np.int8)
