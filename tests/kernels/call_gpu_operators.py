"""Calls the functions of `kernels.gpu` with the kernels of gpu_signatures.cc, a library whose path is given.

A process of its own: kernels stay registered.
"""

import ctypes
import sys

import paddle
from paddle import Tensor

from paddle_glm.kernels import gpu
from paddle_glm.kv_cache.decode import DecodeLayer


def trained(*shape: int, dtype: str) -> Tensor:
    tensor = paddle.zeros(shape, dtype=dtype)
    tensor.stop_gradient = False
    return tensor


def refused(**changed: object) -> bool:
    """Whether Paddle checks the shapes of a product."""
    x, weight = paddle.zeros([2, 256], dtype="float16"), paddle.zeros([128, 256], dtype="int8")
    right = {"x": x, "weight": weight, "weight_scale": paddle.ones([128], dtype="float16"), "arch": 80}
    gpu.weight_only_linear(**right)
    try:
        gpu.weight_only_linear(**{**right, **changed})
    except ValueError:
        return True
    return False


def call_products(dtype: str) -> None:
    x, outputs, inputs = paddle.zeros([2, 3, 256], dtype=dtype), 128, 256
    for bits in (8, 4):
        for group in (None, 64, 128):
            values = paddle.zeros([outputs, inputs * bits // 8], dtype="int8")
            scale = paddle.ones([outputs] if group is None else [inputs // group, outputs], dtype=dtype)
            y = gpu.quantized_linear(x, values, scale, bits, group)
            assert y.shape == [2, 3, outputs] and y.dtype == x.dtype


def call_attention(dtype: str) -> None:
    query = trained(2, 16, 4, 64, dtype=dtype)
    key, value = (trained(2, 16, 2, 64, dtype=dtype) for _ in range(2))
    for causal in (True, False):
        rows = paddle.zeros([2, 1, 16, 1 if causal else 2], dtype="int32")
        y = gpu.attention(query, key, value, rows, causal, 0.0)
        assert y.shape == query.shape and y.dtype == query.dtype
        y.sum().backward()
    for one in (query, key, value):
        assert one.grad.shape == one.shape


def call_decoding(dtype: str) -> None:
    cache = DecodeLayer(*paddle.zeros([2, 3, 2, 5, 128], dtype=dtype).unbind())
    buffer, column = cache.decode_buffer()
    qkv, columns = paddle.zeros([3, 36 * 128], dtype=dtype), paddle.full([3, 1], column, dtype="int32")
    mask = paddle.zeros([3, 1, 1, cache.capacity], dtype=dtype)
    y = gpu.decode_attention(qkv, buffer, mask, columns)
    assert y.shape == [3, 32 * 128] and y.dtype == qkv.dtype
    assert buffer.flatten()[0].item() == 42, "the cache is not written in place"


def call_pages(dtype: str) -> None:
    pages = tuple(paddle.zeros([7, 2, 64, 128], dtype=dtype) for _ in range(2))
    qkv, table = paddle.zeros([3, 36 * 128], dtype=dtype), paddle.zeros([3, 2], dtype="int64")
    y = gpu.decode_pages(qkv, pages, gpu.paged_rows(table, paddle.to_tensor([5, 70, 64]), 70))
    assert y.shape == [3, 32 * 128] and y.dtype == qkv.dtype
    written = [one.flatten()[0].item() for one in pages]
    assert written == [70, 5], "pages are not written in place"


def call_others(dtype: str) -> None:
    x, table = trained(2, 5, 4, 128, dtype=dtype), paddle.ones([2, 5, 128], dtype=dtype)
    for adjacent in (True, False):
        y = gpu.rotate(x, table, table, adjacent)
        assert y.shape == x.shape
        y.sum().backward()
    assert x.grad.shape == x.shape
    for frozen in (True, False):
        x, weight = trained(2, 5, 256, dtype=dtype), trained(256, dtype=dtype)
        weight.stop_gradient = frozen
        y = gpu.rms_norm(x, weight, 1e-5)
        assert y.shape == x.shape and y.dtype == x.dtype
        y.sum().backward()
        assert x.grad.shape == x.shape and (weight.grad is None) == frozen


if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1])
    gpu.capability = lambda: 80
    # A Paddle without CUDA does not have them.
    flags = {"FLAGS_cudnn_deterministic": False, "FLAGS_flash_attn_version": 2}
    for module in (paddle, paddle.base.framework):
        module.get_flags = lambda names: {name: flags[name] for name in names}
    assert refused(x=paddle.zeros([2, 128], dtype="float16"))
    assert refused(group_size=64, weight_scale=paddle.ones([128, 4], dtype="float16"))
    for name in ("float16", "bfloat16"):
        call_products(name)
        call_attention(name)
        call_decoding(name)
        call_pages(name)
        call_others(name)
    print("called")
