"""Positions of ChatGLM2 and ChatGLM3."""

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.config import ModelConfig


def positions(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> Array:
    """The number of real tokens before each token, int64 [batch, total]; 0 for padding.

    input_ids, attention_mask: [batch, total]; the mask is 0 for padding. As the original tokenizer's `_pad`.
    """
    return np.maximum((attention_mask > 0).cumsum(axis=1) - 1, 0)


def rotary_dim(config: ModelConfig) -> int:
    """The first half of each head is rotated (`RotaryEmbedding(rotary_dim // 2)` of modeling_chatglm.py)."""
    return config.head_dim // 2
