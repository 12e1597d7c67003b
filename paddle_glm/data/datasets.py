"""Conversations to token ids: one sample per row, optionally several rows packed into one sequence."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from paddle_glm.array_types import IntArray
from paddle_glm.chat_template import ChatTemplate, RenderedChat, render
from paddle_glm.data.data_files import Example
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
_PROGRESS_MIN_ROWS = 20_000  # rows; fewer take less than two seconds


def max_sample_length(src_length: int, tgt_length: int) -> int:
    """Tokens of the longest training sample: question, answer and what ends it."""
    return src_length + tgt_length + 1


class SupervisedDataset:
    """Training samples `{"input_ids", "labels", "position_ids"}`, int64 arrays, rendered up front.

    position_ids are the tokenizer's, [tokens], or [2, tokens] where a family has two rows. Labels stand
    under their own ids (the model shifts) and are -100 where there is nothing to learn. Rows are cut to
    `src_length` and `tgt_length` as the family's original script cuts them; a row that has no answer
    left is dropped with a warning.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        template: ChatTemplate,
        tokenizer: Tokenizer,
        src_length: int,
        tgt_length: int,
        progress: bool = True,
    ) -> None:
        _check_lengths(src_length, tgt_length)
        self.samples: list[dict[str, IntArray]] = []
        for example in _progress_bar(examples, "tokenizing", progress):
            rendered = _render_example(example, template, tokenizer, src_length, tgt_length)
            if any(rendered.loss_mask):
                labels = np.asarray(rendered.labels(IGNORE_INDEX), dtype=np.int64)
                self.samples.append({**_model_inputs(tokenizer, rendered.input_ids), "labels": labels})
        dropped = len(examples) - len(self.samples)
        reason = f"have no answer left within src_length {src_length} and tgt_length {tgt_length}"
        if not self.samples:
            raise InputError(
                f"all {len(examples)} rows {reason}: raise them, and check that rows have answers"
            )
        if dropped:
            logger.warning("left out %d of %d rows that %s", dropped, len(examples), reason)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, IntArray]:
        return self.samples[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample, for length-grouped sampling."""
        return [len(sample["input_ids"]) for sample in self.samples]


class GenerationDataset:
    """Prompts to be answered, `{"input_ids", "position_ids"}`, and the answers to compare with.

    `references` are cut to `tgt_length` as the originals cut labels for evaluation: two of those tokens
    go to what stands before the answer there; they are cleaned as the model's answers are. None where a
    row has no answer.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        template: ChatTemplate,
        tokenizer: Tokenizer,
        src_length: int,
        tgt_length: int,
        progress: bool = True,
    ) -> None:
        _check_lengths(src_length, tgt_length)
        self.tokenizer = tokenizer
        self.prompts: list[IntArray] = []
        self.references: list[str | None] = []
        room = max(tgt_length - len(tokenizer.build_inputs_with_special_tokens([])), 0)
        for example in _progress_bar(examples, "tokenizing", progress):
            question = Example(example.prompt_messages, example.origin)
            ids = _render_example(question, template, tokenizer, src_length, tgt_length).input_ids
            self.prompts.append(np.asarray(ids, dtype=np.int64))
            answer = example.answer
            if answer:
                answer = template.process_response(tokenizer.decode(tokenizer.text_to_ids(answer)[:room]))
            self.references.append(answer)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> dict[str, IntArray]:
        return _model_inputs(self.tokenizer, self.prompts[index].tolist())

    @property
    def lengths(self) -> list[int]:
        return [len(prompt) for prompt in self.prompts]


class EvaluationDataset:
    """Rows held out: samples to compute the loss of (None where no row has an answer), and prompts to
    answer (None where none are to be).
    """

    def __init__(self, samples: SupervisedDataset | None, generation: GenerationDataset | None) -> None:
        self.samples, self.generation = samples, generation

    def __len__(self) -> int:
        return 0 if self.samples is None else len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert self.samples is not None
        return self.samples[index]


