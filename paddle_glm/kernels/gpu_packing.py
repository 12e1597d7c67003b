"""Quantised weights in the layout of Paddle's `weight_only_linear`, a permutation of the hub's bytes.

The layout that `paddle.nn.quant.weight_quantize` gives for compute capability 7.5 and above (Paddle 3.3.1,
phi/kernels/impl/weight_quantize_kernel_impl.h and weight_quantize_kernel_gpu_impl.h): integers are unsigned
(128 or 8 is added); in every block of 16 inputs (int8) or 32 (int4) those 8 apart are neighbours; 64 inputs
of 2 outputs (int8) or 4 (int4) follow each other. The hub has an output's inputs in order, the first of two
int4 in the high nibble; here it is in the low one.
"""

import paddle
from paddle import Tensor

TILE = 64  # inputs of an output that stay together
_RUN = 8  # neighbouring inputs of the hub, one of each block's runs


def pack(values: Tensor, bits: int) -> Tensor:
    """Hub order -> the product's, int8 [out, in * bits / 8] on any device.

    in: a multiple of 64; out: of 4.
    """
    if bits == 8:
        return _interleave(paddle.bitwise_xor(values, _int8(values, -128)), bits)
    high = paddle.bitwise_right_shift(values, _int8(values, 4))
    nibbles = paddle.stack([high, values], axis=-1).flatten(-2)  # first, second input of each byte
    nibbles = paddle.bitwise_xor(paddle.bitwise_and(nibbles, _int8(values, 15)), _int8(values, 8))
    first, second = _interleave(nibbles, bits).reshape([values.shape[0], -1, 2]).unbind(-1)
    return paddle.bitwise_or(first, paddle.bitwise_left_shift(second, _int8(values, 4)))


def unpack(values: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    if bits == 8:
        return paddle.bitwise_xor(_deinterleave(values, bits), _int8(values, -128))
    high = paddle.bitwise_right_shift(values, _int8(values, 4))
    nibbles = paddle.stack([values, high], axis=-1).flatten(-2)
    nibbles = paddle.bitwise_xor(paddle.bitwise_and(nibbles, _int8(values, 15)), _int8(values, 8))
    first, second = _deinterleave(nibbles, bits).reshape([values.shape[0], -1, 2]).unbind(-1)
    return paddle.bitwise_or(paddle.bitwise_left_shift(first, _int8(values, 4)), second)


def _interleave(integers: Tensor, bits: int) -> Tensor:
    """[out, in] in the hub's order -> the same shape in the product's."""
    outputs, inputs = integers.shape
    together, runs = 16 // bits, 16 // bits
    blocks = TILE // (runs * _RUN)
    split = integers.reshape([outputs // together, together, inputs // TILE, blocks, runs, _RUN])
    return split.transpose([0, 2, 1, 3, 5, 4]).reshape([outputs, inputs])


def _deinterleave(integers: Tensor, bits: int) -> Tensor:
    outputs, inputs = integers.shape
    together, runs = 16 // bits, 16 // bits
    blocks = TILE // (runs * _RUN)
    split = integers.reshape([outputs // together, inputs // TILE, together, blocks, _RUN, runs])
    return split.transpose([0, 2, 1, 3, 5, 4]).reshape([outputs, inputs])


def _int8(like: Tensor, number: int) -> Tensor:
    return paddle.full([1], number, dtype=like.dtype)
