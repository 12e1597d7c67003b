"""The memory of caches in pages, and who has which of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import paddle
from paddle import Tensor

from paddle_glm.array_types import Array, IntArray
from paddle_glm.numpy_interop import step_tensor

PAGE_TOKENS = 64  # columns of a page: what the native kernels take at once (csrc/attention.h)


Columns = TypeVar("Columns", int, IntArray)


def pages_of(columns: Columns) -> Columns:
    """How many pages so many columns take, of one row or of each of several."""
    return -(-columns // PAGE_TOKENS)


class PagePool:
    """Pages for the keys and values of all layers, and who has them; page 0 is zeros and belongs to nobody.

    layers: of each layer keys and values, [pages + 1, heads, PAGE_TOKENS, head_dim]. A page has the same
    number in all of them.
    """

    def __init__(self, layers: int, pages: int, heads: int, head_dim: int, dtype: paddle.dtype) -> None:
        """heads: local key/value heads. On a CPU memory is taken when a page is first used."""
        shape = [pages + 1, heads, PAGE_TOKENS, head_dim]
        on_cpu = paddle.get_device() == "cpu"
        make = paddle.empty if on_cpu else paddle.zeros
        self.layers = [(make(shape, dtype=dtype), make(shape, dtype=dtype)) for _ in range(layers)]
        self.size = pages
        self._references = np.zeros(pages + 1, dtype=np.int64)
        self._free = list(range(pages, 0, -1))
        self.clear([0])

    @staticmethod
    def page_nbytes(layers: int, heads: int, head_dim: int, width: int) -> int:
        """Bytes of a page in all layers, for numbers of `width` bytes."""
        return 2 * layers * heads * PAGE_TOKENS * head_dim * width

    @property
    def free(self) -> int:
        """Number of pages that nobody has."""
        return len(self._free)

    @property
    def shared(self) -> int:
        """How many pages more there would be if none had several owners."""
        return int(self._references.sum()) - (self.size - self.free)

    @property
    def heads(self) -> int:
        return int(self.layers[0][0].shape[1])

    @property
    def nbytes_per_page(self) -> int:
        key = self.layers[0][0]
        return self.page_nbytes(len(self.layers), self.heads, key.shape[3], key.element_size())

    def take(self, count: int) -> list[int]:
        """So many free pages, which hold anything. Raises `IndexError` where there are fewer."""
        if count > len(self._free):
            raise IndexError(f"{count} pages are needed and {len(self._free)} are free")
        pages = [self._free.pop() for _ in range(count)]
        self.share(pages)
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Count one owner more of each page."""
        np.add.at(self._references, np.fromiter(pages, np.int64), 1)

    def give_back(self, pages: Sequence[int]) -> None:
        """Count one owner less of each page; those without any are free."""
        np.add.at(self._references, np.fromiter(pages, np.int64), -1)
        self._free += [page for page in dict.fromkeys(pages) if not self._references[page]]

    def owners(self, page: int) -> int:
        return int(self._references[page])

    def only_of(self, pages: Iterable[int]) -> int:
        """How many pages were free if each of these were given back."""
        counts = np.bincount(np.fromiter(pages, np.int64), minlength=len(self._references))
        return int(np.count_nonzero((counts > 0) & (counts == self._references)))

    def copy(self, source: int) -> int:
        """A new page with what the source holds."""
        [page] = self.take(1)
        index = _index([source])
        for tensor in self._tensors:
            self._write_pages(tensor, [page], paddle.index_select(tensor, index, axis=0))
        return page

    def write(self, layer: int, columns: Tensor, key: Tensor, value: Tensor) -> None:
        """Write a layer's [rows, heads, tokens, head_dim] to `PageStep.columns`."""
        size = key.shape[3]
        for tensor, new in zip(self.layers[layer], (key, value), strict=True):
            # A view: what is written to it is written to the pages.
            paddle.scatter_(tensor.reshape([-1, size]), columns, new.reshape([-1, size]))

    def read(self, pages: Sequence[int], columns: int) -> list[Tensor]:
        """Copies of a row's first columns, as `KVCache.tensors`: [1, heads, columns, head_dim] each."""
        index, found = _index(pages), []
        for tensor in self._tensors:
            _, heads, _, size = tensor.shape
            paged = paddle.index_select(tensor, index, axis=0).transpose([1, 0, 2, 3])
            row = paged.reshape([1, heads, len(pages) * PAGE_TOKENS, size])
            found.append(paddle.concat([row[:, :, :columns]], axis=2))
        return found

    @property
    def _tensors(self) -> list[Tensor]:
        return [tensor for pair in self.layers for tensor in pair]

    def clear(self, pages: Sequence[int]) -> None:
        """Fill with zeros: what was there may be no number, which masks do not hide (0 * NaN is NaN)."""
        if pages:
            shape = [len(pages), *self.layers[0][0].shape[1:]]
            zeros = paddle.zeros(shape, dtype=self.layers[0][0].dtype)
            for tensor in self._tensors:
                self._write_pages(tensor, pages, zeros)

    @staticmethod
    def _write_pages(tensor: Tensor, pages: Sequence[int], values: Tensor) -> None:
        with paddle.no_grad():
            paddle.scatter_(tensor, _index(pages), values)


def _index(pages: Sequence[int] | Array) -> Tensor:
    return step_tensor(np.asarray(pages, dtype=np.int64))
