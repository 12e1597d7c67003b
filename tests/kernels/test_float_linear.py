"""Products with float16, bfloat16 and float32 weights, against float64, with every instruction set."""

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import Tensor

from paddle_glm.array_types import FloatArray
from paddle_glm.kernels import operators
from paddle_glm.kernels.library import kernel_library

pytestmark = [
    pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"),
    pytest.mark.usefixtures("forced_isa"),
]
# Rounding of float32 sums, and of operands to bfloat16, relative to the sum of the products' magnitudes.
FLOAT32_ERROR, BFLOAT16_ERROR = 1e-6, 2**-7


def stored(weight: FloatArray, dtype: str) -> tuple[Tensor, FloatArray]:
    """A weight of that dtype, and the float64 array of its values."""
    rounded = paddle.to_tensor(weight.astype(np.float32)).astype(dtype)
    return rounded, rounded.astype("float32").numpy().astype(np.float64)


def relative_error(y: FloatArray, x: FloatArray, matrix: FloatArray) -> float:
    """Largest error of y = x @ matrix, relative to the sum of the products' magnitudes."""
    with np.errstate(invalid="ignore"):
        errors = np.abs(y - x.astype(np.float64) @ matrix) / (np.abs(x.astype(np.float64)) @ np.abs(matrix))
    return float(np.nan_to_num(errors).max(initial=0.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("arithmetic", "limit"), [("float32", FLOAT32_ERROR), ("bfloat16", BFLOAT16_ERROR)])
@given(
    rows=st.integers(0, 20),
    out_features=st.integers(1, 140),
    in_features=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_shapes(
    dtype: str, arithmetic: str, limit: float, rows: int, out_features: int, in_features: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weight, exact = stored(random.standard_normal((out_features, in_features)), dtype)
    x = random.standard_normal((rows, in_features)).astype(np.float32)
    y = operators.float_linear(paddle.to_tensor(x), weight, arithmetic).numpy()
    assert y.shape == (rows, out_features) and relative_error(y, x, exact.T) < limit
    grad = random.standard_normal((rows, out_features)).astype(np.float32)
    dx = operators.float_linear_transposed(paddle.to_tensor(grad), weight, arithmetic).numpy()
    assert dx.shape == (rows, in_features) and relative_error(dx, grad, exact) < limit


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_deep_sums(dtype: str, rows: int) -> None:
    random = np.random.default_rng(rows)
    weight, exact = stored(random.standard_normal((70, 1500)), dtype)
    x = random.standard_normal((rows, 1500)).astype(np.float32)
    y = operators.float_linear(paddle.to_tensor(x), weight, "float32").numpy()
    assert relative_error(y, x, exact.T) < FLOAT32_ERROR
    tall, exact = stored(random.standard_normal((1500, 70)), dtype)
    dx = operators.float_linear_transposed(paddle.to_tensor(x), tall, "float32").numpy()
    assert relative_error(dx, x, exact) < FLOAT32_ERROR


@pytest.mark.parametrize("rows", [1, 7])
def test_every_float16_value(rows: int) -> None:
    """Subnormal and extreme numbers, zeros of both signs, infinities and NaNs pass through unchanged."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    weight = paddle.to_tensor(values.reshape(-1, 1))
    y = operators.float_linear(paddle.ones([rows, 1]), weight, "float32").numpy()
    np.testing.assert_array_equal(y, np.broadcast_to(values.astype(np.float32), y.shape))


@pytest.mark.parametrize("rows", [1, 7])
def test_extreme_bfloat16_values(rows: int) -> None:
    values = np.array([0, 1e-38, -3e38, np.inf, -np.inf, np.nan, 1.5, -0.0], np.float32)
    weight, exact = stored(np.resize(values, (130, 1)), "bfloat16")
    y = operators.float_linear(paddle.ones([rows, 1]), weight, "float32").numpy()
    np.testing.assert_array_equal(y, np.broadcast_to(exact.T, y.shape).astype(np.float32))


@pytest.mark.parametrize("rows", [1, 7])
def test_one_nan_stays_in_its_row(rows: int) -> None:
    weight, _ = stored(np.ones((100, 50)), "float16")
    x = np.ones((rows, 50), np.float32)
    x[0, 3] = np.nan
    y = operators.float_linear(paddle.to_tensor(x), weight, "float32").numpy()
    assert np.isnan(y[0]).all() and (y[1:] == 50).all()


def test_auto_follows_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 weights are rounded to bfloat16 only where less than float32 is asked for."""
    random = np.random.default_rng(0)
    x = paddle.to_tensor(random.standard_normal((9, 64)).astype(np.float32))
    weight, _ = stored(random.standard_normal((70, 64)), "float16")
    exact = operators.float_linear(x, weight, "float32").numpy()
    rounded = operators.float_linear(x, weight, "bfloat16").numpy()
    for variable, expected in (("", exact), ("auto", exact), ("float32", exact), ("int8", rounded)):
        monkeypatch.setenv("PADDLE_GLM_ARITHMETIC", variable)
        np.testing.assert_array_equal(operators.float_linear(x, weight).numpy(), expected)


def test_wrong_shapes_are_refused() -> None:
    weight, _ = stored(np.ones((10, 8)), "float16")
    with pytest.raises(OSError, match="input of width 10: expected 8"):
        operators.float_linear(paddle.ones([2, 10]), weight)
    with pytest.raises(OSError, match="expected float16, bfloat16 or float32"):
        operators.float_linear(paddle.ones([2, 8]), paddle.ones([10, 8], "int8"))
