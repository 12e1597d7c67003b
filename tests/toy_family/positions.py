"""Positions of the toy family: even numbers."""

from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.config import ModelConfig


def positions(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> Array:
    """Twice the number of real tokens before each token, int64 [batch, total]; 0 for padding."""
    return 2 * np.maximum((attention_mask > 0).cumsum(axis=1) - 1, 0)


def position_rule(config: ModelConfig) -> dict[str, Any]:
    return {"rule": "even"}


def rotary_dim(config: ModelConfig) -> int:
    return config.head_dim
