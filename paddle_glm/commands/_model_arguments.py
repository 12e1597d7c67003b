"""Flags shared by the commands that generate answers to rows, and opening their model."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_glm.auto.backend import make_options
from paddle_glm.backends.generation_defaults import default_generation_params
from paddle_glm.commands._option_arguments import (
    add_device_argument,
    add_loading_arguments,
    given_options,
)
from paddle_glm.commands._sampling_arguments import (
    GREEDY,
    add_sampling_arguments,
    check_sampling_flags,
    sampling_params,
)
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.hardware import use_device

if TYPE_CHECKING:
    from paddle_glm.data.data_files import Example
    from paddle_glm.models.dygraph import DygraphBackend
    from paddle_glm.tokenizers import Tokenizer

# Replaced by --tgt_length.
_LENGTH_FIELDS = ("max_length", "max_new_tokens")


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for the model, its device, and how rows become prompts."""
    parser.add_argument(
        "--model_name_or_path", required=True, help="hub folder, merged folder or folder of shards"
    )
    add_loading_arguments(parser)
    add_device_argument(parser)
    parser.add_argument("--batch_size", type=positive_int, default=8, help="rows per batch")
    add_row_arguments(parser)


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for the columns of a row and their maximum lengths."""
    parser.add_argument(
        "--src_length",
        type=positive_int,
        default=128,
        help="maximum tokens of a prompt; longer ones are truncated",
    )
    parser.add_argument("--tgt_length", type=positive_int, default=128, help="maximum tokens of an answer")
    parser.add_argument("--source_prefix", help="text prepended to every prompt, as in training")
    add_column_arguments(parser)


def add_limit_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """`--limit`, also by THUDM's name `--max_predict_samples`."""
    parser.add_argument("--limit", "--max_predict_samples", type=positive_int, help=text)


def add_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that name the columns of a row."""
    for name, meaning in (("prompt", "question"), ("response", "answer"), ("history", "earlier rounds")):
        parser.add_argument(
            f"--{name}_column", help=f"column of the {meaning} (default: recognised by common names)"
        )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Sampling flags; decoding is greedy by default, as in PaddleNLP's predict_generation.py."""
    add_sampling_arguments(parser, GREEDY, exclude=_LENGTH_FIELDS)


def generation_params(args: argparse.Namespace) -> GenerationParams:
    """Parameters from the flags of `add_generation_arguments`, with `--tgt_length` as `max_new_tokens`.

    Other values are the folder's: of generation_meta.json in an exported folder, else of
    generation_config.json. Raises `InputError` for invalid values and flags without effect.
    """
    from paddle_glm.auto.backend import is_exported
    from paddle_glm.backends.generation_meta import GenerationMeta
    from paddle_glm.peft.adapter_folder import check_is_model_folder

    folder = args.model_name_or_path
    check_is_model_folder(folder)
    if is_exported(folder):
        defaults = replace(GenerationMeta.read(Path(folder)).params(), do_sample=False)
    else:
        defaults = default_generation_params(ModelConfig.from_pretrained(folder, args.family), GREEDY)
    params = sampling_params(args, defaults, max_new_tokens=args.tgt_length)
    check_sampling_flags(args, params)
    return params


def columns_from_args(args: argparse.Namespace) -> Any:
    """The `Columns` named by flags, or None to detect them."""
    from paddle_glm.data.data_files import Columns

    if args.prompt_column is None:
        if args.response_column or args.history_column:
            raise InputError("--response_column and --history_column need --prompt_column")
        return None
    return Columns(args.prompt_column, args.response_column, args.history_column)


def examples_from_args(
    args: argparse.Namespace, questions: Sequence[str], limit: int | None = None
) -> "list[Example]":
    """The first `limit` examples of --data_file, with or without answers; without the flag, `questions`."""
    from paddle_glm.data.data_files import Example, load_examples

    columns = columns_from_args(args)
    if args.data_file:
        return load_examples(args.data_file, columns, require_answer=False, limit=limit)
    if limit is not None:
        raise InputError(f"--limit {limit} counts rows: give --data_file too")
    if columns is not None:
        raise InputError("--prompt_column names a key of rows: give --data_file too")
    return [Example(({"role": "user", "content": text},)) for text in questions]


def open_model(args: argparse.Namespace) -> "tuple[DygraphBackend, Tokenizer]":
    """The model, sharded over all ranks that the launcher started, and its tokenizer."""
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.models.dygraph import DygraphBackend
    from paddle_glm.parallel import init_parallel
    from paddle_glm.peft.adapter_folder import check_is_model_folder

    options = make_options("dygraph", **given_options(args))
    use_device(options.device, options.device_id, options.cpu_threads or None)
    check_is_model_folder(args.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, args.family)
    group = init_parallel().tensor
    model = AutoModel.from_pretrained(args.model_name_or_path, group=group, **options.model_keywords())
    return DygraphBackend(model), tokenizer
