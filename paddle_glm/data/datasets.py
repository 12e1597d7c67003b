"""Datasets of token ids: one sample per conversation, or several packed into one sequence; the collator."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from tqdm import tqdm

from paddle_glm.array_types import Array, IntArray
from paddle_glm.chat_template import IGNORE_INDEX, ChatTemplate
from paddle_glm.data.row_formats import Example
from paddle_glm.data.samples import (
    Sample,
    SampleDataset,
    SampleFormat,
    check_lengths,
    model_inputs,
    render_example,
)
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer

_PROGRESS_MIN_ROWS = 20_000  # fewer take less than two seconds
# Samples are packed within spans of so many: bins of millions would be gigabytes of lists.
_PACKING_SPAN = 1 << 16


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
        form = SampleFormat(template, tokenizer, src_length, tgt_length)
        rendered = map(form.render, _progress_bar(examples, "tokenizing", progress))
        self.samples = [form.sample(chat) for chat in rendered if chat is not None]
        form.check_dropped(len(examples), len(examples) - len(self.samples))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
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
        check_lengths(src_length, tgt_length)
        self.tokenizer = tokenizer
        self.prompts: list[IntArray] = []
        self.references: list[str | None] = []
        room = max(tgt_length - len(tokenizer.build_inputs_with_special_tokens([])), 0)
        for example in _progress_bar(examples, "tokenizing", progress):
            question = Example(example.prompt_messages, example.origin)
            ids = render_example(question, template, tokenizer, src_length, tgt_length).input_ids
            self.prompts.append(np.asarray(ids, dtype=np.int64))
            answer = example.answer
            if answer:
                answer = template.process_response(tokenizer.decode(tokenizer.text_to_ids(answer)[:room]))
            self.references.append(answer)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Sample:
        return model_inputs(self.tokenizer, self.prompts[index].tolist())

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

    def __init__(self, dataset: SampleDataset, max_length: int) -> None:
        self.dataset = dataset
        tokens = np.asarray(dataset.lengths, dtype=np.int64)
        order, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for start in range(0, len(tokens), _PACKING_SPAN):
            bins = pack_samples(tokens[start : start + _PACKING_SPAN].tolist(), max_length)
            order.append(start + np.fromiter(chain.from_iterable(bins), np.int64))
            counts.append(np.fromiter(map(len, bins), np.int64))
        self._order = np.concatenate(order)
        self._ends = np.cumsum(np.concatenate(counts))
        totals = np.concatenate(([0], np.cumsum(tokens[self._order])))
        self.lengths: Array = np.diff(totals[np.concatenate(([0], self._ends))])

    def __len__(self) -> int:
        return len(self._ends)

    def members(self, index: int) -> IntArray:
        """Indices of the samples in a sequence, in its order."""
        return self._order[self._ends[index - 1] if index else 0 : self._ends[index]]

    def __getitem__(self, index: int) -> Sample:
        samples = [self.dataset[int(row)] for row in self.members(index)]
        lengths = [len(sample["input_ids"]) for sample in samples]
        labels = [np.concatenate(([IGNORE_INDEX], sample["labels"][1:])) for sample in samples]
        return {
            "input_ids": np.concatenate([sample["input_ids"] for sample in samples]),
            "labels": np.concatenate(labels),
            "position_ids": np.concatenate([sample["position_ids"] for sample in samples], axis=-1),
            "attention_mask": np.repeat(np.arange(1, len(samples) + 1), lengths),
        }


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

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Sample:
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


def _progress_bar(examples: Sequence[Example], title: str, wanted: bool) -> Any:
    return tqdm(examples, desc=title, disable=not wanted or len(examples) < _PROGRESS_MIN_ROWS)
