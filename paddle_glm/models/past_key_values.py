"""The keys and values of a conversation, kept by the caller between two calls of `stream_chat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from paddle import Tensor

from paddle_glm.errors import InputError

if TYPE_CHECKING:
    from paddle_glm.models.base import CausalLM
    from paddle_glm.parallel.layers import WeightFormat


class PastKeyValues(tuple):
    """Per layer (key, value), [1, local key/value heads, prefix + tokens, head_dim], and what they are of.

    input_ids: int64 [tokens]; model, weight_format: what computed them, and what its weights were kept in
    then. The tuple alone is what a model takes and gives as `past_key_values`.
    """

    input_ids: np.ndarray
    model: CausalLM
    weight_format: WeightFormat

    @classmethod
    def from_cache(cls, cache: Sequence[Tensor], input_ids: np.ndarray, model: CausalLM) -> PastKeyValues:
        """From key and value of each layer in turn."""
        past = cls(zip(cache[::2], cache[1::2], strict=True))
        past.input_ids, past.model, past.weight_format = input_ids, model, model.weight_format
        return past

    def belongs_to(self, model: CausalLM) -> bool:
        """Whether the model would compute the same: it is that one, neither cast nor quantised since."""
        return self.model is model and self.weight_format == model.weight_format

    def common_prefix_length(self, input_ids: np.ndarray) -> int:
        """How many tokens of int64 [length] are the past's first ones; one is left, to be computed."""
        length = min(len(self.input_ids), len(input_ids) - 1)
        differ = np.flatnonzero(self.input_ids[:length] != input_ids[:length])
        return int(differ[0]) if differ.size else length

    def cropped(self, length: int) -> list[Tensor]:
        """Key and value of each layer in turn, of the first `length` columns, a prefix included."""
        return [tensor[:, :, :length] for pair in self for tensor in pair]


def check_past_key_values(model: CausalLM, past: Any, return_past: bool, num_beams: int) -> None:
    """Raise `InputError` where `stream_chat` cannot go on from `past`, or give one (`return_past`)."""
    if past is None and not return_past:
        return
    if not model.is_causal:
        raise InputError(
            f"{model.family.title} reads its whole prompt in both directions, so that keys of one round "
            "are of no use to the next: leave past_key_values and return_past_key_values out"
        )
    if num_beams > 1:
        raise InputError(f"num_beams {num_beams}: past_key_values are of one answer; leave one of them out")
    if past is not None and not (isinstance(past, PastKeyValues) and past.belongs_to(model)):
        raise InputError(
            "past_key_values are not what stream_chat of this model, as it is, gave "
            "(return_past_key_values=True): give that, or None"
        )
