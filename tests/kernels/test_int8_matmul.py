"""Products in int8 on every instruction set, against float64 arithmetic with the same rounding."""

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from paddle_glm.array_types import Array
from paddle_glm.kernels import operators, packing
from paddle_glm.kernels.library import kernel_library
from paddle_glm.quantization.packing import dequantize

pytestmark = pytest.mark.skipif(
    kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"
)
PART = 128  # inputs that share a scale of the activations at most
SMALLEST = np.float32(2.0**-119)  # parts of smaller activations count as zeros
every_isa = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def parts(in_features: int, group_size: int) -> list[slice]:
    """Inputs that share a scale of the activations: groups, in parts of at most 128."""
    return [
        slice(begin, min(begin + PART, start + group_size))
        for start in range(0, in_features, group_size)
        for begin in range(start, start + group_size, PART)
    ]


def product(x: Array, values: Array, scale: Array, bits: int) -> Array:
    """The operator's result for weights in the hub's order."""
    values, scale = values.copy(), scale.copy()
    packing.pack(values, scale, bits)
    packed = paddle.to_tensor(values), paddle.to_tensor(scale)
    return np.asarray(operators.quantized_linear(paddle.to_tensor(x), *packed, bits, "int8").numpy())


def check(x: Array, values: Array, scale: Array, bits: int) -> None:
    """Compare with the product of rounded activations, up to float32 sums, and with the exact one."""
    weight = dequantize(values, scale, bits).astype(np.float64)
    cuts = parts(x.shape[1], x.shape[1] if scale.ndim == 1 else x.shape[1] // scale.shape[1])
    rounded, most = np.zeros(x.shape), np.zeros(x.shape)
    for cut in cuts:
        largest = np.abs(x[:, cut]).max(axis=1, keepdims=True)
        most[:, cut] = largest
        kept = np.where(largest < SMALLEST, np.inf, largest)
        integers = np.rint(x[:, cut] * (np.float32(127) / kept))
        rounded[:, cut] = integers * (np.where(largest < SMALLEST, 0, largest) / np.float32(127))
    y = product(x, values, scale, bits)
    magnitudes = np.abs(rounded) @ np.abs(weight).T
    tolerance = (len(cuts) + 4) * 2.0**-24 * magnitudes + 1e-37
    assert (np.abs(y - rounded @ weight.T) <= tolerance).all()
    half_steps = np.where(most < SMALLEST, most, 0.5001 / 127 * most)
    assert (np.abs(y - x @ weight.T) <= half_steps @ np.abs(weight).T + tolerance).all()


def random_weight(
    random: np.random.Generator, rows: int, in_features: int, bits: int, group_size: int | None
) -> tuple[Array, Array]:
    """Every stored value occurs, -8 and -128 too, which `quantize` never makes."""
    values = random.integers(-128, 128, (rows, in_features * bits // 8), dtype=np.int8)
    groups = () if group_size is None else (in_features // group_size,)
    return values, (random.random((rows, *groups)) * 0.1).astype(np.float32)


Shape = tuple[int, int, int, int, int | None]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Rows of x, outputs, inputs, bits, group size or None for one scale per output."""
    bits = draw(st.sampled_from([4, 8]))
    line = 8 if bits == 4 else 4
    group_size = line * draw(st.integers(1, 40))
    in_features = group_size * draw(st.integers(1, 5))
    rows, out_features = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    return rows, out_features, in_features, bits, group_size if draw(st.booleans()) else None


@every_isa
@given(shapes(), st.integers(0, 99))
@example((1, 64, 256, 4, 128), 0)
@example((7, 97, 344, 8, None), 0)
@example((600, 65, 64, 4, 32), 0)  # more rows than are taken at once
@example((2, 64, 13696, 4, 128), 0)
def test_random(forced_isa: str, shape: Shape, seed: int) -> None:
    rows, out_features, in_features, bits, group_size = shape
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, in_features)).astype(np.float32)
    check(x, *random_weight(random, out_features, in_features, bits, group_size), bits)


VALUES = (0.0, -0.0, 1e-45, 1.2e-38, 2.0**-119, 1e-30, 1.0, -1.0, 127.0, -1e30, 1e30)


@every_isa
@given(
    st.sampled_from([4, 8]),
    st.sampled_from([8, 32, 136]),
    st.lists(st.sampled_from(VALUES), min_size=1, max_size=8),
    st.sampled_from([-128, -1, 0, 0x77, 127]),
    st.integers(0, 99),
)
def test_extreme_values(
    forced_isa: str, bits: int, group_size: int, pool: list[float], byte: int, seed: int
) -> None:
    """Activations of very different sizes; all stored values equal: -8, -128, 0, 7 and 127 among them."""
    random = np.random.default_rng(seed)
    x = random.choice(np.array(pool, np.float32), (random.integers(1, 9), 3 * group_size))
    values = np.full((35, x.shape[1] * bits // 8), byte, np.int8)
    check(x, values, random.random((35, 3)).astype(np.float32), bits)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, None])
def test_rows_do_not_depend_on_each_other(forced_isa: str, bits: int, group_size: int | None) -> None:
    """A row's bits are the same alone, in any batch, and beside rows that are not finite."""
    random = np.random.default_rng(0)
    weight = random_weight(random, 65, 416, bits, group_size)
    x = random.standard_normal((300, 416)).astype(np.float32)
    y = product(x, *weight, bits)
    for rows in (1, 2, 3, 4, 5, 6, 7, 12, 31):
        np.testing.assert_array_equal(product(x[:rows], *weight, bits), y[:rows])
    x[::2, 7] = np.nan
    np.testing.assert_array_equal(product(x, *weight, bits)[1::2], y[1::2])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_not_finite(forced_isa: str, bits: int, value: float) -> None:
    """One input that is not finite makes its whole row NaN, and no other."""
    random = np.random.default_rng(0)
    weight = random_weight(random, 70, 144, bits, 24)
    x = random.standard_normal((9, 144)).astype(np.float32)
    for row, column in ((0, 0), (4, 143), (8, 23)):
        x[row, column] = value
    bad = np.isnan(product(x, *weight, bits))
    assert bad[[0, 4, 8]].all() and not bad[[1, 2, 3, 5, 6, 7]].any()


def test_no_rows(forced_isa: str) -> None:
    weight = random_weight(np.random.default_rng(0), 40, 64, 4, 32)
    assert product(np.zeros((0, 64), np.float32), *weight, 4).shape == (0, 40)


def test_unknown_arithmetic() -> None:
    values, scale = random_weight(np.random.default_rng(0), 32, 64, 4, 32)
    x = paddle.zeros([1, 64])
    with pytest.raises(Exception, match='arithmetic "int7": expected auto, int8, bfloat16 or float32'):
        operators.quantized_linear(x, paddle.to_tensor(values), paddle.to_tensor(scale), 4, "int7")
