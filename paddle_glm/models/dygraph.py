"""A model in this process, or one process's part of a tensor-parallel model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import paddle

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.backends.kv_cache import CacheLimitError, KVCacheBackend, PromptReading
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import HeldColumns, KVCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.page_pool import PAGE_TOKENS, PagePool, pages_of
from paddle_glm.kv_cache.pages import PagedColumns, PagedKVCache
from paddle_glm.kv_cache.tensors import BLOCK, PrefixCache
from paddle_glm.load_memory import MemoryBudget
from paddle_glm.models.past_key_values import PastKeyValues
from paddle_glm.models.step_model import StepModel
from paddle_glm.numpy_interop import step_tensor
from paddle_glm.parallel.collectives import broadcast_array
from paddle_glm.parallel.memory import memory_budget
from paddle_glm.precision import compute_dtype


class RowAdapters(Protocol):
    """Adapters that rows choose from (`paddle_glm.peft.row_adapters.NamedAdapters`)."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def prefix(self, name: str) -> PrefixCache | None: ...

    def use(self, rows: Sequence[str | None]) -> None: ...


class DygraphBackend(KVCacheBackend):
    """Runs `model.forward_with_cache`. Above degree 1, every process of the group makes the same calls.

    Prompts are read in dense caches. Rows go on in these, or after `limit_cache` in the pages of a pool.
    """

    def __init__(self, model: StepModel, past: PastKeyValues | None = None) -> None:
        """past: of a conversation whose tokens are not computed again where a prompt begins with them."""
        super().__init__(model.config)
        self.stored_dtype = model.weight_format.dtype
        self.model, self._reused_past = model, past
        self.adapters: RowAdapters | None = None
        self._pool: PagePool | None = None

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return () if self.adapters is None else self.adapters.names

    @property
    def prefix_lengths(self) -> dict[str | None, int]:
        prefixes = {name: self._prefix(name) for name in (None, *self.adapter_names)}
        return {name: 0 if prefix is None else prefix.length for name, prefix in prefixes.items()}

    def _prefix(self, adapter: str | None) -> PrefixCache | None:
        """That rows of an adapter have; None: the model alone."""
        own = None if adapter is None or self.adapters is None else self.adapters.prefix(adapter)
        return own or self.model.prefix_cache

    @property
    def is_leader(self) -> bool:
        return self.model.group.rank == 0

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        resumed, self._reused_past = self._reused_past, None
        shared = (
            resumed.common_prefix_length(input_ids[0]) if resumed is not None and len(input_ids) == 1 else 0
        )
        if resumed is None or not shared:
            return super().prefill(input_ids, attention_mask)
        self.check_ids(input_ids)
        self._check_mode()
        self._cache, self._adapters = resumed.cache_of(shared), (None,)
        self._ids, self._mask = input_ids, attention_mask
        return self._step(input_ids.shape[1] - shared)

    @property
    def past(self) -> PastKeyValues:
        """Keys and values of the one row, whose last token may not be among them yet."""
        return PastKeyValues.from_cache(self._cache, self._ids[0], self.model)

    def _check_mode(self) -> None:
        if self.model.training:
            raise InputError("the model is in training mode, where it drops out at random: call model.eval()")

    def memory_budget(self) -> MemoryBudget:
        return memory_budget(self.model.group)

    @paddle.no_grad()
    def new_cache(self, batch: int, adapter: str | None = None) -> KVCache:
        self._check_mode()
        return self.model.new_cache(batch, self._prefix(adapter))

    def cache_of(self, tensors: Sequence[Any], adapter: str | None = None) -> KVCache:
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return KVCache([DecodeLayer(*pair) for pair in pairs], self.prefix_lengths[adapter])

    def limit_cache(self, nbytes: int) -> None:
        page = PAGE_TOKENS * self._column_nbytes
        if nbytes < page:
            raise InputError(
                f"a KV cache of {nbytes} bytes: expected {page} or more, for {PAGE_TOKENS} tokens"
            )
        self.cache_limit = nbytes
        config = self.config
        self._pool = PagePool(
            config.num_layers, nbytes // page, self._local_heads, config.head_dim, self._cache_dtype
        )

    @property
    def _local_heads(self) -> int:
        return max(1, self.config.num_key_value_heads // self.model.group.degree)

    @property
    def _cache_dtype(self) -> paddle.dtype:
        return compute_dtype(getattr(paddle, self.stored_dtype))

    @property
    def _column_nbytes(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        width = paddle.empty([0], dtype=self._cache_dtype).element_size()
        return 2 * self.config.num_layers * self._local_heads * self.config.head_dim * width

    def reading_nbytes(self, rows: int, columns: int) -> int:
        columns += -columns % BLOCK  # buffers grow by so many
        return rows * columns * self._column_nbytes

    def check_lengths_fit(self, lengths: Sequence[int], stored_nbytes: int = 0) -> None:
        if self._pool is None:
            super().check_lengths_fit(lengths, stored_nbytes)
            return
        left = self._pool.size - stored_nbytes // self._pool.nbytes_per_page
        # Both counts have pages that a row shares with others.
        self._check_pages(lengths, sum(map(pages_of, lengths)), left + self._pool.shared)

    def _check_pages(self, lengths: Sequence[int], needed: int, free: int) -> None:
        assert self._pool is not None
        if needed > free:
            page = self._pool.nbytes_per_page
            raise CacheLimitError(lengths, needed * page, free * page)

    @property
    def is_paged(self) -> bool:
        return self._pool is not None

    @property
    def cache_nbytes(self) -> int:
        if self._pool is None:
            return super().cache_nbytes
        return (self._pool.size - self._pool.free) * self._pool.nbytes_per_page

    def running_cache(
        self, cache: KVCache, attention_mask: IntArray, begin: HeldColumns | None = None
    ) -> KVCache:
        if self._pool is None:
            return cache
        paged = PagedKVCache(self._pool)
        self._add_pages(paged, cache, attention_mask, begin)
        return paged

    def add_to_cache(self, reading: PromptReading) -> None:
        if isinstance(self._cache, PagedKVCache):
            begin = reading.begin or self._shared_prefix(self._cache, reading.adapter)
            self._add_pages(self._cache, reading.cache, reading.attention_mask, begin)
        else:
            super().add_to_cache(reading)

    def _shared_prefix(self, cache: PagedKVCache, adapter: str | None) -> PagedColumns | None:
        """The pages that a prefix fills, of a running row that has it too; None where there is none."""
        prefix = self._prefix(adapter)
        rows = [row for row, other in enumerate(self._adapters) if self._prefix(other) is prefix]
        return None if prefix is None or not rows else cache.keep_row(rows[0], 0).share(prefix.length)

    def _add_pages(
        self, paged: PagedKVCache, cache: KVCache, attention_mask: IntArray, begin: HeldColumns | None
    ) -> None:
        lengths = cache.prefix_length + attention_mask.sum(axis=1)
        needed = paged.pages_to_add(lengths, begin)
        self._check_pages(lengths.tolist(), needed, paged.pool.free)
        paged.add_rows(cache, attention_mask.argmax(axis=1), begin)

    def prepare_decode(self) -> None:
        if not isinstance(self._cache, PagedKVCache):
            super().prepare_decode()
            return
        cache = self._cache
        self._check_pages(cache.lengths.tolist(), cache.missing_pages(1), cache.pool.free)
        cache.begin_step(1)

    def run(self, inputs: dict[str, IntArray]) -> FloatArray:
        if self.adapters is not None:
            self.adapters.use(self._adapters)
        tensors = {name: step_tensor(array) for name, array in inputs.items()}
        with paddle.no_grad():
            return self.model.forward_with_cache(**tensors, cache=self._cache).numpy()

    def broadcast(self, values: IntArray) -> IntArray:
        return broadcast_array(values, self.model.group)