class PackedDataset:
    """Several samples in one sequence of at most `max_length` tokens, for fewer padding tokens.

    `position_ids` restart in every sample; `attention_mask` is 1, 2, ... for the tokens of each, which
    keeps samples apart. The first label of each sample is -100: in a shifted loss it would be predicted
    from the sample before.
    """

    def __init__(self, dataset: SupervisedDataset, max_length: int) -> None:
        self.dataset = dataset
        self.bins = pack_samples(dataset.lengths, max_length)

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> dict[str, IntArray]:
        samples = [self.dataset[row] for row in self.bins[index]]
        lengths = [len(sample["input_ids"]) for sample in samples]
        labels = [np.concatenate(([IGNORE_INDEX], sample["labels"][1:])) for sample in samples]
        return {
            "input_ids": np.concatenate([sample["input_ids"] for sample in samples]),
            "labels": np.concatenate(labels),
            "position_ids": np.concatenate([sample["position_ids"] for sample in samples], axis=-1),
            "attention_mask": np.repeat(np.arange(1, len(samples) + 1), lengths),
        }

    @property
    def lengths(self) -> list[int]:
        return [sum(len(self.dataset[row]["input_ids"]) for row in rows) for rows in self.bins]


def pack_samples(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of `lengths` in bins whose sums are at most `limit`: best fit, longest first.

    Deterministic. Raises InputError if one length alone is above the limit.
    """
    longest = max(lengths, default=0)
    if longest > limit:
        raise InputError(
            f"a sample of {longest} tokens does not fit into a packed row of {limit}: "
            "raise its length or lower src_length and tgt_length"
        )
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect.bisect_left(room, (lengths[index], -1))
        if place == len(room):
            bins.append([])
            free, chosen = limit, len(bins) - 1
        else:
            free, chosen = room.pop(place)
        bins[chosen].append(index)
        bisect.insort(room, (free - lengths[index], chosen))
    return bins


class Collator:
    """Rows of unequal lengths to one batch of int64 arrays [batch, ..., length].

    Pads to the batch's longest row, rounded up to `pad_to_multiple_of`: on the right for training
    (labels -100), on the left for generation (`side="left"`). Gives `attention_mask`: 0 for padding, 1
    for real tokens, 1, 2, ... for those of each sample in packed rows.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int | None = None, side: str = "right") -> None:
        if side not in ("left", "right"):
            raise InputError(f"side={side!r} is unknown: expected 'left' or 'right'")
        self.pad_values = {"input_ids": pad_token_id, "labels": IGNORE_INDEX}
        self.pad_to_multiple_of = pad_to_multiple_of or 1
        self.pad_left = side == "left"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, IntArray]:
        longest = max(len(row["input_ids"]) for row in rows)
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {name: self._pad_and_stack([row[name] for row in rows], length, name) for name in rows[0]}
        if "attention_mask" not in batch:
            ones = [np.ones_like(row["input_ids"]) for row in rows]
            batch["attention_mask"] = self._pad_and_stack(ones, length, "attention_mask")
        return batch

    def _pad_and_stack(self, rows: Sequence[Any], length: int, name: str) -> IntArray:
        shape = (len(rows), *rows[0].shape[:-1], length)
        out = np.full(shape, self.pad_values.get(name, 0), dtype=np.int64)
        for target, row in zip(out, rows, strict=True):
            size = row.shape[-1]
            start = length - size if self.pad_left else 0
            target[..., start : start + size] = row
        return out


def _model_inputs(tokenizer: Tokenizer, ids: list[int]) -> dict[str, IntArray]:
    """The arrays of one sequence; its mask is all ones until it is padded."""
    inputs = tokenizer.sequence_inputs(ids)
    return {name: np.asarray(inputs[name], dtype=np.int64) for name in ("input_ids", "position_ids")}


def _render_example(
    example: Example, template: ChatTemplate, tokenizer: Tokenizer, src_length: int, tgt_length: int
) -> RenderedChat:
    try:
        return render(template, tokenizer, example.messages, src_length, tgt_length)
    except InputError as error:
        raise InputError(f"{example.origin}: {error}" if example.origin else str(error)) from error


def _check_lengths(src_length: int, tgt_length: int) -> None:
    for name, value in (("src_length", src_length), ("tgt_length", tgt_length)):
        if value < 1:
            raise InputError(f"{name} is {value}: expected a positive number of tokens")


def _progress_bar(examples: Sequence[Example], title: str, wanted: bool) -> Any:
    return tqdm(examples, desc=title, disable=not wanted or len(examples) < _PROGRESS_MIN_ROWS)
