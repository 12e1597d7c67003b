"""What generation needs of a model."""

from typing import Protocol, runtime_checkable

from paddle_glm.array_types import FloatArray, IntArray


class GenerationBackend(Protocol):
    """What generation needs of a model: `paddle_glm.backends.base.Backend` is one."""

    @property
    def max_length(self) -> int | None:
        """Most tokens that a row may have, or None."""

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Begin anew with int64 [batch, length]; logits float32 [batch, vocab] of the last column."""

    def decode(self, tokens: IntArray) -> FloatArray:
        """Append int64 [batch]; logits float32 [batch, vocab]."""

    def select(self, rows: IntArray) -> None:
        """Make the cache's row i what row `rows[i]` was; rows may repeat or be left out."""

    def broadcast(self, values: IntArray) -> IntArray:
        """The int64 values of the process that decides, in every process that computes together."""


@runtime_checkable
class MemoryCheckingBackend(GenerationBackend, Protocol):
    """One that knows what its cache takes."""

    def check_cache_fits(self, rows: int, prompt_tokens: int, new_tokens: int | None) -> None:
        """Raise `InputError` where keys and values of so many rows are larger than what is free.

        prompt_tokens, new_tokens: of each row; None where nobody said how many are wanted.
        """


@runtime_checkable
class ContinuousBatchingBackend(GenerationBackend, Protocol):
    """One whose rows may come and go while others are generated: continuous batching."""

    def add_rows(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Prefill rows beside those that are held, which come first; logits float32 [new rows, vocab].

        Where it fails, the held rows are as before.
        """

    def drop_padding(self) -> None:
        """Drop the columns in front that are padding in every row."""
