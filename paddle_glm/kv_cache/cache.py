"""`KVCache`, for tensors of any library, and the layer that concatenates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, overload

import numpy as np

from paddle_glm.array_types import IntArray
from paddle_glm.kv_cache.arrays import ArrayLibrary

KeyValue = tuple[Any, Any]


class LayerCache(Protocol):
    """Keys and values of one layer, updated by its attention."""

    library: ArrayLibrary

    @property
    def length(self) -> int:
        """Number of columns in use."""

    @property
    def nbytes(self) -> int:
        """Allocated bytes, unused columns included."""

    @property
    def key_value(self) -> KeyValue:
        """The columns in use, [batch, key/value heads, length, head_dim] each."""

    def update(self, key: Any, value: Any) -> KeyValue:
        """Append [batch, key/value heads, tokens, head_dim]; return the keys and values to attend to.

        They may end with unused columns of finite numbers, which attention must mask: `spare(tokens)` of
        them, asked before the call.
        """

    def spare(self, tokens: int) -> int:
        """Number of unused columns that the next `update` with `tokens` tokens will return."""

    def replace(self, key: Any, value: Any) -> None:
        """Replace the content."""

    def select(self, rows: IntArray) -> None:
        """As `KVCache.select`."""


class ConcatLayer:
    """A layer that concatenates in each update: differentiable and traceable."""

    def __init__(self, library: ArrayLibrary, key: Any = None, value: Any = None) -> None:
        """key, value: initial columns, or None."""
        self.library = library
        self._key, self._value = key, value

    @property
    def length(self) -> int:
        return 0 if self._key is None else self._key.shape[2]

    @property
    def nbytes(self) -> int:
        return 0 if self._key is None else sum(map(self.library.nbytes, self.key_value))

    @property
    def key_value(self) -> KeyValue:
        return self._key, self._value

    def update(self, key: Any, value: Any) -> KeyValue:
        if self._key is not None:
            key = self.library.concat([self._key, key], 2)
            value = self.library.concat([self._value, value], 2)
        self._key, self._value = key, value
        return key, value

    def spare(self, tokens: int) -> int:
        return 0

    def replace(self, key: Any, value: Any) -> None:
        self._key, self._value = key, value

    def select(self, rows: IntArray) -> None:
        self._key = self.library.take(self._key, rows)
        self._value = self.library.take(self._value, rows)


class HeldColumns(Protocol):
    """What a row held, for later use: copies of its keys and values, or the pages that they are in."""

    @property
    def nbytes(self) -> int: ...

    def first(self, columns: int) -> list[Any]:
        """Copies of the first columns, the prefix included, ordered as `KVCache.tensors`."""

    def share(self, columns: int) -> HeldColumns | None:
        """Of the first columns, the prefix included, what another row may have too; None for nothing."""

    def release(self) -> None:
        """Give the memory back; nothing else is called afterwards."""


class RowColumns:
    """`HeldColumns` that are copies."""

    def __init__(self, tensors: Sequence[Any], library: ArrayLibrary) -> None:
        """tensors: as `KVCache.row_columns` gives them."""
        self._tensors, self._library = tensors, library

    @property
    def nbytes(self) -> int:
        return sum(map(self._library.nbytes, self._tensors))

    def first(self, columns: int) -> list[Any]:
        return [self._library.concat([tensor[:, :, :columns]], 2) for tensor in self._tensors]

    def share(self, columns: int) -> None:
        return None

    def release(self) -> None:
        self._tensors = []


class KVCache(Sequence[KeyValue]):
    """Keys and values of every layer. `cache[layer]` is the (key, value) of its columns in use.

    prefix_length: number of leading columns of a trained prefix, not counted by positions and attention
    masks;
    the other columns are the rows' own. Rows are changed layer by layer, so only one layer is held twice.
    """

    def __init__(self, layers: Sequence[LayerCache], prefix_length: int = 0) -> None:
        self.layers = layers
        self.prefix_length = prefix_length

    @classmethod
    def of(cls, tensors: Sequence[Any], library: ArrayLibrary, prefix_length: int = 0) -> KVCache:
        """From key and value of each layer in turn, as a graph's inputs and outputs; see `tensors`."""
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return cls([ConcatLayer(library, *pair) for pair in pairs], prefix_length)

    @property
    def tensors(self) -> list[Any]:
        """Key and value of each layer in turn, columns in use only."""
        return [tensor for pair in self for tensor in pair]

    @overload
    def __getitem__(self, layer: int) -> KeyValue: ...

    @overload
    def __getitem__(self, layer: slice) -> list[KeyValue]: ...

    def __getitem__(self, layer: int | slice) -> KeyValue | list[KeyValue]:
        if isinstance(layer, slice):
            return [one.key_value for one in self.layers[layer]]
        return self.layers[layer].key_value

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def length(self) -> int:
        """Columns in use, the prefix included."""
        return self.layers[0].length

    @property
    def own_length(self) -> int:
        """Columns in use, the prefix left out: those that an attention mask has a column for."""
        return self.length - self.prefix_length

    @property
    def nbytes(self) -> int:
        """Bytes that are allocated."""
        return sum(layer.nbytes for layer in self.layers)

    def spare(self, tokens: int) -> int:
        """Unused columns behind those in use of what the next update, with so many tokens, returns."""
        return self.layers[0].spare(tokens)

    def select(self, rows: IntArray) -> None:
        """Row i becomes what row `rows[i]` was, int64 [new batch]; rows may repeat or be left out."""
        for layer in self.layers:
            layer.select(rows)

    def add_rows(self, other: KVCache) -> None:
        """Append the rows of another cache with the same prefix length; raises `ValueError` for another.

        Rows of the shorter cache get zeros between their prefix and their own columns. Where it fails (out of
        memory), the cache is as before.
        """
        if other.prefix_length != self.prefix_length:
            raise ValueError(
                f"rows with a prefix of {other.prefix_length} columns beside such of {self.prefix_length}: "
                "they need a cache in pages (limit_cache)"
            )
        rows, before, length = len(self[0][0]), self.length, max(self.length, other.length)
        changed: list[LayerCache] = []
        try:
            for mine, theirs in zip(self.layers, other.layers, strict=True):
                pairs = zip(mine.key_value, theirs.key_value, strict=True)
                mine.replace(*(self._joined(pair, length, mine.library) for pair in pairs))
                changed.append(mine)
        except BaseException:
            for layer in changed:
                layer.select(np.arange(rows))
                self._drop(layer, length - before)
            raise

    def row_columns(self, row: int, padding: int, stop: int) -> list[Any]:
        """A row's keys and values, copied, as `tensors`: the prefix, then its own columns padding..stop."""
        first, found = self.prefix_length, []
        for layer in self.layers:
            for tensor in layer.key_value:
                one = layer.library.take(tensor, np.array([row]))
                own = one[:, :, first + padding : first + stop]
                found.append(layer.library.concat([one[:, :, :first], own], 2))
        return found

    def keep_row(self, row: int, padding: int) -> HeldColumns:
        """What a row holds; its own columns begin with so much padding."""
        return RowColumns(self.row_columns(row, padding, self.own_length), self.layers[0].library)

    def release(self) -> None:
        """Give memory back that others may need; the cache is not used any more."""

    def drop_columns(self, count: int) -> None:
        """Drop the first `count` of the rows' own columns."""
        for layer in self.layers:
            self._drop(layer, count)

    def _drop(self, layer: LayerCache, count: int) -> None:
        first = self.prefix_length
        if count:
            concat = layer.library.concat  # also of one part: a slice would keep all columns in memory
            layer.replace(
                *(concat([one[:, :, :first], one[:, :, first + count :]], 2) for one in layer.key_value)
            )

    def _joined(self, tensors: Iterable[Any], length: int, library: ArrayLibrary) -> Any:
        """The tensors' rows, one behind the other, each `length` columns long."""
        return library.concat([self._padded(tensor, length, library) for tensor in tensors], 0)

    def _padded(self, tensor: Any, length: int, library: ArrayLibrary) -> Any:
        batch, heads, held, size = tensor.shape
        if held == length:
            return tensor
        first = self.prefix_length
        zeros = library.zeros([batch, heads, length - held, size], tensor)
        return library.concat([tensor[:, :, :first], zeros, tensor[:, :, first:]], 2)
