"""Operators at the shapes of ChatGLM2-6B against the plain computation."""

from functools import partial

import paddle

from paddle_glm.doctor.model_checks import check_half_precision, exact_products
from paddle_glm.doctor.recorded import relative_error
from paddle_glm.doctor.registry import Context, Finding, check
from paddle_glm.parallel.dequant import dequant_linear
from paddle_glm.quantization import default_group_size, dequantize, quantize

# Largest error relative to the root mean square of the result.
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
_INPUTS, _OUTPUTS, _ROWS = 4096, 4608, 3  # of the fused projection


def dequantising_product(bits: int, dtype: str, context: Context) -> Finding:
    """A product with int8 or int4 weights, dequantised block by block."""
    check_half_precision(dtype)
    paddle.seed(0)
    x, weight = paddle.randn([_ROWS, _INPUTS]), paddle.randn([_OUTPUTS, _INPUTS])
    group = default_group_size(bits, [_INPUTS])
    values, scale = quantize(weight.numpy(), bits, group or None)
    x = x.astype(getattr(paddle, dtype))
    exact = paddle.matmul(
        x.astype("float64"),
        paddle.to_tensor(dequantize(values, scale, bits)).astype("float64"),
        transpose_y=True,
    )
    found = Finding()
    with exact_products(), paddle.no_grad():
        y = dequant_linear(x, paddle.to_tensor(values), paddle.to_tensor(scale), bits)
    found.measure(
        f"{_ROWS} x {_INPUTS} x {_OUTPUTS}",
        relative_error(y.astype("float32").numpy(), exact.numpy()),
        LIMITS[dtype],
    )
    return found


for _bits in (8, 4):
    for _dtype in LIMITS:
        check(
            "operators",
            f"product with int{_bits}, {_dtype}",
            devices=("cpu", "gpu") if _dtype == "float32" else ("gpu",),
        )(partial(dequantising_product, _bits, _dtype))
