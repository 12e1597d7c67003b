"""Random initialisation of parameters, independent of the other parameters and of tensor parallelism."""

import zlib
from collections.abc import Iterator
from math import prod

import numpy as np

from paddle_glm.array_types import Array

# Numbers generated at once.
_BLOCK_ELEMENTS = 1 << 20


def initial_value(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """float32 array: matrices normal(0, 0.02), norms 1, biases 0.

    name: on the hub; with `seed` it seeds the parameter's own generator.
    """
    values, filled = np.empty(shape, np.float32), 0
    for rows in initial_rows(name, shape, seed):
        values[filled : filled + len(rows)] = rows
        filled += len(rows)
    return values


def initial_rows(name: str, shape: tuple[int, ...], seed: int) -> Iterator[Array]:
    """The rows of `initial_value` in blocks, for parameters that need not fit into memory."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    rows_per_block = max(1, _BLOCK_ELEMENTS // prod(shape[1:]))
    for start in range(0, shape[0], rows_per_block):
        rows = (min(rows_per_block, shape[0] - start), *shape[1:])
        if len(shape) == 1:
            yield np.full(rows, 0.0 if name.endswith(".bias") else 1.0, np.float32)
        else:
            yield generator.standard_normal(rows, np.float32) * np.float32(0.02)
