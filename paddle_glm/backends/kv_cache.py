"""Base class of backends with a `KVCache`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.base import Backend
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import HeldColumns, KVCache
from paddle_glm.kv_cache.arrays import common_prefix_length
from paddle_glm.load_memory import (
    CACHE_TOKENS,
    InsufficientMemoryError,
    MemoryBudget,
    cache_bytes,
    check_memory_budget,
    format_bytes,
)

# Free memory is checked again every so many tokens.
CHECK_INTERVAL = 128


class CacheLimitError(InsufficientMemoryError):
    """Rows do not fit into what `KVCacheBackend.limit_cache` allows."""

    def __init__(self, lengths: Sequence[int], needed: int, left: int) -> None:
        rows = f"{len(lengths)} x {max(lengths)}" if len(lengths) > 1 else f"{max(lengths)}"
        self.shortage = (
            f"the KV cache of {rows} tokens needs {format_bytes(needed)} of the {format_bytes(max(0, left))} "
            "that its limit leaves"
        )
        InputError.__init__(self, f"{self.shortage}: use a shorter prompt or a smaller max_new_tokens")


@dataclass
class PromptReading:
    """Prompts, int64 [batch, length]: the first `columns_read` columns are in a cache of their own.

    adapter: that all of them are read with, and answered; None: the model alone. begin: first columns that
    they have in common with another row, if the rows' memory can be the same.
    """

    input_ids: IntArray
    attention_mask: IntArray
    cache: KVCache
    columns_read: int
    adapter: str | None = None
    begin: HeldColumns | None = None


class RowCache:
    """Tokens of a row, int64 [length], and their keys and values, computed with `adapter`.

    `release` gives the keys and values up.
    """

    def __init__(
        self,
        input_ids: IntArray,
        columns: HeldColumns,
        prefix_length: int = 0,
        adapter: str | None = None,
    ) -> None:
        self.input_ids, self.nbytes, self.adapter = input_ids, columns.nbytes, adapter
        self._columns, self._prefix_length = columns, prefix_length

    def common_length(self, input_ids: IntArray) -> int:
        """How many tokens of int64 [length] are this row's first ones; one is left, to be computed."""
        return common_prefix_length(self.input_ids, input_ids)

    def first_columns(self, tokens: int) -> list[Any]:
        """Copies of the prefix and the first tokens' keys and values."""
        return self._columns.first(self._prefix_length + tokens)

    def share(self, tokens: int) -> HeldColumns | None:
        """What a row that begins with the prefix and the first tokens may have together with this one."""
        return self._columns.share(self._prefix_length + tokens)

    def release(self) -> None:
        self._columns.release()


