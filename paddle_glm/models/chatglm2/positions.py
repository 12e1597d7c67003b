"""The positions of ChatGLM2's and ChatGLM3's tokens."""

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.config import ModelConfig


def positions(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> Array:
    """Positions count the real tokens before each token; padding has 0 (the hub tokenizer's `_pad`)."""
    return np.maximum(attention_mask.cumsum(axis=1) - 1, 0)
