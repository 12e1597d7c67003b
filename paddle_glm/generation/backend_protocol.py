"""Protocols between the generation loop and backends."""

from typing import Protocol, runtime_checkable

from paddle_glm.array_types import FloatArray, IntArray


class GenerationBackend(Protocol):
    """What generation needs of a model, such as `paddle_glm.backends.base.Backend`."""

    @property
    def max_length(self) -> int | None:
        """Maximum tokens of a row, or None."""

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Start over with int64 [batch, length]; returns the last column's logits, float32 [batch, vocab]."""

    def decode(self, tokens: IntArray) -> FloatArray:
        """Append one token per row, int64 [batch]; returns logits float32 [batch, vocab]."""

    def select(self, rows: IntArray) -> None:
        """Reorder rows: row i becomes the former row `rows[i]`; rows may repeat or be dropped."""

    def broadcast(self, values: IntArray) -> IntArray:
        """The leader's int64 values, on all ranks of the model."""


@runtime_checkable
class MemoryCheckingBackend(GenerationBackend, Protocol):
    """A backend that knows the memory of its KV cache."""

    def check_cache_fits(self, rows: int, prompt_tokens: int, new_tokens: int | None) -> None:
        """Raise `InputError` if the KV cache of so many rows exceeds the free memory.

        prompt_tokens, new_tokens: per row; None for an unspecified number of new tokens.
        """
