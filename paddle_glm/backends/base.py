"""Base class of backends: tokens, their mask and positions, and the contract with the generation loop."""

from abc import ABC, abstractmethod

import numpy as np

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of


class Backend(ABC):
    """One model and its KV cache, advanced step by step.

    This class keeps all tokens and their mask and gets positions from the family; a subclass computes steps,
    owns the cache and reorders it. `paddle_glm.generation.backend_protocol.GenerationBackend` is the contract
    for callers.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.family = family_of(config)
        self._ids = self._mask = np.zeros((0, 0), dtype=np.int64)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Adapters that rows may have."""
        return ()

    @property
    def max_length(self) -> int | None:
        return self.config.max_sequence_length

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Start over with int64 [batch, length]; returns the last column's logits, float32 [batch, vocab]."""
        self.check_ids(input_ids)
        self.reset(len(input_ids))
        self._ids, self._mask = input_ids, attention_mask
        return self._step(input_ids.shape[1])

    def check_ids(self, input_ids: IntArray) -> None:
        """Raise `InputError` for an id outside the vocabulary."""
        low, high = int(input_ids.min()), int(input_ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise InputError(
                f"token id {low if low < 0 else high} is outside the model's vocabulary of "
                f"{self.config.vocab_size}: does the tokenizer belong to this model?"
            )

    def decode(self, tokens: IntArray) -> FloatArray:
        """Append one token per row, int64 [batch]; returns logits float32 [batch, vocab]."""
        self._ids = np.concatenate([self._ids, tokens[:, None]], axis=1)
        self._mask = np.concatenate([self._mask, np.ones_like(self._mask[:, :1])], axis=1)
        return self._step(1)

    def select(self, rows: IntArray) -> None:
        """Reorder rows: row i becomes the former row `rows[i]`; rows may repeat or be dropped."""
        if rows.size == len(self._mask) and (rows == np.arange(rows.size)).all():
            return
        self._ids, self._mask = self._ids[rows], self._mask[rows]
        self.select_cache(rows)

    def broadcast(self, values: IntArray) -> IntArray:
        """The leader's int64 values on all ranks; the identity for one process."""
        return values

    @property
    def is_leader(self) -> bool:
        """Whether this is the rank whose values `broadcast` sends, and which writes files."""
        return True

    def _step(self, tokens: int) -> FloatArray:
        return self.run(self.family.step_inputs(self.config, self._ids, self._mask, tokens))

    @abstractmethod
    def reset(self, batch: int) -> None:
        """Reset the cache for `batch` rows: empty, or the prefix."""

    @abstractmethod
    def run(self, inputs: dict[str, IntArray]) -> FloatArray:
        """Run one step on the family's `step_inputs` and extend the cache; returns float32 [batch, vocab].

        The attention mask, [batch, total], covers the rows' own tokens; a prefix in the cache is not part of
        it.
        """

    @abstractmethod
    def select_cache(self, rows: IntArray) -> None:
        """Reorder the rows of the cache, int64 [new batch]."""
