"""Generation parameters, with their defaults and help texts."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from paddle_glm.errors import InputError, PromptTooLongError

# Logits divided by less than this may overflow.
MIN_DIVISOR = 1e-6


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class GenerationParams:
    """Sampling, beam search and stopping; the defaults are those of `model.chat` in the original ChatGLM2
    (`top_k`: transformers' default, which applies there). Raises `InputError` for invalid values.
    """

    do_sample: bool = _option(True, "sample; otherwise greedy decoding")
    temperature: float = _option(0.8, "divides the logits: lower is more deterministic, higher more varied")
    top_k: int = _option(50, "sample from the k most likely tokens; 0: all")
    top_p: float = _option(0.8, "sample from the smallest set of tokens with this total probability")
    repetition_penalty: float = _option(1.0, "values above 1 penalise tokens already in prompt or answer")
    num_beams: int = _option(1, "number of beams; above 1: beam search, without sampling")
    length_penalty: float = _option(1.0, "exponent of the length that divides a beam's score")
    early_stopping: bool = _option(False, "end beam search as soon as num_beams answers are complete")
    max_length: int = _option(8192, "maximum tokens of prompt plus answer")
    max_new_tokens: int | None = _option(None, "maximum tokens of the answer; overrides max_length")
    seed: int | None = _option(None, "seed of the sampler, for reproducible answers")
    eos_token_ids: tuple[int, ...] = _option((), "ids that end an answer")
    pad_token_id: int = _option(0, "id that pads finished rows")

    def __post_init__(self) -> None:
        for name, ok, expected in (
            (
                "temperature",
                self.temperature >= MIN_DIVISOR,
                f"a number from {MIN_DIVISOR} on (for greedy decoding turn sampling off)",
            ),
            ("top_k", self.top_k >= 0, "0 (off) or a positive number"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0 and at most 1"),
            (
                "repetition_penalty",
                self.repetition_penalty >= MIN_DIVISOR,
                f"a number from {MIN_DIVISOR} on (1 is off)",
            ),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("max_length", self.max_length >= 1, "at least 1"),
            ("max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "at least 1"),
            ("seed", self.seed is None or self.seed >= 0, "0 or a positive number"),
        ):
            if not ok:
                raise InputError(f"{name} is {getattr(self, name)!r}: expected {expected}")
        if self.num_beams > 1 and self.do_sample:
            raise InputError(f"num_beams {self.num_beams} with sampling: turn sampling off (do_sample=False)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationParams":
        """Parameters from a mapping; raises `InputError` as `updated`."""
        return cls().updated(values)

    def updated(self, values: Mapping[str, Any]) -> "GenerationParams":
        """A copy with `values` set. Raises `InputError` for an unknown name, suggesting the nearest."""
        names = [option.name for option in fields(self)]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
                raise InputError(f"unknown generation parameter {name!r}: {hint}")
        return replace(self, **values)

    def max_total_length(self, prompt_length: int, limit: int | None) -> int:
        """The total length at which rows with `prompt_length` tokens stop; `limit`: the model's maximum.

        Raises `PromptTooLongError` if the prompt leaves no room for a token.
        """
        wanted = self.max_length if self.max_new_tokens is None else prompt_length + self.max_new_tokens
        last = wanted if limit is None else min(wanted, limit)
        if last <= prompt_length:
            bound = f"max_length {wanted}" if last == wanted else f"the model's limit of {limit} tokens"
            raise PromptTooLongError(
                f"a prompt of {prompt_length} tokens leaves no room for an answer within {bound}"
            )
        return last
