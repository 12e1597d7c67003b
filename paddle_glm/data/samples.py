"""One conversation as a training sample: ids, labels and positions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.chat_template import ChatTemplate, RenderedChat, render
from paddle_glm.data.row_formats import Example
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)

Sample = dict[str, IntArray]
"""`input_ids`, `labels`: int64 [length]. Labels are aligned with input_ids (the model shifts them) and -100
where no loss is computed. `position_ids`: int64 [length], or [2, length] for a family with two rows of them.
"""


class SampleDataset(Protocol):
    """Training samples by their index. `lengths`: tokens of each, or what orders them by length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    @property
    def lengths(self) -> Sequence[int] | Array: ...


@dataclass(frozen=True)
class SampleFormat:
    """How conversations become samples.

    Prompts and answers are truncated to `src_length` and `tgt_length` tokens as in the family's original
    script. Raises `InputError` for lengths below 1.
    """

    template: ChatTemplate
    tokenizer: Tokenizer
    src_length: int
    tgt_length: int

    def __post_init__(self) -> None:
        check_lengths(self.src_length, self.tgt_length)

    def render(self, example: Example) -> RenderedChat | None:
        """Ids and targets of a conversation; None if no target is left in these lengths.

        Raises `InputError` that names the row of a conversation that the template does not support.
        """
        rendered = render_example(example, self.template, self.tokenizer, self.src_length, self.tgt_length)
        return rendered if any(rendered.loss_mask) else None

    def sample(self, rendered: RenderedChat) -> Sample:
        return self.sample_of(rendered.input_ids, np.asarray(rendered.labels(), dtype=np.int64))

    def sample_of(self, ids: list[int], labels: IntArray) -> Sample:
        return {**model_inputs(self.tokenizer, ids), "labels": labels}

    def check_dropped(self, rows: int, dropped: int) -> None:
        """Warn of rows without a target; raise `InputError` if there are no others."""
        reason = f"have no answer left within src_length {self.src_length} and tgt_length {self.tgt_length}"
        if dropped == rows:
            raise InputError(f"all {rows} rows {reason}: raise them, and check that rows have answers")
        if dropped:
            logger.warning("left out %d of %d rows that %s", dropped, rows, reason)


def model_inputs(tokenizer: Tokenizer, ids: list[int]) -> Sample:
    """input_ids [length] and position_ids [length] or [2, length] of one sequence, int64."""
    inputs = tokenizer.sequence_inputs(ids)
    return {name: np.asarray(inputs[name], dtype=np.int64) for name in ("input_ids", "position_ids")}


def render_example(
    example: Example, template: ChatTemplate, tokenizer: Tokenizer, src_length: int, tgt_length: int
) -> RenderedChat:
    """`render`, with the row in its errors."""
    try:
        return render(template, tokenizer, example.messages, src_length, tgt_length)
    except InputError as error:
        raise InputError(f"{example.origin}: {error}" if example.origin else str(error)) from error


def check_lengths(src_length: int, tgt_length: int) -> None:
    for name, value in (("src_length", src_length), ("tgt_length", tgt_length)):
        if value < 1:
            raise InputError(f"{name} is {value}: expected a positive number of tokens")