class KVCacheBackend(Backend):
    """Owns one cache, which a subclass creates and its steps update; rows come and go between steps."""

    stored_dtype: str  # of the weights
    cache_copies: int = 1  # in memory during a step

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._cache = KVCache([])
        self._adapters: tuple[str | None, ...] = ()  # of the rows
        self.cache_limit: int | None = None  # bytes, see `limit_cache`

    @property
    @abstractmethod
    def prefix_lengths(self) -> Mapping[str | None, int]:
        """Columns in front of a row's tokens, by the row's adapter; None: the model alone."""

    @abstractmethod
    def new_cache(self, batch: int, adapter: str | None = None) -> KVCache:
        """A new cache for `batch` rows of an adapter: empty, or with the prefix."""

    @abstractmethod
    def memory_budget(self) -> MemoryBudget | None:
        """Free memory on the cache's device; None if unknown."""

    def check_cache_fits(self, rows: int, prompt_tokens: int, new_tokens: int | None) -> None:
        """`check_lengths_fit` for so many rows of prompt_tokens + new_tokens tokens.

        new_tokens: None means `CACHE_TOKENS`, for which loading the model checked the memory.
        """
        tokens = prompt_tokens + (CACHE_TOKENS if new_tokens is None else new_tokens)
        tokens = min(tokens, self.config.max_sequence_length)
        self.check_lengths_fit([self.prefix_lengths[None] + tokens] * rows)

    def check_lengths_fit(self, lengths: Sequence[int], stored_nbytes: int = 0) -> None:
        """Raise `InsufficientMemoryError` if rows of so many columns exceed the limit, or the free memory.

        lengths: of all rows that would be there, prefixes included. stored_nbytes: of the `RowCache`s that
        are kept.
        """
        rows, tokens = len(lengths), max(lengths)
        if self.cache_limit is not None:
            size = self._rows_nbytes(rows, tokens, self._limited)
            if size + stored_nbytes > self.cache_limit:
                raise CacheLimitError(lengths, size, self.cache_limit - stored_nbytes)
            return
        budget = self.memory_budget()
        if budget is None:
            return
        check_memory_budget(
            f"the KV cache of {rows} x {tokens} tokens",
            budget.local_degree * (self._rows_nbytes(rows, tokens, budget) - self._cache.nbytes),
            budget,
            lambda: "use a shorter prompt, fewer rows or beams, or a smaller max_new_tokens",
        )

    def _rows_nbytes(self, rows: int, tokens: int, budget: MemoryBudget) -> int:
        """In this process, during a step."""
        return self.cache_copies * cache_bytes(self.config, self.stored_dtype, budget, tokens, rows)

    def reading_nbytes(self, rows: int, columns: int) -> int:
        """Bytes of the cache that prompts are read in, prefix included; 0 where `check_lengths_fit` counts
        them among the rows.
        """
        return 0

    @property
    def is_paged(self) -> bool:
        """Whether rows of any length lie beside each other without padding."""
        return False

    @property
    def cache_nbytes(self) -> int:
        """Bytes of the running rows; with pages also of the rows that are kept."""
        return self._cache.nbytes

    def limit_cache(self, nbytes: int) -> None:
        """Bound the bytes of this process for rows that run together; called once, before there are any.

        Raises `InputError` where a short row would not fit.
        """
        self._limited = self.memory_budget() or MemoryBudget("gpu", 0)
        self.cache_limit = nbytes
        self.check_lengths_fit([1])

    def release(self) -> None:
        """Drop all rows and give their memory back."""
        self._cache.release()
        self._cache, self._adapters = KVCache([]), ()
        self._ids = self._mask = np.zeros((0, 0), dtype=np.int64)

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        logits = super().prefill(input_ids, attention_mask)
        self._cache = self.running_cache(self._cache, attention_mask)
        return logits

    def running_cache(
        self, cache: KVCache, attention_mask: IntArray, begin: HeldColumns | None = None
    ) -> KVCache:
        """The cache in which rows go on that were read in `cache`; others as in `PromptReading`."""
        return cache

    def decode(self, tokens: IntArray) -> FloatArray:
        """As `Backend.decode`. Raises `InsufficientMemoryError` before anything is changed."""
        self.prepare_decode()
        return super().decode(tokens)

    def prepare_decode(self) -> None:
        """Make room for a token more in each row."""
        rows, length = self._mask.shape
        if self.cache_limit is not None:
            self.check_lengths_fit([self._cache.prefix_length + length + 1] * rows)
        elif length % CHECK_INTERVAL == 0:
            self.check_cache_fits(rows, length, CHECK_INTERVAL)

    def reset(self, batch: int) -> None:
        self.release()
        self._cache, self._adapters = self.new_cache(batch), (None,) * batch

    def select_cache(self, rows: IntArray) -> None:
        self._cache.select(rows)
        self._adapters = tuple(self._adapters[row] for row in rows)

    @abstractmethod
    def cache_of(self, tensors: Sequence[Any], adapter: str | None = None) -> KVCache:
        """A cache that begins with these keys and values of an adapter, ordered as `KVCache.tensors`."""

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
            cache = self.new_cache(len(input_ids), adapter)
            return PromptReading(input_ids, attention_mask, cache, 0, adapter)
        count = past.common_length(input_ids[0])
        cache = self.cache_of(past.first_columns(count), adapter)
        return PromptReading(input_ids, attention_mask, cache, count, adapter, past.share(count))

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
            self.release()
            self._cache = self.running_cache(reading.cache, reading.attention_mask, reading.begin)
            self._ids, self._mask = reading.input_ids, reading.attention_mask
            self._adapters, reading.begin = adapters, None
            return
        width = max(self._ids.shape[1], reading.input_ids.shape[1])
        ids = np.concatenate([_left_pad(self._ids, width), _left_pad(reading.input_ids, width)])
        mask = np.concatenate([_left_pad(self._mask, width), _left_pad(reading.attention_mask, width)])
        self.add_to_cache(reading)
        self._ids, self._mask, self._adapters = ids, mask, self._adapters + adapters
        reading.begin = None

    def add_to_cache(self, reading: PromptReading) -> None:
        """Append the rows that were read to the cache of the current ones."""
        self._cache.add_rows(reading.cache)

    def row_cache(self, row: int) -> RowCache:
        """What a current row leaves for later prompts that begin with its tokens."""
        padding = int(self._mask[row].argmax())
        columns, adapter = self._cache.keep_row(row, padding), self._adapters[row]
        return RowCache(self._ids[row, padding:], columns, self.prefix_lengths[adapter], adapter)

    def drop_padding(self) -> None:
        """Drop leading columns that are padding in every row."""
        padding = int(self._mask.any(axis=0).argmax())
        if padding:
            self._ids, self._mask = self._ids[:, padding:], self._mask[:, padding:]
            self._cache.drop_columns(padding)


def _left_pad(array: Array, width: int) -> Array:
    """[rows, width] with zeros on the left."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)))
