"""Types of numpy arrays in signatures: the dtype alone can be checked; docstrings state shapes."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # any dtype
IntArray: TypeAlias = NDArray[np.int64]  # token ids, masks, positions, rows of a batch
FloatArray: TypeAlias = NDArray[np.float32]  # logits
DType: TypeAlias = np.dtype[Any]
