"""What generation needs of a model."""

from typing import Protocol, runtime_checkable

import numpy as np


class GenerationBackend(Protocol):
    """What generation needs of a model: `paddle_glm.backends.base.Backend` is one."""

    @property
    def max_length(self) -> int | None:
        """Most tokens that a row may have, or None."""

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Begin anew with int64 [batch, length]; logits float32 [batch, vocab] of the last column."""

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Append int64 [batch]; logits float32 [batch, vocab]."""

    def select(self, rows: np.ndarray) -> None:
        """Make the cache's row i what row `rows[i]` was; rows may repeat or be left out."""

    def broadcast(self, values: np.ndarray) -> np.ndarray:
        """The int64 values of the process that decides, in every process that computes together."""


@runtime_checkable
class ContinuousBatchingBackend(GenerationBackend, Protocol):
    """One whose rows may come and go while others are generated: continuous batching."""

    def add_rows(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Prefill rows beside those that are held, which come first; logits float32 [new rows, vocab].

        Where it fails, the held rows are as before.
        """

    def drop_padding(self) -> None:
        """Drop the columns in front that are padding in every row."""
