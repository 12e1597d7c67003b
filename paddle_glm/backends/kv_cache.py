"""Shared by backends that hold their cache as a list of tensors, of whatever library."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from paddle_glm.backends.base import Backend


class KVCacheBackend(Backend):
    """Keeps `_past`: key and value of each layer in turn, [batch, heads, prefix_length + tokens, head_dim].

    Rows may join while others go on, as `paddle_glm.generation.backend_protocol.ContinuousBatchingBackend`
    has it. A subclass says how tensors of its library are cut and joined.
    """

    _past: list[Any]

    @abstractmethod
    def take(self, tensor: Any, rows: np.ndarray) -> Any:
        """The rows of a tensor, int64 [new batch]."""

    @abstractmethod
    def concat(self, tensors: Sequence[Any], axis: int) -> Any:
        """Tensors of one dtype, one behind the other."""

    @abstractmethod
    def zeros(self, shape: Sequence[int], like: Any) -> Any:
        """Zeros of another tensor's dtype."""

    def select_cache(self, rows: np.ndarray) -> None:
        self._past = [self.take(tensor, rows) for tensor in self._past]

    def add_rows(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Prefill rows beside those that are held, which come first; logits float32 [new rows, vocab].

        The shorter rows get padding on the left. Where it fails, the held rows are as before.
        """
        held = self._ids, self._mask, self._past
        try:
            logits = self.prefill(input_ids, attention_mask)
            width = max(held[0].shape[1], self._ids.shape[1])
            ids = np.concatenate([_left_pad(held[0], width), _left_pad(self._ids, width)])
            mask = np.concatenate([_left_pad(held[1], width), _left_pad(self._mask, width)])
            past = [
                self.concat([self._left_pad_cache(old, width), self._left_pad_cache(new, width)], axis=0)
                for old, new in zip(held[2], self._past, strict=True)
            ]
        except BaseException:
            self._ids, self._mask, self._past = held
            raise
        self._ids, self._mask, self._past = ids, mask, past
        return logits

    def drop_padding(self) -> None:
        """Drop the columns in front that are padding in every row."""
        padding = int(self._mask.any(axis=0).argmax())
        if padding:
            first = self.prefix_length
            self._ids, self._mask = self._ids[:, padding:], self._mask[:, padding:]
            self._past = [
                self.concat([one[:, :, :first], one[:, :, first + padding :]], axis=2) for one in self._past
            ]

    def _left_pad_cache(self, tensor: Any, width: int) -> Any:
        """Zeros between the prefix and the rows' own tokens, until these are `width` columns."""
        first = self.prefix_length
        batch, heads, length, size = tensor.shape
        if length == first + width:
            return tensor
        zeros = self.zeros([batch, heads, first + width - length, size], tensor)
        return self.concat([tensor[:, :, :first], zeros, tensor[:, :, first:]], axis=2)


def _left_pad(array: np.ndarray, width: int) -> np.ndarray:
    """[rows, width] with zeros on the left."""
    return np.pad(array, ((0, 0), (width - array.shape[1], 0)))
