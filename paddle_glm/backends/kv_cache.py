"""Shared by backends whose cache is a `KVCache`."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.base import Backend
from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import KVCache
from paddle_glm.load_memory import CACHE_TOKENS, MemoryBudget, cache_bytes, check_memory_budget

# Free memory is looked at again every so many tokens of an answer.
CHECK_INTERVAL = 128


class KVCacheBackend(Backend):
    """Holds one cache; a subclass makes it, and a step updates it.

    Rows may join while others go on, as `paddle_glm.generation.backend_protocol.ContinuousBatchingBackend`
    has it.
    """

    stored_dtype: str  # of the weights
    cache_copies: ClassVar[int] = 1  # that are in memory while a step runs

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._cache = KVCache([])

    @abstractmethod
    def new_cache(self, batch: int) -> KVCache:
        """What `batch` rows begin with: no columns, or those of a prefix."""

    @abstractmethod
    def memory_budget(self) -> MemoryBudget | None:
        """What is free where the cache goes; None where nothing is known of that."""

    def check_cache_fits(self, rows: int, prompt_tokens: int, new_tokens: int | None) -> None:
        """Raise `InsufficientMemoryError` where keys and values of so many rows are larger than what is free.

        prompt_tokens, new_tokens: of each row. Where nobody said how many are wanted (None), there has to be
        room for `CACHE_TOKENS`, as opening the model made sure of. What the cache holds now counts as free.
        """
        budget = self.memory_budget()
        if budget is None:
            return
        tokens = prompt_tokens + (CACHE_TOKENS if new_tokens is None else new_tokens)
        tokens = min(tokens, self.config.max_sequence_length)
        size = self.cache_copies * cache_bytes(self.config, self.stored_dtype, budget, tokens, rows)
        check_memory_budget(
            f"the key/value cache of {rows} x {tokens} tokens",
            budget.local_degree * (size - self._cache.nbytes),
            budget,
            lambda: "give a shorter prompt, fewer rows or beams, or a smaller max_new_tokens",
        )

    def decode(self, tokens: IntArray) -> FloatArray:
        rows, length = self._mask.shape
        if length % CHECK_INTERVAL == 0:
            self.check_cache_fits(rows, length, CHECK_INTERVAL)
        return super().decode(tokens)

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
