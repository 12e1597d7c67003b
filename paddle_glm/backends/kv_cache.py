"""Base class of backends with a `KVCache`."""

from abc import abstractmethod

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.base import Backend
from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import KVCache
from paddle_glm.load_memory import CACHE_TOKENS, MemoryBudget, cache_bytes, check_memory_budget

# Free memory is checked again every so many tokens.
CHECK_INTERVAL = 128


class KVCacheBackend(Backend):
    """Owns one cache, which a subclass creates and its steps update.

    Implements `paddle_glm.generation.backend_protocol.ContinuousBatchingBackend`.
    """

    stored_dtype: str  # of the weights
    cache_copies: int = 1  # in memory during a step

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._cache = KVCache([])

    @abstractmethod
    def new_cache(self, batch: int) -> KVCache:
        """A new cache for `batch` rows: empty, or with the prefix."""

    @abstractmethod
    def memory_budget(self) -> MemoryBudget | None:
        """Free memory on the cache's device; None if unknown."""

    def check_cache_fits(self, rows: int, prompt_tokens: int, new_tokens: int | None) -> None:
        """Raise `InsufficientMemoryError` if the KV cache of so many rows exceeds the free memory.

        prompt_tokens, new_tokens: per row; None means `CACHE_TOKENS`, for which loading the model checked the
        memory. The current cache counts as free.
        """
        budget = self.memory_budget()
        if budget is None:
            return
        tokens = prompt_tokens + (CACHE_TOKENS if new_tokens is None else new_tokens)
        tokens = min(tokens, self.config.max_sequence_length)
        size = self.cache_copies * cache_bytes(self.config, self.stored_dtype, budget, tokens, rows)
        check_memory_budget(
            f"the KV cache of {rows} x {tokens} tokens",
            budget.local_degree * (size - self._cache.nbytes),
            budget,
            lambda: "use a shorter prompt, fewer rows or beams, or a smaller max_new_tokens",
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
        """Prefill rows and append them to the current ones; returns their logits, float32 [new rows, vocab].

        Shorter rows are left-padded. On failure the current rows are unchanged.
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
        """Drop leading columns that are padding in every row."""
        padding = int(self._mask.any(axis=0).argmax())
        if padding:
            self._ids, self._mask = self._ids[:, padding:], self._mask[:, padding:]
            self._cache.drop_columns(padding)


def _left_pad(array: Array, width: int) -> Array:
    """[rows, width] with zeros on the left."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)))
