"""Up to 16 rows, the products of a row have the same bits alone and in company."""

import numpy as np
import paddle
import pytest

from paddle_glm.kernels import operators
from paddle_glm.kernels.library import kernel_library
from tests.kernels.test_attention import random
from tests.kernels.test_block import weight

pytestmark = [
    pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"),
    pytest.mark.usefixtures("forced_isa"),
]


@pytest.mark.parametrize("arithmetic", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["int4", "int8", "float16", "bfloat16", "float32"])
def test_a_row_alone_has_the_same_bits(kind: str, arithmetic: str) -> None:
    x, by = random(16, 1040), weight(kind, 150, 1040)  # more than a partial sum, and than whole blocks

    def product(x: paddle.Tensor) -> np.ndarray:
        if by.scale is None:
            return operators.float_linear(x, by.values, arithmetic).numpy()
        return operators.quantized_linear(x, by.values, by.scale, by.bits, arithmetic).numpy()

    alone = np.concatenate([product(x[row : row + 1]) for row in range(16)])
    for rows in (2, 3, 4, 5, 7, 8, 16):
        np.testing.assert_array_equal(product(x[:rows]), alone[:rows])
