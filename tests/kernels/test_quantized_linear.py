"""Operators with quantised weights in kernel order, against float64."""

import numpy as np
import paddle
import pytest

from paddle_glm.kernels import operators, packing
from paddle_glm.kernels.library import kernel_library
from paddle_glm.quantization.packing import dequantize, quantize

pytestmark = pytest.mark.skipif(
    kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"
)
SHAPES = ((100, 256, 128), (64, 344, None), (33, 64, 32), (32, 128, None))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out_features", "in_features", "group_size"), SHAPES)
def test_against_float64(bits: int, out_features: int, in_features: int, group_size: int | None) -> None:
    random = np.random.default_rng(0)
    values, scale = quantize(random.standard_normal((out_features, in_features)), bits, group_size)
    weight = dequantize(values, scale, bits).astype(np.float64)
    packing.pack(values, scale, bits)
    x = random.standard_normal((3, 5, in_features)).astype(np.float32)
    packed = paddle.to_tensor(values), paddle.to_tensor(scale), bits
    y = operators.quantized_linear(paddle.to_tensor(x), *packed, "float32")
    assert np.abs(y.numpy() - x @ weight.T).max() < 1e-4
    grad = operators.quantized_linear_transposed(y, *packed, "float32")
    assert np.abs(grad.numpy() - y.numpy() @ weight).max() < 1e-3
    ids = np.array([[0, out_features - 1]])
    rows = operators.quantized_embedding(paddle.to_tensor(ids), *packed)
    np.testing.assert_array_equal(rows.numpy(), weight[ids].astype(np.float32))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out_features", "in_features", "group_size"), SHAPES)
def test_unpack_inverts_pack(bits: int, out_features: int, in_features: int, group_size: int | None) -> None:
    random = np.random.default_rng(0)
    values, scale = quantize(random.standard_normal((out_features, in_features)), bits, group_size)
    packed_values, packed_scale = values.copy(), scale.copy()
    packing.pack(packed_values, packed_scale, bits)
    assert not np.array_equal(packed_values, values)
    packing.unpack(packed_values, packed_scale, bits)
    np.testing.assert_array_equal(packed_values, values)
    np.testing.assert_array_equal(packed_scale, scale)
