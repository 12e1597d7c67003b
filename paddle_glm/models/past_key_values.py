"""The keys and values of a conversation, kept by the caller between two calls of `stream_chat`."""

from __future__ import annotations

from typing import Any

from paddle import Tensor

from paddle_glm.array_types import IntArray
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.arrays import common_prefix_length
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.models.step_model import StepModel
from paddle_glm.parallel.layers import WeightFormat


class PastKeyValues(tuple[tuple[Tensor, Tensor], ...]):
    """Per layer (key, value), [1, local key/value heads, prefix + tokens, head_dim], and what they are of.

    input_ids: int64 [tokens]; prefix_length: columns before theirs; model, weight_format: what computed them,
    and what its weights were kept in then. A model takes it as `past_key_values`. What its cache is updated
    with later does not change it.
    """

    input_ids: IntArray
    prefix_length: int
    model: StepModel
    weight_format: WeightFormat

    @classmethod
    def from_cache(cls, cache: KVCache, input_ids: IntArray, model: StepModel) -> PastKeyValues:
        past = cls(cache)
        past.input_ids, past.prefix_length = input_ids, cache.prefix_length
        past.model, past.weight_format = model, model.weight_format
        return past

    def belongs_to(self, model: StepModel) -> bool:
        """Whether the model would compute the same: it is that one, neither cast nor quantised since."""
        return self.model is model and self.weight_format == model.weight_format

    def common_prefix_length(self, input_ids: IntArray) -> int:
        """How many tokens of int64 [length] are the past's first ones; one is left, to be computed."""
        return common_prefix_length(self.input_ids, input_ids)

    def cache_of(self, tokens: int) -> KVCache:
        """A cache that begins with the first `tokens` tokens and the prefix, and does not change these."""
        stop = self.prefix_length + tokens
        layers = [DecodeLayer(key[:, :, :stop], value[:, :, :stop]) for key, value in self]
        return KVCache(layers, self.prefix_length)


def check_past_key_values(model: StepModel, past: Any, return_past: bool, num_beams: int) -> None:
    """Raise `InputError` if `stream_chat` cannot continue from `past` or return one (`return_past`)."""
    if past is None and not return_past:
        return
    if not model.family.is_causal:
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
