"""A KV cache in pages (vLLM, arXiv:2309.06180): rows of any length without padding, which may share pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import finalize

import numpy as np
import paddle
from paddle import Tensor

from paddle_glm.array_types import IntArray
from paddle_glm.kv_cache.cache import HeldColumns, KeyValue, KVCache
from paddle_glm.kv_cache.page_pool import PAGE_TOKENS, PagePool, pages_of
from paddle_glm.kv_cache.tensors import PADDLE
from paddle_glm.numpy_interop import step_tensor


@dataclass(frozen=True, eq=False)
class PageGroup:
    """Rows that take equally many pages, short ones filled up with page 0.

    count: of rows. rows: int64 [count], their numbers. index: int64 [count * heads * pages], for
        `PagedLayer.gather`.
    visible: bool [count, 1, tokens, pages * PAGE_TOKENS], the columns that each token attends to.
    """

    count: int
    rows: Tensor
    index: Tensor
    visible: Tensor


class PageStep:
    """Where a step's tokens go and what they see; all layers ask the same.

    table: int64 [rows, pages], the rows' pages, 0 behind a row's last one. past: int64 [rows], columns in use
    before the step's tokens, of which each row has `tokens`.
    """

    def __init__(self, table: IntArray, past: IntArray, tokens: int, heads: int) -> None:
        self._table, self._past, self.tokens, self._heads = table, past, tokens, heads

    @cached_property
    def table(self) -> Tensor:
        return step_tensor(self._table)

    @cached_property
    def past(self) -> Tensor:
        return step_tensor(self._past)

    @property
    def longest(self) -> int:
        """The largest of `past`."""
        return int(self._past.max())

    @cached_property
    def columns(self) -> Tensor:
        """Where each key goes in a layer's [pages * heads * PAGE_TOKENS]: int64 [rows * heads * tokens]."""
        column = self._past[:, None] + np.arange(self.tokens)  # (rows, tokens)
        page = np.take_along_axis(self._table, column // PAGE_TOKENS, axis=1)[:, None]
        head = np.arange(self._heads)[None, :, None]
        places = (page * self._heads + head) * PAGE_TOKENS + (column % PAGE_TOKENS)[:, None]
        return step_tensor(places.reshape(-1))

    @cached_property
    def groups(self) -> list[PageGroup]:
        """All rows, those together whose pages round up to the same power of two.

        So a long row costs short ones nothing, and what a row computes does not depend on the others.
        """
        return [self._group(rows, pages) for rows, pages in self._group_rows]

    @cached_property
    def order(self) -> Tensor:
        """Where each row is in the groups, one behind the other: int64 [rows]."""
        return step_tensor(np.argsort(np.concatenate([rows for rows, _ in self._group_rows])))

    @cached_property
    def _group_rows(self) -> list[tuple[IntArray, int]]:
        held = pages_of(self._past + self.tokens)
        taken = 2 ** np.ceil(np.log2(held)).astype(np.int64)
        return [(np.flatnonzero(taken == pages), int(pages)) for pages in np.unique(taken)]

    @cached_property
    def whole(self) -> PageGroup:
        """All rows in one group."""
        return self._group(np.arange(len(self._past)), self._table.shape[1])

    def _group(self, rows: IntArray, pages: int) -> PageGroup:
        table = np.zeros((len(rows), pages), dtype=np.int64)
        width = min(pages, self._table.shape[1])
        table[:, :width] = self._table[rows, :width]
        index = table[:, None] * self._heads + np.arange(self._heads)[None, :, None]
        last = self._past[rows, None] + np.arange(self.tokens)  # (rows, tokens)
        visible = np.arange(pages * PAGE_TOKENS) <= last[:, None, :, None]
        return PageGroup(len(rows), step_tensor(rows), step_tensor(index.reshape(-1)), step_tensor(visible))


class PagedLayer:
    """One layer's keys and values of the rows of a `PagedKVCache`, for inference without gradients."""

    library = PADDLE

    def __init__(self, cache: PagedKVCache, index: int) -> None:
        self._cache, self._index = cache, index

    @property
    def pages(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all pages, [pages, heads, PAGE_TOKENS, head_dim] each, written in place."""
        return self._cache.pool.layers[self._index]

    @property
    def step(self) -> PageStep:
        """The running step."""
        assert self._cache.step is not None, "begin_step comes before the step"
        return self._cache.step

    @property
    def length(self) -> int:
        """Columns in use of the longest row."""
        return self._cache.length

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes // len(self._cache.layers)

    @property
    def key_value(self) -> KeyValue:
        raise TypeError("rows in pages have no columns in common: ask keep_row")

    def append(self, key: Tensor, value: Tensor) -> None:
        """Write the step's [rows, heads, tokens, head_dim] behind the columns of their rows."""
        self._cache.pool.write(self._index, self.step.columns, key, value)

    def gather(self, group: PageGroup) -> KeyValue:
        """Keys and values of a group, [rows, heads, its columns, head_dim] each, copied."""
        key, value = (self._gathered(tensor, group) for tensor in self.pages)
        return key, value

    def _gathered(self, pages: Tensor, group: PageGroup) -> Tensor:
        count, heads, _, size = pages.shape
        rows = paddle.index_select(pages.reshape([count * heads, PAGE_TOKENS * size]), group.index, axis=0)
        return rows.reshape([group.count, heads, -1, size])

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """As `LayerCache.update`; what it returns is masked by `AttentionMask.for_cache`.

        For families that do not use `layers.attention.attend`, which does not copy the pages.
        """
        self.append(key, value)
        return self.gather(self.step.whole)

    def spare(self, tokens: int) -> int:
        return 0

    def replace(self, key: Any, value: Any) -> None:
        raise TypeError("rows in pages have no columns in common: ask add_rows")

    def select(self, rows: IntArray) -> None:
        raise TypeError("the rows of all layers are selected together: ask the cache")


class PagedColumns:
    """What a row holds: its pages, which stay as they are until `release`, or until this is deleted."""

    def __init__(self, pool: PagePool, pages: Sequence[int], columns: int) -> None:
        self._pool, self._pages, self._columns = pool, list(pages), columns
        pool.share(self._pages)
        self._give_back = finalize(self, pool.give_back, self._pages)
        self._give_back.atexit = False

    @property
    def nbytes(self) -> int:
        """Bytes of the pages, also of those that others have too."""
        return len(self._pages) * self._pool.nbytes_per_page

    def first(self, columns: int) -> list[Tensor]:
        assert columns <= self._columns and self._give_back.alive, (columns, self._columns)
        return self._pool.read(self._pages[: pages_of(columns)], columns)

    def share(self, columns: int) -> PagedColumns:
        """The pages that the first columns fill, for another row that begins with them."""
        assert columns <= self._columns and self._give_back.alive, (columns, self._columns)
        count = columns // PAGE_TOKENS
        return PagedColumns(self._pool, self._pages[:count], count * PAGE_TOKENS)

    @property
    def pages(self) -> list[int]:
        return list(self._pages)

    def release(self) -> None:
        self._give_back()


class PagedKVCache(KVCache):
    """Rows of different lengths in the pages of a pool, without padding, each with a prefix of any length.

    A step begins with `begin_step`; then attention of each layer appends and reads. A page with several
    owners is not written to: the row gets a copy.
    """

    def __init__(self, pool: PagePool) -> None:
        super().__init__([PagedLayer(self, index) for index in range(len(pool.layers))])
        self.pool = pool
        self.step: PageStep | None = None
        self._pages: list[list[int]] = []
        self._lengths = np.zeros(0, dtype=np.int64)

    @property
    def length(self) -> int:
        """Columns in use of the longest row, the prefix included."""
        return int(self._lengths.max(initial=0))

    @property
    def lengths(self) -> IntArray:
        """Columns in use of each row, the prefix included: int64 [rows]."""
        return self._lengths

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that would be free without these rows."""
        return self.own_pages * self.pool.nbytes_per_page

    @property
    def own_pages(self) -> int:
        return self.pool.only_of(page for pages in self._pages for page in pages)

    def spare(self, tokens: int) -> int:
        return 0

    def missing_pages(self, tokens: int) -> int:
        """How many pages `begin_step` takes."""
        grown = self._more_pages(tokens)
        return int(grown.sum()) + sum(map(self._copies_last, range(len(self._pages))))

    def begin_step(self, tokens: int) -> None:
        """Make room for so many tokens more in each row, which count as in use.

        Raises `IndexError`, and changes nothing, where `missing_pages` are not free.
        """
        if (count := self.missing_pages(tokens)) > self.pool.free:
            raise IndexError(f"{count} pages are needed and {self.pool.free} are free")
        for row, pages in enumerate(self._pages):
            if self._copies_last(row):
                pages[-1], shared = self.pool.copy(pages[-1]), pages[-1]
                self.pool.give_back([shared])
        more = self._more_pages(tokens)
        taken = self.pool.take(int(more.sum()))
        self.pool.clear(taken)
        for pages, count in zip(self._pages, more, strict=True):
            pages += [taken.pop() for _ in range(count)]
        table = np.zeros((len(self._pages), max(map(len, self._pages))), dtype=np.int64)
        for row, pages in enumerate(self._pages):
            table[row, : len(pages)] = pages
        self.step = PageStep(table, self._lengths, tokens, self.pool.heads)
        self._lengths = self._lengths + tokens

    def _more_pages(self, tokens: int) -> IntArray:
        return pages_of(self._lengths + tokens) - pages_of(self._lengths)

    def _copies_last(self, row: int) -> bool:
        partly = self._lengths[row] % PAGE_TOKENS != 0
        return bool(partly) and self.pool.owners(self._pages[row][-1]) > 1

    def select(self, rows: IntArray) -> None:
        before = self._pages
        self._pages = [list(before[row]) for row in rows]
        self._lengths = self._lengths[rows]
        for pages in self._pages:
            self.pool.share(pages)
        for pages in before:
            self.pool.give_back(pages)

    def add_rows(
        self, other: KVCache, padding: IntArray | None = None, begin: HeldColumns | None = None
    ) -> None:
        """Append copies of the rows of another cache.

        padding: int64 [rows], columns of each that are left out. begin: first columns of all of them, whose
        pages are shared. Raises `IndexError`, and changes nothing, where the pages are not free.
        """
        padding = np.zeros(len(other[0][0]), np.int64) if padding is None else padding
        shared = begin.pages if isinstance(begin, PagedColumns) else []
        lengths = other.length - padding
        taken = self.pool.take(self.pages_to_add(lengths, begin))
        pages = []
        for count in pages_of(lengths):
            self.pool.share(shared)
            pages.append([*shared, *(taken.pop() for _ in range(count - len(shared)))])
        try:
            self.pool.clear([own[-1] for own in pages])
            for row, own in enumerate(pages):
                self._copy_row(other, row, int(padding[row]), own, len(shared) * PAGE_TOKENS)
        except BaseException:
            for own in pages:
                self.pool.give_back(own)
            raise
        self._pages += pages
        self._lengths = np.concatenate([self._lengths, lengths])

    def pages_to_add(self, lengths: IntArray, begin: HeldColumns | None = None) -> int:
        """How many pages `add_rows` takes for rows of so many columns, the prefix included, int64 [rows]."""
        shared = len(begin.pages) if isinstance(begin, PagedColumns) else 0
        return int((pages_of(lengths) - shared).sum())

    def _copy_row(self, other: KVCache, row: int, padding: int, pages: list[int], start: int) -> None:
        """Copy a row's columns from `start` on to its pages."""
        tokens = other.length - padding - start
        step = PageStep(np.array([pages]), np.array([start]), tokens, self.pool.heads)
        prefix = other.prefix_length
        for index, pair in enumerate(other):
            one = [tensor[row : row + 1] for tensor in pair]
            if start < prefix:
                parts = [[tensor[:, :, start:prefix], tensor[:, :, prefix + padding :]] for tensor in one]
                one = [paddle.concat(both, axis=2) for both in parts]
            else:
                one = [tensor[:, :, start + padding :] for tensor in one]
            self.pool.write(index, step.columns, *one)

    def drop_columns(self, count: int) -> None:
        """Nothing: rows have no padding."""

    def keep_row(self, row: int, padding: int) -> PagedColumns:
        pages = self._pages[row]
        return PagedColumns(self.pool, pages, int(self._lengths[row]))

    def release(self) -> None:
        """Drop all rows."""
        for pages in self._pages:
            self.pool.give_back(pages)
        self._pages, self._lengths = [], self._lengths[:0]
