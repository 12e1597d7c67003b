"""From arguments to data sets: files, held-out rows, training samples, prompts to answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlenlp.utils.log import logger

from paddle_glm.chat import with_source_prefix
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.training.arguments import DataArguments, FinetuneArguments
from paddle_glm.training.data import GenerationDataset, PackedDataset, SupervisedDataset, longest_sample
from paddle_glm.training.readers import Columns, Example, find_files, hold_out, load_rows


class EvaluationRows:
    """Rows held out: samples to compute the loss of (None where no row has an answer), and prompts to
    answer (None where none are to be).
    """

    def __init__(self, samples: SupervisedDataset | None, answers: GenerationDataset | None) -> None:
        self.samples, self.answers = samples, answers

    def __len__(self) -> int:
        return 0 if self.samples is None else len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert self.samples is not None
        return self.samples[index]


@dataclass(frozen=True)
class Rows:
    """The parts of the data that a run asked for; None where it did not."""

    train: SupervisedDataset | PackedDataset | None = None
    train_rows: int = 0
    validation: EvaluationRows | None = None
    test: EvaluationRows | None = None
    predict: EvaluationRows | None = None


def load(data: DataArguments, args: FinetuneArguments, tokenizer: Tokenizer) -> Rows:
    """Read, render and cut the rows of a run.

    Without a validation file, rows are held out of the training file. Raises `InputError` for files
    that are missing and rows that cannot be used, naming file, line and reason.
    """
    named = (data.task_name_or_path, data.train_file, data.validation_file, data.test_file)
    if all(name is None for name in named):
        raise InputError(
            "no data: give --task_name_or_path FOLDER, or --train_file, --validation_file, --test_file"
        )
    files = find_files(data.task_name_or_path, data.train_file, data.validation_file, data.test_file)
    columns = _columns(data)
    splits = args.do_eval and files.validation is None  # rows are held out of those for training
    train = _examples(files.train, columns) if args.do_train or splits else None
    validation = None
    if args.do_eval:
        if files.validation is not None:
            validation = _examples(files.validation, columns, limit=data.max_eval_samples)
        elif train is not None:
            train, validation = hold_out(train)
            validation = validation[: data.max_eval_samples]
            logger.info(f"no validation file: {len(validation)} rows of {files.train} are held out")
        else:
            raise InputError("--do_eval needs rows: give --task_name_or_path or --validation_file")
    test = None
    if args.do_eval and data.test_file is not None and not args.do_predict:
        test = _examples(files.test, columns)
    predict = None
    if args.do_predict:
        if files.test is None:
            raise InputError("--do_predict needs --test_file: the rows to answer")
        predict = _examples(files.test, columns, answers=False, limit=data.max_predict_samples)
    make = _Maker(data, tokenizer, progress=args.process_index == 0)
    return Rows(
        train=make.training(train) if args.do_train else None,
        train_rows=len((train or [])[: data.max_train_samples]),
        validation=make.evaluation(validation, data.do_generation),
        test=make.evaluation(test, data.do_generation),
        predict=make.evaluation(predict, answered=True),
    )


@dataclass(frozen=True)
class _Maker:
    """Renders examples with one tokenizer and one set of lengths."""

    data: DataArguments
    tokenizer: Tokenizer
    progress: bool

    def _render(self, kind: Any, examples: list[Example], tgt_length: int) -> Any:
        template = with_source_prefix(self.tokenizer.template, self.data.source_prefix)
        lengths = (self.data.src_length, tgt_length)
        return kind(examples, template, self.tokenizer, *lengths, progress=self.progress)

    def training(self, examples: list[Example] | None) -> SupervisedDataset | PackedDataset:
        if examples is None:
            raise InputError("--do_train needs rows: give --task_name_or_path or --train_file")
        samples = self._render(
            SupervisedDataset, examples[: self.data.max_train_samples], self.data.tgt_length
        )
        if not self.data.zero_padding:
            return samples
        return PackedDataset(samples, longest_sample(self.data.src_length, self.data.tgt_length))

    def evaluation(self, examples: list[Example] | None, answered: bool) -> EvaluationRows | None:
        if examples is None:
            return None
        length = self.data.answer_length
        known = [example for example in examples if example.answer]
        samples = self._render(SupervisedDataset, known, length) if known else None
        return EvaluationRows(
            samples, self._render(GenerationDataset, examples, length) if answered else None
        )


def _examples(
    path: Path | None, columns: Columns | None, answers: bool = True, limit: int | None = None
) -> list[Example] | None:
    return None if path is None else load_rows(path, columns, answers, limit)


def _columns(data: DataArguments) -> Columns | None:
    """The columns that flags name; None to find them by their names."""
    named = Columns(data.prompt_column, data.response_column, data.history_column)
    if named == Columns():
        return None
    if named.prompt is None or named.response is None:
        raise InputError("--prompt_column and --response_column belong together: give both, or none")
    return named
