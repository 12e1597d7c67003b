"""Which token attends to which: a description, made dense only where that is what computes attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.pages import PagedKVCache, PageStep
from paddle_glm.numpy_interop import step_tensor, to_numpy

# Added to a masked score before the float32 softmax, where exp underflows to exactly 0.
MASK_VALUE = -1e9


@dataclass(frozen=True, eq=False)
class AttentionMask:
    """Who may attend, for the last `tokens` columns of `attention_mask`.

    attention_mask: int64 [batch, past + tokens], 0 for padding, 1 for tokens; in a row of several packed
        samples 1, 2, ... for the tokens of each, one behind the other. A token attends to its own sample up
        to itself. Or bool [batch or 1, 1, tokens, past + tokens], True where a query may attend.
    tokens: int; in a static graph a tensor.
    context: bool [batch, tokens], or None: tokens that all of their sample attend to, also those before them.
    prefix: columns before all others in the cache that all attend to; unused: columns behind, for none.
    pages: a step over a cache in pages, in place of all the others: a row sees its own columns.

    What a query on padding attends to differs, since nobody reads it: all columns in `dense`, as in the
    original (`get_masks` of ChatGLM2's modeling_chatglm.py), but none where there is a context, so that all
    columns have equal weights, also as in the original (ChatGLM-6B); other padding in `visible_rows`.
    """

    attention_mask: Tensor
    tokens: Any
    context: Tensor | None = None
    prefix: int = 0
    unused: int = 0
    pages: PageStep | None = None

    def for_cache(self, cache: KVCache | None) -> AttentionMask:
        """The mask over all columns that the cache's next update returns."""
        if isinstance(cache, PagedKVCache):
            return replace(self, pages=cache.step)
        if cache is None or not (cache.prefix_length or cache.spare(self.tokens)):
            return self
        return replace(self, prefix=cache.prefix_length, unused=cache.spare(self.tokens))

    @property
    def is_explicit(self) -> bool:
        """Whether it was given for each pair of tokens."""
        return self.pages is not None or bool(self.attention_mask.ndim == 4)

    @cached_property
    def dense(self) -> Tensor:
        """The additive float32 mask [batch or 1, 1, tokens, prefix + past + tokens + unused]."""
        if self.pages is not None:
            return additive_mask(self.pages.whole.visible)
        if self.is_explicit:
            mask = additive_mask(self.attention_mask)
        elif self.context is not None:
            mask = bidirectional_context_mask(self.attention_mask, self.context)
        else:
            mask = causal_mask(self.attention_mask, self.tokens)
        if not self.prefix and not self.unused:
            return mask
        shape = mask.shape[:3]
        parts = [paddle.zeros([*shape, self.prefix]), mask, paddle.full([*shape, self.unused], MASK_VALUE)]
        return paddle.concat(parts, axis=3)

    @property
    def columns(self) -> int:
        """Columns of the cache with the queries' own."""
        return self.prefix + int(self.attention_mask.shape[-1]) + self.unused

    @cached_property
    def square(self) -> tuple[Tensor, Tensor]:
        """The mask if there were a query for each column, the last ones in use being the queries: the first
        query that attends to a column and the one behind the last, int32 [batch, columns] each.

        Each column is seen by its own query, and without a context by no earlier one. It is linear in the
        length, and computed on the device. Not for explicit masks.
        """
        ids = self.attention_mask.astype("int64")
        batch, total = ids.shape
        columns = paddle.arange(total, dtype="int64").unsqueeze(0).expand([batch, total])
        real = ids > 0
        last_real = _running_max(paddle.where(real, columns, paddle.full_like(columns, -1)))
        # The number of the last token up to each column, and up to the one before it: 0 for none.
        current = _take_columns(ids, last_real) * (last_real >= 0).astype("int64")
        before = paddle.concat([paddle.zeros_like(current[:, :1]), current[:, :-1]], axis=1)
        begins = paddle.logical_and(real, current != before)
        sample_end = paddle.minimum(_next_column(begins, columns, total), last_real[:, -1:] + 1)
        padding_end = _next_column(real, columns, total)
        end = paddle.where(real, sample_end, padding_end)
        first = columns
        if self.context is not None:
            past = paddle.zeros([batch, total - self.tokens], dtype="bool")
            context = paddle.logical_and(paddle.concat([past, self.context], axis=1), real)
            sample_start = _running_max(paddle.where(begins, columns, paddle.zeros_like(columns)))
            first = paddle.where(context, sample_start, columns)
        return self._of_all_columns(first, behind=False), self._of_all_columns(end, behind=True)

    def _of_all_columns(self, bound: Tensor, behind: bool) -> Tensor:
        """Adds those of prefix and unused columns to the bounds of the rows' own, int64 [batch, total]."""
        bound = bound.astype("int32") + self.prefix
        if not self.prefix and not self.unused:
            return bound
        added = paddle.arange(self.columns, dtype="int32").unsqueeze(0).expand([bound.shape[0], self.columns])
        if behind:
            added = paddle.full_like(added, self.columns)
        return paddle.concat([added[:, : self.prefix], bound, added[:, self.columns - self.unused :]], axis=1)

    @cached_property
    def visible_rows(self) -> tuple[Tensor, Tensor]:
        """For each column the queries that attend to it: the first and the one behind the last of them,
        int32 [batch, columns] each; the second is not larger than the first where there are none.
        """
        offset = self.columns - self.unused - self.tokens
        first, end = ((one - offset).clip(0, self.tokens) for one in self.square)
        return first, end

    def visible_columns(self, row: int, start: int, stop: int) -> tuple[int, int]:
        """The range of columns, at least one, that the row's queries from `start` to `stop` attend to."""
        if self.is_explicit:
            return 0, self.dense.shape[3]
        first, end, real = (one[row] for one in self._host_rows)
        columns = np.flatnonzero((first < stop) & (end > start) & (first < end) & real)
        return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)

    def block(self, row: int, queries: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """The additive float32 mask of ranges of a row's queries and columns, [1, 1, queries, columns]."""
        (start, stop), (first, end) = queries, columns
        if self.is_explicit:
            row = min(row, self.dense.shape[0] - 1)
            return self.dense[row : row + 1, :, start:stop, first:end]
        begins, ends, _ = (one[row, first:end] for one in self._host_rows)
        query = np.arange(start, stop, dtype=np.int32)[:, None]
        hidden = (query < begins) | (query >= ends)
        return step_tensor(hidden[None, None] * np.float32(MASK_VALUE))

    @cached_property
    def _host_rows(self) -> tuple[Array, Array, Array]:
        """`visible_rows`, and which columns are no padding, in the host's memory: copied once per batch."""
        first, end = (to_numpy(one) for one in self.visible_rows)
        real = np.pad(
            to_numpy(self.attention_mask) > 0, ((0, 0), (self.prefix, self.unused)), constant_values=True
        )
        return first, end, real


def _running_max(x: Tensor) -> Tensor:
    return paddle.cummax(x, axis=1)[0]


def _take_columns(x: Tensor, columns: Tensor) -> Tensor:
    return paddle.take_along_axis(x, columns.clip(min=0), axis=1)


def _next_column(marked: Tensor, columns: Tensor, total: int) -> Tensor:
    """The first marked column behind each, or `total`: int64 [batch, total]."""
    places = paddle.where(marked, columns, paddle.full_like(columns, total))
    behind = paddle.concat([places[:, 1:], paddle.full_like(places[:, :1], total)], axis=1)
    return paddle.cummin(behind.flip(axis=1), axis=1)[0].flip(axis=1)


def dim_size(tensor: Tensor, axis: int) -> int | Tensor:
    """The size along `axis`: an int, or in a static graph a tensor evaluated when the graph runs."""
    return tensor.shape[axis] if paddle.in_dynamic_mode() else paddle.shape(tensor)[axis]


def causal_mask(attention_mask: Tensor, tokens: int | Tensor) -> Tensor:
    """The additive float32 mask [batch, 1, tokens, total] of the last `tokens` of `total` positions.

    attention_mask: [batch, total], as for `boolean_mask`. A query on padding attends to everything, as in
    the original (`get_masks` of ChatGLM2's modeling_chatglm.py); its output is never used.
    """
    if paddle.in_dynamic_mode() and tokens == 1:
        last = attention_mask[:, -1:]  # the one query is of its sample's last token
        allowed = paddle.logical_or(attention_mask == last, last == 0)
        return additive_mask(allowed).unsqueeze([1, 2])
    visible = boolean_mask(attention_mask, tokens)
    padding = (_query_columns(attention_mask, tokens) == 0).unsqueeze([1, 3])
    return additive_mask(paddle.logical_or(visible, padding))


def bidirectional_context_mask(attention_mask: Tensor, context: Tensor) -> Tensor:
    """Like `causal_mask`, but all tokens attend to the context, also to later tokens of it.

    context: bool [batch, tokens], True for the context among the last tokens; attention_mask:
    [batch, past + tokens]. For a query on padding all keys are masked and get equal weights, as in the
    original (ChatGLM-6B).
    """
    return additive_mask(boolean_mask(attention_mask, dim_size(context, 1), context))


def boolean_mask(attention_mask: Tensor, tokens: int | Tensor, context: Tensor | None = None) -> Tensor:
    """bool [batch, 1, tokens, total], True where one of the last `tokens` positions may attend.

    attention_mask: [batch, total], 0 for padding, 1 for tokens; in a row of several packed samples 1, 2, ...
    for the tokens of each. A token attends to its own sample up to itself, and to the sample's context.
    context: bool [batch, tokens], or None.
    """
    total = dim_size(attention_mask, 1)
    keys = paddle.arange(total, dtype="int64")
    queries = paddle.arange(tokens, dtype="int64") + (total - tokens)
    order = (keys.unsqueeze(0) <= queries.unsqueeze(1)).unsqueeze(0)  # (1, tokens, total)
    if context is not None:
        past = paddle.ones_like(attention_mask[:, : total - tokens]).astype("bool")
        order = paddle.logical_or(order, paddle.concat([past, context], axis=1).unsqueeze(1))
    same_sample = _query_columns(attention_mask, tokens).unsqueeze(2) == attention_mask.unsqueeze(1)
    not_padding = (attention_mask > 0).unsqueeze(1)
    return paddle.logical_and(paddle.logical_and(order, same_sample), not_padding).unsqueeze(1)


def _query_columns(attention_mask: Tensor, tokens: int | Tensor) -> Tensor:
    """The last `tokens` columns."""
    return attention_mask[:, dim_size(attention_mask, 1) - tokens :]


def additive_mask(allowed: Tensor) -> Tensor:
    """bool mask, True where a query may attend -> float32, 0 there and -1e9 elsewhere."""
    return (1.0 - allowed.astype("float32")) * MASK_VALUE
