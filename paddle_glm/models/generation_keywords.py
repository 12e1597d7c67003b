"""Keyword arguments of `generate`, `chat` and `stream_chat`, including those of other libraries."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.generation.logits_processors import LogitsProcessor
from paddle_glm.numpy_interop import step_tensor

# Name -> the neutral value that is accepted.
_ACCEPTED_VALUES: dict[str, Any] = {"use_cache": True, "num_return_sequences": 1, "output_scores": False,
    "output_attentions": False, "output_hidden_states": False, "return_dict_in_generate": False}  # fmt: skip
# Name -> what to use instead.
_UNSUPPORTED_KWARGS = {
    "use_cache": "generation always uses a KV cache",
    "num_return_sequences": "repeat the prompt's row in input_ids",
    "output_scores": "call the model, model(input_ids).logits",
    "output_attentions": "attention weights are not stored",
    "output_hidden_states": "call the model with output_hidden_states=True",
    "return_dict_in_generate": "generate returns ids",
    "generation_config": "give its values as keywords, such as temperature=0.8",
    "stopping_criteria": "stop reading stream_chat, or give eos_token_id and max_new_tokens",
    "streamer": "iterate over stream_chat",
    "logits_warper": "give temperature, top_k and top_p, or a logits_processor",
    "prefix_allowed_tokens_fn": "give a logits_processor that sets the others' scores to -inf",
    "bad_words_ids": "give a logits_processor that sets their scores to -inf",
    "min_length": "give a logits_processor that sets the end token's score to -inf",
    "min_new_tokens": "give a logits_processor that sets the end token's score to -inf",
    "no_repeat_ngram_size": "give repetition_penalty or a logits_processor",
    "past_key_values": "stream_chat accepts and returns them",
    "decode_strategy": "give do_sample=True or num_beams",
}


def params_from_kwargs(
    values: Mapping[str, Any], defaults: GenerationParams | None = None
) -> GenerationParams:
    """`defaults` updated with keyword arguments; None means the default.

    Raises `InputError` for an unsupported keyword, naming the alternative.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name, instead in _UNSUPPORTED_KWARGS.items():
        if name in given and given.pop(name) != _ACCEPTED_VALUES.get(name, ()):
            raise InputError(f"{name} is not supported: {instead}")
    if "eos_token_id" in given:
        ends = given.pop("eos_token_id")
        given["eos_token_ids"] = (ends,) if isinstance(ends, int) else tuple(ends)
    return (defaults or GenerationParams()).updated(given)


def wrap_logits_processors(given: Any) -> list[LogitsProcessor]:
    """Adapt a callable on Paddle tensors, a list of them or None to the generation loop.

    Raises `InputError` for anything else.
    """
    if given is None:
        return []
    each = list(given) if isinstance(given, list | tuple) else [given]
    for processor in each:
        if not callable(processor):
            raise InputError(
                f"logits_processor holds {processor!r}: expected a callable (input_ids, scores) -> scores"
            )
    return [_wrap_processor(processor) for processor in each]


def _wrap_processor(processor: Any) -> LogitsProcessor:
    def process(ids: Array, scores: Array) -> Array:
        given = step_tensor(scores.astype(np.float32))
        return np.asarray(processor(step_tensor(ids), given))

    return process
