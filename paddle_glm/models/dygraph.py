"""A model in this process, or one process's part of a tensor-parallel model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import paddle

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.backends.kv_cache import CacheLimitError, KVCacheBackend, PromptReading
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import HeldColumns, KVCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.page_pool import PAGE_TOKENS, PagePool, pages_of
from paddle_glm.kv_cache.pages import PagedKVCache
from paddle_glm.load_memory import MemoryBudget
from paddle_glm.models.past_key_values import PastKeyValues
from paddle_glm.models.step_model import StepModel
from paddle_glm.numpy_interop import step_tensor
from paddle_glm.parallel.collectives import broadcast_array
from paddle_glm.parallel.memory import memory_budget
from paddle_glm.precision import compute_dtype


class RowAdapters(Protocol):
    """LoRA adapters that rows choose from (`paddle_glm.peft.lora_rows.LoraRows`)."""

    @property
    def names(self) -> tuple[str, ...]: ...

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
    def new_cache(self, batch: int) -> KVCache:
        self._check_mode()
        return self.model.new_cache(batch)

    def cache_of(self, tensors: Sequence[Any]) -> KVCache:
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        prefix = self.model.prefix_cache
        return KVCache([DecodeLayer(*pair) for pair in pairs], 0 if prefix is None else prefix.length)

    def limit_cache(self, nbytes: int) -> None:
        config = self.config
        heads = max(1, config.num_key_value_heads // self.model.group.degree)
        dtype = compute_dtype(getattr(paddle, self.stored_dtype))
        width = paddle.empty([0], dtype=dtype).element_size()
        page = PagePool.page_nbytes(config.num_layers, heads, config.head_dim, width)
        if nbytes < page:
            raise InputError(
                f"a KV cache of {nbytes} bytes: expected {page} or more, for {PAGE_TOKENS} tokens"
            )
        self.cache_limit = nbytes
        self._pool = PagePool(config.num_layers, nbytes // page, heads, config.head_dim, dtype)

    def check_lengths_fit(self, lengths: Sequence[int], stored_nbytes: int = 0) -> None:
        if self._pool is None:
            super().check_lengths_fit(lengths, stored_nbytes)
            return
        left = self._pool.size - stored_nbytes // self._pool.nbytes_per_page
        self._check_pages(lengths, self._pages_of(lengths), left)

    def _pages_of(self, lengths: Iterable[int]) -> int:
        """How many pages rows of so many tokens take, the prefix included."""
        prefix = 0 if self.model.prefix_cache is None else self.model.prefix_cache.length
        return sum(pages_of(prefix + length) for length in lengths)

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
        paged = PagedKVCache(self._pool, cache.prefix_length)
        self._add_pages(paged, cache, attention_mask, begin)
        return paged

    def add_to_cache(self, reading: PromptReading) -> None:
        if isinstance(self._cache, PagedKVCache):
            self._add_pages(self._cache, reading.cache, reading.attention_mask, reading.begin)
        else:
            super().add_to_cache(reading)

    def _add_pages(
        self, paged: PagedKVCache, cache: KVCache, attention_mask: IntArray, begin: HeldColumns | None
    ) -> None:
        lengths = attention_mask.sum(axis=1)
        begin = begin or paged.share_prefix()
        needed = paged.pages_to_add(cache.prefix_length + lengths, begin)
        self._check_pages(lengths.tolist(), needed, paged.pool.free)
        paged.add_rows(cache, attention_mask.argmax(axis=1), begin)

    def prepare_decode(self) -> None:
        if not isinstance(self._cache, PagedKVCache):
            super().prepare_decode()
            return
        lengths = self._mask.sum(axis=1).tolist()
        self._check_pages(lengths, self._cache.missing_pages(1), self._cache.pool.free)
        self._cache.begin_step(1)

    def run(self, inputs: dict[str, IntArray]) -> FloatArray:
        if self.adapters is not None:
            self.adapters.use(self._adapters)
        tensors = {name: step_tensor(array) for name, array in inputs.items()}
        with paddle.no_grad():
            return self.model.forward_with_cache(**tensors, cache=self._cache).numpy()

    def broadcast(self, values: IntArray) -> IntArray:
        return broadcast_array(values, self.model.group)
