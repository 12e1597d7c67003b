"""Norm, activation, rotary embedding and cache operators, against the layers that they replace."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.kernels import operators
from paddle_glm.kernels.library import kernel_library
from paddle_glm.layers.attention import split_qkv_blocks
from paddle_glm.layers.norm import RMSNorm
from paddle_glm.layers.rotary import apply_rotary_interleaved

pytestmark = [
    pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"),
    pytest.mark.usefixtures("forced_isa"),
]
RANDOM = np.random.default_rng(0)


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return paddle.to_tensor((RANDOM.standard_normal(shape) * scale).astype(np.float32))


def largest_difference(one: Tensor, other: Tensor | Array) -> float:
    expected = other if isinstance(other, np.ndarray) else other.numpy()
    return float(np.abs(one.numpy() - expected).max(initial=0.0))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 1, 4096), (2, 5, 64), (1, 3, 37), (3, 0, 16), (2, 9, 1)])
def test_rms_norm(shape: tuple[int, ...], dtype: str) -> None:
    layer = RMSNorm(shape[-1], 1e-5, dtype)
    layer.weight.set_value(random(shape[-1]).astype(dtype))
    x, residual = random(*shape, scale=30.0), random(*shape)
    with paddle.no_grad():
        y = operators.rms_norm(x, layer.weight, 1e-5)
        assert largest_difference(y, layer(x)) < 1e-5
        total, y = operators.add_rms_norm(x, residual, layer.weight, 1e-5)
        assert largest_difference(total, x + residual) == 0.0
        assert largest_difference(y, layer(x + residual)) < 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 27392), (2, 5, 64), (1, 3, 74), (3, 0, 16), (2, 9, 2)])
def test_swiglu(shape: tuple[int, ...]) -> None:
    x = random(*shape, scale=20.0)
    gate, up = x.numpy().astype(np.float64).reshape(-1, 2, shape[-1] // 2).swapaxes(0, 1)
    y = operators.swiglu(x).numpy().reshape(gate.shape)
    np.testing.assert_allclose(y, gate / (1.0 + np.exp(-gate)) * up, rtol=1e-6, atol=1e-30)


def test_swiglu_of_extreme_values() -> None:
    values = np.array([-np.inf, -1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, np.inf, np.nan], np.float32)
    x = paddle.to_tensor(np.concatenate([values, np.ones_like(values)]))
    expected = F.silu(paddle.to_tensor(values)).numpy()
    np.testing.assert_allclose(operators.swiglu(x).numpy(), expected, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "kv_heads", "head_dim", "half"),
    [
        (1, 1, 32, 2, 128, 32),
        (2, 7, 4, 2, 16, 4),
        (3, 40, 3, 1, 24, 12),
        (1, 3, 2, 2, 10, 3),
    ],
)
def test_append_rotary(batch: int, tokens: int, heads: int, kv_heads: int, head_dim: int, half: int) -> None:
    past, capacity = 3, tokens + 5
    sizes = [one * head_dim for one in (heads, kv_heads, kv_heads)]
    qkv = random(batch, tokens, sum(sizes))
    cos, sin = random(batch, 1, tokens, half), random(batch, 1, tokens, half)
    buffers = [random(batch, kv_heads, capacity, head_dim) for _ in range(2)]
    before = [one.numpy().copy() for one in buffers]
    query = operators.append_rotary(
        qkv, cos, sin, *buffers, paddle.to_tensor([past]), num_heads=heads, num_kv_heads=kv_heads
    )
    expected = split_qkv_blocks(qkv, sizes, head_dim)
    assert largest_difference(query, apply_rotary_interleaved(expected[0], cos, sin)) < 1e-6
    before[0][:, :, past : past + tokens] = apply_rotary_interleaved(expected[1], cos, sin).numpy()
    before[1][:, :, past : past + tokens] = expected[2].numpy()
    assert largest_difference(buffers[0], before[0]) < 1e-6
    assert largest_difference(buffers[1], before[1]) == 0.0


def test_append_cache() -> None:
    buffers = [paddle.zeros([2, 3, 7, 4]) for _ in range(2)]
    key, value = random(2, 5, 3, 4).transpose([0, 2, 1, 3]), random(2, 3, 5, 4)
    past = operators.append_cache(key, value, *buffers, paddle.to_tensor([2]))
    assert past.tolist() == [2]
    for buffer, new in zip(buffers, (key, value), strict=True):
        np.testing.assert_array_equal(buffer.numpy()[:, :, 2:], new.numpy())
        assert not buffer[:, :, :2].any()


@pytest.mark.parametrize("past", [-1, 3])
def test_a_write_outside_of_the_cache_is_refused(past: int) -> None:
    buffers = [paddle.zeros([1, 1, 4, 4]) for _ in range(2)]
    with pytest.raises(Exception, match=f"the cache has 4 columns: no room for 2 after {past}"):
        operators.append_cache(random(1, 1, 2, 4), random(1, 1, 2, 4), *buffers, paddle.to_tensor([past]))
    cos = paddle.ones([1, 1, 2, 2])
    with pytest.raises(Exception, match=f"the cache has 4 columns: no room for 2 after {past}"):
        operators.append_rotary(random(1, 2, 12), cos, cos, *buffers, paddle.to_tensor([past]), 1, 1)
    assert not any(one.any() for one in buffers)


def test_wrong_operands_are_refused() -> None:
    buffer, past = paddle.zeros([1, 1, 4, 4]), paddle.to_tensor([0])
    strided = paddle.zeros([1, 4, 1, 8])[:, :, :, ::2].transpose([0, 2, 1, 3])
    for bad in (buffer.astype("float64"), paddle.zeros([2, 1, 4, 4]), strided):
        with pytest.raises(Exception, match="must be"):
            operators.append_cache(random(1, 1, 2, 4), random(1, 1, 2, 4), bad, bad, past)
    with pytest.raises(Exception, match="weight has 3 elements: expected 4"):
        operators.rms_norm(random(2, 4), random(3), 1e-5)
    with pytest.raises(Exception, match="x must be float32, not float64"):
        operators.swiglu(random(2, 4).astype("float64"))
