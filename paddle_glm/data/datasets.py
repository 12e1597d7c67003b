"""Datasets of token ids: one sample per conversation, or several packed into one sequence; the collator."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from paddle_glm.array_types import IntArray
from paddle_glm.chat_template import IGNORE_INDEX, ChatTemplate, RenderedChat, render
from paddle_glm.data.data_files import Example
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)

_PROGRESS_MIN_ROWS = 20_000  # fewer take less than two seconds


def max_sample_length(src_length: int, tgt_length: int) -> int:
    """Maximum tokens of a training sample: prompt, answer and end token."""
    return src_length + tgt_length + 1


class SupervisedDataset:
    """Training samples `{"input_ids", "labels", "position_ids"}`, tokenized when constructed.

    input_ids, labels: int64 [length]. Labels are aligned with input_ids (the model shifts them) and -100
    where no loss is computed. position_ids: int64 [length], or [2, length] for a family with two rows of
    positions. Prompts and answers are truncated to `src_length` and `tgt_length` tokens as in the family's
    original script; samples without an answer after that are dropped with a warning. Raises `InputError`
    if no sample is left, or for lengths below 1.
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
                labels = np.asarray(rendered.labels(), dtype=np.int64)
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
    """Prompts `{"input_ids", "position_ids"}` (int64, as in `SupervisedDataset`) with reference answers.

    `prompts`: int64 [prompt_length] each. `references`: the answer of each row, None without one, truncated
    to `tgt_length` tokens less the tokenizer's special tokens, as THUDM's evaluation truncates its labels,
    and processed by the template's `process_response`.
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
    """Held-out rows: `samples` for the loss (None if no row has an answer), `generation` for generated
    answers (None if none are generated). As a sequence, its items are those of `samples`.
    """

    def __init__(self, samples: SupervisedDataset | None, generation: GenerationDataset | None) -> None:
        self.samples, self.generation = samples, generation

    def __len__(self) -> int:
        return 0 if self.samples is None else len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert self.samples is not None
        return self.samples[index]


class PackedDataset:
    """Several samples packed into one sequence of at most `max_length` tokens, to reduce padding.

    Items are as in `SupervisedDataset`, with `position_ids` that restart in each sample and `attention_mask`,
    int64 [length], the 1-based index of each token's sample: tokens attend within their sample only. The
    first label of each sample is -100, because a shifted loss would predict it from the previous sample.
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
    """Bins of indices of `lengths`, each with a sum of at most `limit`: best-fit decreasing, deterministic.

    Raises `InputError` for a length above `limit`.
    """
    longest = max(lengths, default=0)
    if longest > limit:
        raise InputError(
            f"a sample of {longest} tokens does not fit into a packed row of {limit}: "
            "raise its length or lower src_length and tgt_length"
        )
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, bin), sorted
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
    """Pads samples and stacks them to a batch of int64 arrays [batch, ..., length].

    length is that of the longest sample, rounded up to `pad_to_multiple_of`. Padding is on the right for
    training (labels -100), on the left for generation (`side="left"`). The batch has an `attention_mask`,
    [batch, length]: 0 for padding, 1 for tokens, 1, 2, ... for the tokens of each packed sample.
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
    """input_ids [length] and position_ids [length] or [2, length] of one sequence, int64."""
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
