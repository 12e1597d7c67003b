"""From arguments to data sets: files, held-out rows, training samples, prompts to answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlenlp.utils.log import logger

from paddle_glm.chat import Template
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.training.arguments import DataArguments, FinetuneArguments
from paddle_glm.training.data import GenerationDataset, PackedDataset, SupervisedDataset, longest_sample
from paddle_glm.training.readers import Columns, Example, find_files, hold_out, load_rows


class EvaluationRows:
    """Rows held out: samples to compute the loss of, and (or None) prompts to answer."""

    def __init__(self, samples: SupervisedDataset, answers: GenerationDataset | None) -> None:
        self.samples, self.answers = samples, answers

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


@dataclass(frozen=True)
class Rows:
    """The parts of the data that a run asked for; None where it did not."""

    train: SupervisedDataset | PackedDataset | None = None
    validation: EvaluationRows | None = None
    test: EvaluationRows | None = None


def load(data: DataArguments, args: FinetuneArguments, tokenizer: Tokenizer) -> Rows:
    """Read, render and cut the rows of a run.

    Without a validation file, rows are held out of the training file. Raises `InputError` for files
    that are missing and rows that cannot be used, naming file, line and reason.
    """
    if data.task_name_or_path is None and data.train_file is None and data.validation_file is None:
        raise InputError("no data: give --task_name_or_path FOLDER, or --train_file and --validation_file")
    files = find_files(data.task_name_or_path, data.train_file, data.validation_file, data.test_file)
    columns = _columns(data)
    train = _examples(files.train, columns) if args.do_train or files.validation is None else None
    validation = None
    if args.do_eval:
        if files.validation is not None:
            validation = _examples(files.validation, columns)
        elif train is not None:
            train, validation = hold_out(train)
            logger.info(f"no validation file: {len(validation)} rows of {files.train} are held out")
    test = _examples(files.test, columns) if args.do_eval and data.test_file is not None else None
    make = _Maker(data, tokenizer, progress=args.process_index == 0)
    return Rows(
        train=make.training(train) if args.do_train else None,
        validation=make.evaluation(validation),
        test=make.evaluation(test),
    )


@dataclass(frozen=True)
class _Maker:
    """Renders examples with one tokenizer and one set of lengths."""

    data: DataArguments
    tokenizer: Tokenizer
    progress: bool

    def _render(self, kind: Any, examples: list[Example]) -> Any:
        template: Template = self.tokenizer.template
        lengths = (self.data.src_length, self.data.tgt_length)
        return kind(examples, template, self.tokenizer, *lengths, progress=self.progress)

    def training(self, examples: list[Example] | None) -> SupervisedDataset | PackedDataset:
        if examples is None:
            raise InputError("--do_train needs rows: give --task_name_or_path or --train_file")
        samples = self._render(SupervisedDataset, examples)
        if not self.data.zero_padding:
            return samples
        return PackedDataset(samples, longest_sample(self.data.src_length, self.data.tgt_length))

    def evaluation(self, examples: list[Example] | None) -> EvaluationRows | None:
        if examples is None:
            return None
        answers = self._render(GenerationDataset, examples) if self.data.do_generation else None
        return EvaluationRows(self._render(SupervisedDataset, examples), answers)


def _examples(path: Path | None, columns: Columns | None) -> list[Example] | None:
    return None if path is None else load_rows(path, columns)


def _columns(data: DataArguments) -> Columns | None:
    """The columns that flags name; None to find them by their names."""
    named = Columns(data.prompt_column, data.response_column, data.history_column)
    if named == Columns():
        return None
    if named.prompt is None or named.response is None:
        raise InputError("--prompt_column and --response_column belong together: give both, or none")
    return named
