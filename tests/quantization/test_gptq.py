"""GPTQ beside the method as its paper writes it, and beside plain rounding."""

import numpy as np
import pytest

from paddle_glm.errors import InputError
from paddle_glm.quantization import dequantize, quantize
from paddle_glm.quantization.gptq import gptq


def layer(outputs: int = 24, inputs: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and X^T X of inputs that go together and are of very different sizes."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, inputs)) @ generator.normal(size=(inputs, inputs))
    x *= np.exp(generator.normal(size=inputs))
    return generator.normal(size=(outputs, inputs)).astype(np.float32), x.T @ x


def as_published(weight: np.ndarray, hessian: np.ndarray, limit: int, scale: np.ndarray) -> np.ndarray:
    """Algorithm 1 of arXiv:2210.17323 without its blocks, the inputs in the order of the diagonal.

    After each input the rest of the weights is set to what is best given the inputs rounded so far.
    """
    weight, rounded = weight.astype(np.float64), np.zeros(weight.shape)
    hessian = hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    order = np.argsort(-np.diag(hessian), kind="stable")
    for place, k in enumerate(order):
        rest = order[place:]
        inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
        rounded[:, k] = np.clip(np.rint(weight[:, k] / scale[:, k]), -limit, limit) * scale[:, k]
        error = (weight[:, k] - rounded[:, k]) / inverse[0, 0]
        weight[:, rest] -= np.outer(error, inverse[0])
    return rounded


def loss(weight: np.ndarray, rounded: np.ndarray, hessian: np.ndarray) -> float:
    error = weight - rounded
    return float(np.trace(error @ hessian @ error.T))


@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (4, 32), (8, None), (8, 16)])
def test_it_is_the_published_method(bits, group_size):
    weight, hessian = layer()
    values, scale = gptq(weight, hessian, bits, group_size)
    spread = np.repeat(scale.reshape(len(weight), -1), group_size or weight.shape[1], axis=1)
    expected = as_published(weight, hessian, 2 ** (bits - 1) - 1, spread)
    found = dequantize(values, scale, bits)
    # A quotient that lies at a half may be rounded to either side.
    assert (np.abs(found - expected) > 1e-5).mean() < 0.002
    assert loss(weight, found, hessian) == pytest.approx(loss(weight, expected, hessian), rel=0.01)


def test_outputs_are_nearer_than_with_plain_rounding():
    weight, hessian = layer()
    for bits, group_size in ((4, None), (4, 32), (8, None)):
        plain = loss(weight, dequantize(*quantize(weight, bits, group_size), bits), hessian)
        assert loss(weight, dequantize(*gptq(weight, hessian, bits, group_size), bits), hessian) < 0.5 * plain


def test_the_format_is_that_of_plain_rounding():
    weight, hessian = layer()
    for bits, group_size in ((4, None), (4, 16), (8, 32)):
        found, plain = gptq(weight, hessian, bits, group_size), quantize(weight, bits, group_size)
        for ours, theirs in zip(found, plain, strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


def test_inputs_that_say_nothing_are_rounded_alone():
    weight, _ = layer()
    weight[3] = 0
    values, scale = gptq(weight, np.zeros((160, 160)), 4, 32)
    found = dequantize(values, scale, 4)
    assert (found[3] == 0).all()
    assert np.isfinite(found).all()
    plain = dequantize(*quantize(weight, 4, 32), 4)
    assert np.square(found - weight).sum() <= np.square(plain - weight).sum()


def test_what_cannot_be_quantised_is_said():
    weight, hessian = layer()
    with pytest.raises(InputError, match="group_size 48 does not divide 160"):
        gptq(weight, hessian, 4, 48)
    weight[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        gptq(weight, hessian, 4)
