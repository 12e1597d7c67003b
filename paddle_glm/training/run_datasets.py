"""The data sets of a run, made from its arguments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddlenlp.utils.log import logger

from paddle_glm.chat_template import ChatTemplate, with_source_prefix
from paddle_glm.data.data_files import (
    Columns,
    Example,
    find_data_files,
    load_examples,
    split_validation,
)
from paddle_glm.data.datasets import (
    EvaluationDataset,
    GenerationDataset,
    PackedDataset,
    SupervisedDataset,
    max_sample_length,
)
from paddle_glm.data.samples import SampleDataset, SampleFormat
from paddle_glm.data.train_rows import TrainRows, open_train_rows
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.training.arguments import DataArguments
from paddle_glm.training.initialize import TrainerArguments


@dataclass(frozen=True)
class RunDatasets:
    """The data sets of a run; None for those that it does not use. train_rows: rows before packing."""

    train: SampleDataset | None = None
    train_rows: int = 0
    validation: EvaluationDataset | None = None
    test: EvaluationDataset | None = None
    predict: EvaluationDataset | None = None


def load_run_datasets(data: DataArguments, args: TrainerArguments, tokenizer: Tokenizer) -> RunDatasets:
    """Read, tokenize and truncate the rows of a run.

    Without a validation file, rows are held out from the training file. Raises `InputError` for files
    that are missing and rows that cannot be used, naming file, line and reason.
    """
    named = (data.task_name_or_path, data.train_file, data.validation_file, data.test_file)
    if all(name is None for name in named):
        raise InputError(
            "no data: give --task_name_or_path FOLDER, or --train_file, --validation_file, --test_file"
        )
    files = find_data_files(data.task_name_or_path, data.train_file, data.validation_file, data.test_file)
    columns = _columns_from_flags(data)
    builder = _DatasetBuilder(data, tokenizer, progress=args.process_index == 0)
    train, train_rows, validation = None, 0, None
    splits = args.do_eval and files.validation is None  # rows are held out of those for training
    if args.do_train or splits:
        if files.train is None:
            flag, file = (
                ("--do_train", "--train_file") if args.do_train else ("--do_eval", "--validation_file")
            )
            raise InputError(f"{flag} needs rows: give --task_name_or_path or {file}")
        source = builder.open_train_rows(files.train, columns)
        rows = np.arange(len(source))
        if splits:
            rows, held_out = split_validation(len(source))
            validation = source.examples(held_out[: data.max_eval_samples])
            logger.info(f"no validation file: {len(validation)} rows of {files.train} are held out")
        if args.do_train:
            rows = rows[: data.max_train_samples]
            train, train_rows = builder.build_train(source.dataset(rows)), len(rows)
    if args.do_eval and files.validation is not None:
        validation = _load_optional(files.validation, columns, limit=data.max_eval_samples)
    test = None
    if args.do_eval and data.test_file is not None and not args.do_predict:
        test = _load_optional(files.test, columns)
    predict = None
    if args.do_predict:
        if files.test is None:
            raise InputError("--do_predict needs --test_file: the rows to answer")
        predict = _load_optional(files.test, columns, require_answer=False, limit=data.max_predict_samples)
    return RunDatasets(
        train=train,
        train_rows=train_rows,
        validation=builder.build_evaluation(validation, data.do_generation),
        test=builder.build_evaluation(test, data.do_generation),
        predict=builder.build_evaluation(predict, generate=True),
    )


@dataclass(frozen=True)
class _DatasetBuilder:
    """Tokenizes examples with the lengths of the arguments."""

    data: DataArguments
    tokenizer: Tokenizer
    progress: bool

    def open_train_rows(self, path: Path, columns: Columns | None) -> TrainRows:
        cache = None if self.data.dataset_cache is None else Path(self.data.dataset_cache).expanduser()
        form = SampleFormat(self._template, self.tokenizer, self.data.src_length, self.data.tgt_length)
        return open_train_rows(path, columns, form, self.data.lazy, cache, self.progress)

    def build_train(self, samples: SampleDataset) -> SampleDataset:
        if not self.data.zero_padding:
            return samples
        return PackedDataset(samples, max_sample_length(self.data.src_length, self.data.tgt_length))

    @property
    def _template(self) -> ChatTemplate:
        return with_source_prefix(self.tokenizer.template, self.data.source_prefix)

    def _render(self, kind: Any, examples: list[Example]) -> Any:
        lengths = (self.data.src_length, self.data.eval_tgt_length)
        return kind(examples, self._template, self.tokenizer, *lengths, progress=self.progress)

    def build_evaluation(self, examples: list[Example] | None, generate: bool) -> EvaluationDataset | None:
        if examples is None:
            return None
        known = [example for example in examples if example.answer]
        samples = self._render(SupervisedDataset, known) if known else None
        return EvaluationDataset(samples, self._render(GenerationDataset, examples) if generate else None)


def _load_optional(
    path: Path | None, columns: Columns | None, require_answer: bool = True, limit: int | None = None
) -> list[Example] | None:
    return None if path is None else load_examples(path, columns, require_answer, limit)


def _columns_from_flags(data: DataArguments) -> Columns | None:
    """The columns that flags give; None to detect known names."""
    named = Columns(data.prompt_column, data.response_column, data.history_column)
    if named == Columns():
        return None
    if named.prompt is None or named.response is None:
        raise InputError("--prompt_column and --response_column belong together: give both, or none")
    return named
