"""Shared by backends whose cache is a `KVCache`."""

from abc import abstractmethod

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.base import Backend
from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import KVCache


class KVCacheBackend(Backend):
    """Holds one cache; a subclass makes it, and a step updates it.

    Rows may join while others go on, as `paddle_glm.generation.backend_protocol.ContinuousBatchingBackend`
    has it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._cache = KVCache([])

    @abstractmethod
    def new_cache(self, batch: int) -> KVCache:
        """What `batch` rows begin with: no columns, or those of a prefix."""

    def reset(self, batch: int) -> None:
        self._cache = self.new_cache(batch)

    def select_cache(self, rows: IntArray) -> None:
        self._cache.select(rows)

    def add_rows(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Prefill rows beside those that are held, which come first; logits float32 [new rows, vocab].

        The shorter rows get padding on the left. Where it fails, the held rows are as before.
        """
        held_ids, held_mask, held_cache = self._ids, self._mask, self._cache
        try:
            logits = self.prefill(input_ids, attention_mask)
            width = max(held_ids.shape[1], self._ids.shape[1])
            ids = np.concatenate([_left_pad(held_ids, width), _left_pad(self._ids, width)])
            mask = np.concatenate([_left_pad(held_mask, width), _left_pad(self._mask, width)])
            held_cache.add_rows(self._cache)
        except BaseException:
            self._ids, self._mask, self._cache = held_ids, held_mask, held_cache
            raise
        self._ids, self._mask, self._cache = ids, mask, held_cache
        return logits

    def drop_padding(self) -> None:
        """Drop the columns in front that are padding in every row."""
        padding = int(self._mask.any(axis=0).argmax())
        if padding:
            self._ids, self._mask = self._ids[:, padding:], self._mask[:, padding:]
            self._cache.drop_columns(padding)


def _left_pad(array: Array, width: int) -> Array:
    """[rows, width] with zeros on the left."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)))
