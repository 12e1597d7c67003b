"""How answers are generated: every switch, its one default and its help text."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from paddle_glm.errors import InputError


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class GenerationParams:
    """Sampling, beam search and stopping; the defaults are those of `model.chat` in the original ChatGLM2.

    (`top_k` is transformers' own default, which applies there too.) Raises `InputError` for values
    that cannot work.
    """

    do_sample: bool = _option(True, "draw from the distribution; otherwise take the most likely token")
    temperature: float = _option(0.8, "divides the logits: below 1 is more certain, above 1 more varied")
    top_k: int = _option(50, "draw only from this many most likely tokens; 0 means from all")
    top_p: float = _option(0.8, "draw only from the fewest tokens that together have this probability")
    repetition_penalty: float = _option(1.0, "above 1 makes tokens of the prompt and the answer less likely")
    num_beams: int = _option(1, "number of beams; above 1 is beam search, which does not sample")
    length_penalty: float = _option(1.0, "exponent of the length that divides a beam's score")
    early_stopping: bool = _option(False, "end beam search as soon as num_beams answers are complete")
    max_length: int = _option(8192, "most tokens of prompt and answer together")
    max_new_tokens: int | None = _option(None, "most tokens of the answer; wins over max_length")
    seed: int | None = _option(None, "seed of the sampler; the same seed gives the same answer")
    eos_token_ids: tuple[int, ...] = _option((), "ids that end an answer")
    pad_token_id: int = _option(0, "id that fills rows which are complete")

    def __post_init__(self) -> None:
        for name, ok, expected in (
            (
                "temperature",
                self.temperature > 0,
                "a number above 0 (for the most likely token, turn sampling off)",
            ),
            ("top_k", self.top_k >= 0, "0 (off) or a positive number"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "a number above 0 (1 is off)"),
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
        """Parameters from a mapping; a name that does not exist is an `InputError` suggesting the nearest."""
        return cls().updated(values)

    def updated(self, values: Mapping[str, Any]) -> "GenerationParams":
        """A copy with `values` set; an unknown name is an `InputError` suggesting the nearest."""
        names = [option.name for option in fields(self)]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
                raise InputError(f"unknown generation parameter {name!r}: {hint}")
        return replace(self, **values)

    def max_total_length(self, prompt_length: int, limit: int | None) -> int:
        """The length at which rows of `prompt_length` tokens stop; `limit` is the model's own.

        Raises `InputError` where the prompt leaves no room for one token.
        """
        wanted = self.max_length if self.max_new_tokens is None else prompt_length + self.max_new_tokens
        last = wanted if limit is None else min(wanted, limit)
        if last <= prompt_length:
            bound = f"max_length {wanted}" if last == wanted else f"the model's limit of {limit} tokens"
            raise InputError(
                f"a prompt of {prompt_length} tokens leaves no room for an answer within {bound}"
            )
        return last
