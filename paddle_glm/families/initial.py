"""What the parameters of a model start from that was never trained."""

import zlib

import numpy as np


def initial_value(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A float32 array: matrices normal(0, 0.02), norms 1, biases 0.

    Each parameter has a generator of its own, seeded by its hub name, so that its numbers do not depend
    on the other parameters or on how many processes share them.
    """
    if len(shape) == 1:
        return np.full(shape, 0.0 if name.endswith(".bias") else 1.0, np.float32)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape, np.float32) * np.float32(0.02)
