"""Base class of backends with a `KVCache`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.base import Backend
from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.arrays import common_prefix_length
from paddle_glm.load_memory import CACHE_TOKENS, MemoryBudget, cache_bytes, check_memory_budget

# Free memory is checked again every so many tokens.
CHECK_INTERVAL = 128


@dataclass
class PromptReading:
    """Prompts, int64 [batch, length]: the first `columns_read` columns are in a cache of their own.

    adapter: that all of them are read with, and answered; None: the model alone.
    """

    input_ids: IntArray
    attention_mask: IntArray
    cache: KVCache
    columns_read: int
    adapter: str | None = None


class RowCache:
    """Tokens of a row, int64 [length], and copies of their keys and values, computed with `adapter`."""

    def __init__(
        self, input_ids: IntArray, tensors: Sequence[Any], cache: KVCache, adapter: str | None = None
    ) -> None:
        """tensors: as `KVCache.row_columns` of `cache` gives them."""
        self.input_ids, self.adapter = input_ids, adapter
        self._tensors, self._prefix_length = tensors, cache.prefix_length
        self._library = cache.layers[0].library
        self.nbytes = sum(map(self._library.nbytes, tensors))

    def common_length(self, input_ids: IntArray) -> int:
        """How many tokens of int64 [length] are this row's first ones; one is left, to be computed."""
        return common_prefix_length(self.input_ids, input_ids)

    def first_columns(self, tokens: int) -> list[Any]:
        """Copies of the prefix and the first tokens' keys and values."""
        stop = self._prefix_length + tokens
        return [self._library.concat([tensor[:, :, :stop]], 2) for tensor in self._tensors]


class KVCacheBackend(Backend):
    """Owns one cache, which a subclass creates and its steps update.

    Implements `paddle_glm.generation.backend_protocol.ContinuousBatchingBackend`.
    """

    stored_dtype: str  # of the weights
    cache_copies: int = 1  # in memory during a step

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._cache = KVCache([])
        self._adapters: tuple[str | None, ...] = ()  # of the rows

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
        self._cache, self._adapters = self.new_cache(batch), (None,) * batch

    def select_cache(self, rows: IntArray) -> None:
        self._cache.select(rows)
        self._adapters = tuple(self._adapters[row] for row in rows)

    @abstractmethod
    def cache_of(self, tensors: Sequence[Any]) -> KVCache:
        """A cache that begins with these keys and values, ordered as `KVCache.tensors`."""

    def add_rows(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Prefill rows and append them to the current ones; returns their logits, float32 [new rows, vocab].

        Shorter rows are left-padded. On failure the current rows are unchanged.
        """
        reading = self.start_reading(input_ids, attention_mask)
        logits = self.read(reading, input_ids.shape[1])
        assert logits is not None
        self.join(reading)
        return logits

    def start_reading(
        self,
        input_ids: IntArray,
        attention_mask: IntArray,
        past: RowCache | None = None,
        adapter: str | None = None,
    ) -> PromptReading:
        """Begin to read prompts, int64 [batch, length], beside the current rows, which stay as they are.

        past: what an earlier row of this adapter left, for a batch of one whose beginning is that row's.
        adapter: one of `adapter_names`; None: the model alone.
        """
        self.check_ids(input_ids)
        if past is None:
            return PromptReading(input_ids, attention_mask, self.new_cache(len(input_ids)), 0, adapter)
        count = past.common_length(input_ids[0])
        cache = self.cache_of(past.first_columns(count))
        return PromptReading(input_ids, attention_mask, cache, count, adapter)

    def read(self, reading: PromptReading, tokens: int) -> FloatArray | None:
        """Read up to so many columns more; returns the logits, float32 [batch, vocab], after the last one."""
        stop = min(reading.columns_read + tokens, reading.input_ids.shape[1])
        held = self._ids, self._mask, self._cache, self._adapters
        try:
            self._ids, self._mask = reading.input_ids[:, :stop], reading.attention_mask[:, :stop]
            self._cache, self._adapters = reading.cache, (reading.adapter,) * len(reading.input_ids)
            logits = self._step(stop - reading.columns_read)
            reading.cache, reading.columns_read = self._cache, stop
        finally:
            self._ids, self._mask, self._cache, self._adapters = held
        return logits if stop == reading.input_ids.shape[1] else None

    def join(self, reading: PromptReading, replace: bool = False) -> None:
        """Append rows that were read to the current ones, or take their place. On failure nothing changes."""
        adapters = (reading.adapter,) * len(reading.input_ids)
        if replace:
            self._adapters = adapters
            self._ids, self._mask, self._cache = reading.input_ids, reading.attention_mask, reading.cache
            return
        width = max(self._ids.shape[1], reading.input_ids.shape[1])
        ids = np.concatenate([_left_pad(self._ids, width), _left_pad(reading.input_ids, width)])
        mask = np.concatenate([_left_pad(self._mask, width), _left_pad(reading.attention_mask, width)])
        self._cache.add_rows(reading.cache)
        self._ids, self._mask, self._adapters = ids, mask, self._adapters + adapters

    def row_cache(self, row: int) -> RowCache:
        """What a current row leaves for later prompts that begin with its tokens."""
        stop = self._cache.own_length
        padding = int(self._mask[row].argmax())
        tensors = self._cache.row_columns(row, padding, stop)
        return RowCache(self._ids[row, padding:stop], tensors, self._cache, self._adapters[row])

    def drop_padding(self) -> None:
        """Drop leading columns that are padding in every row."""
        padding = int(self._mask.any(axis=0).argmax())
        if padding:
            self._ids, self._mask = self._ids[:, padding:], self._mask[:, padding:]
            self._cache.drop_columns(padding)


def _left_pad(array: Array, width: int) -> Array:
    """[rows, width] with zeros on the left."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)))
