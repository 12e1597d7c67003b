"""Values, scales and bytes are those of THUDM's quantization.py, computed here once more and by hand."""

import ml_dtypes
import numpy as np
import pytest

from paddle_glm.errors import InputError
from paddle_glm.quantization import default_group_size, dequantize, pack_int4, quantize, unpack_int4


def thudm(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """QuantizedLinear.__init__ and int4WeightCompression, number by number."""
    limit = 2 ** (bits - 1) - 1
    values, scales = [], []
    for row in weight.tolist():
        scale = max(abs(number) for number in row) / limit
        integers = [round(number / scale) for number in row]
        if bits == 4:
            pairs = zip(integers[0::2], integers[1::2], strict=True)
            integers = [((high & 15) << 4 | (low & 15)) for high, low in pairs]
            integers = [byte - 256 if byte > 127 else byte for byte in integers]
        values.append(integers)
        scales.append(scale)
    return np.array(values, np.int8), np.array(scales, np.float32)


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((24, 64), np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_values_and_scales_are_thudms(weight, bits):
    found = quantize(weight, bits)
    values, scale = thudm(weight, bits)
    assert (found.values == values).all() and found.values.dtype == np.int8
    assert np.allclose(found.scale, scale, rtol=1e-6) and found.scale.dtype == np.float32


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 64, 16, 2])
def test_no_weight_is_farther_than_half_a_step(weight, bits, group_size):
    values, scale = quantize(weight, bits, group_size)
    assert scale.shape == ((24,) if group_size is None else (24, 64 // group_size))
    found = dequantize(values, scale, bits)
    steps = np.repeat(scale.reshape(24, -1), 64 // scale.reshape(24, -1).shape[1], axis=1)
    assert (np.abs(found - weight) <= steps * 0.5001).all()
    # The largest of each group is kept, so that quantising again changes nothing.
    assert (quantize(found, bits, group_size).values == values).all()


def test_a_group_is_what_a_row_of_its_own_would_be(weight):
    whole, rows = quantize(weight, 4, 16), quantize(weight.reshape(-1, 16), 4)
    assert (whole.values.reshape(-1, 8) == rows.values).all()
    assert (whole.scale.reshape(-1) == rows.scale).all()


def test_every_pair_of_nibbles_comes_back():
    pairs = np.array([(high, low) for high in range(-8, 8) for low in range(-8, 8)], np.int8)
    packed = pack_int4(pairs)
    assert packed.shape == (256, 1) and packed.dtype == np.int8
    assert (unpack_int4(packed) == pairs).all()
    assert packed[pairs.tolist().index([1, 2])] == 0x12
    assert packed[pairs.tolist().index([-1, 3])] == np.int8(0xF3 - 256)


def test_blocks_of_rows_do_not_show(weight, monkeypatch):
    expected = quantize(weight, 4, 16)
    monkeypatch.setattr("paddle_glm.quantization.packing._BLOCK_BYTES", 5 * 64 * 4)
    found = quantize(weight, 4, 16)
    assert (found.values == expected.values).all() and (found.scale == expected.scale).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_float_is_taken_and_left_alone(weight, dtype):
    given = weight.astype(dtype)
    kept = given.copy()
    found = quantize(given, 8)
    assert (given == kept).all()
    assert (found.values == quantize(given.astype(np.float32), 8).values).all()


def test_half_scales_are_widened(weight):
    values, scale = quantize(weight, 8)
    halves = scale.astype(np.float16)
    assert (dequantize(values, halves, 8) == values * halves.astype(np.float32)[:, None]).all()


def test_zeros_and_numbers_next_to_zero():
    weight = np.zeros((3, 4), np.float32)
    weight[1] = [1e-44, -3e-45, 0, 5e-45]
    weight[2, 1] = -2
    for bits, largest in ((4, -7), (8, -127)):
        values, scale = quantize(weight, bits, 4)
        found = dequantize(values, scale, bits)
        assert scale[0] == scale[1] == 0 and not found[:2].any()
        assert found[2].tolist() == [0, -2, 0, 0] and scale[2, 0] == np.float32(2 / -largest)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_integer_stands_for(weight, bad):
    weight[3, 5] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        quantize(weight, 4, 16)


@pytest.mark.parametrize(
    ("bits", "group_size", "columns", "message"),
    [
        (3, None, 64, "3 bits: expected 4 or 8"),
        (4, 48, 64, "group_size 48 does not divide 64 inputs"),
        (8, -1, 64, "group_size -1"),
        (4, None, 63, "an even number"),
    ],
)
def test_sizes_that_do_not_fit(weight, bits, group_size, columns, message):
    with pytest.raises(InputError, match=message):
        quantize(weight[:, :columns], bits, group_size)


def test_groups_where_nobody_says():
    assert default_group_size(8, [4096, 13696]) is None
    assert default_group_size(4, [4096, 13696]) == 128
    assert default_group_size(4, [64, 96]) == 32
    assert default_group_size(4, iter([128, 344])) is None
    with pytest.raises(InputError, match="2 bits"):
        default_group_size(2, [64])
