"""`paddle-glm predict`: generate answers to the rows of a file, in one process or tensor-parallel."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.auto.backend import graph_backends, is_exported
from paddle_glm.checkpoint.output_checks import check_output_file
from paddle_glm.checkpoint.reshard import check_target, reshard
from paddle_glm.commands import _model_arguments as model_arguments
from paddle_glm.commands._answer_rows import DEFAULT_QUESTIONS, answer_rows
from paddle_glm.commands._engine_arguments import (
    add_backend_arguments,
    check_device_flags,
    open_engine_from_args,
)
from paddle_glm.errors import InputError

if TYPE_CHECKING:
    from paddle_glm.backends import Backend
    from paddle_glm.tokenizers import Tokenizer

HELP = "generate answers to the rows of a file with any model folder, also tensor-parallel"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments.add_model_arguments(parser)
    add_backend_arguments(parser, graph_backends())
    parser.add_argument(
        "--data_file", help="rows to answer: JSON, CSV, TSV or parquet; two sample questions without it"
    )
    parser.add_argument(
        "--predict_file", default="prediction.json", help="JSON Lines file of answers: {src, tgt, output}"
    )
    parser.add_argument("--merge_tensor_parallel_path", help="also write the merged model to this folder")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing --merge_tensor_parallel_path that this program wrote",
    )
    model_arguments.add_limit_argument(parser, "answer only the first N rows")
    model_arguments.add_generation_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from paddle_glm.parallel.shutdown import exit_all_ranks

    if args.merge_tensor_parallel_path and (args.ptuning_checkpoint or args.lora_path):
        raise InputError(
            "--merge_tensor_parallel_path writes the model alone, without prefix or adapters: leave it out "
            "(paddle-glm merge-lora folds adapters in)"
        )
    if args.merge_tensor_parallel_path and args.quantization_bit:
        raise InputError(
            "--merge_tensor_parallel_path writes the folder's own weights: run `paddle-glm quantize` first"
        )
    if args.overwrite and not args.merge_tensor_parallel_path:
        raise InputError("--overwrite is for --merge_tensor_parallel_path: give both, or none")
    check_device_flags(args)
    params = model_arguments.generation_params(args)
    check_output_file(args.predict_file, "--predict_file")
    if args.merge_tensor_parallel_path:
        target = args.merge_tensor_parallel_path
        check_target(args.model_name_or_path, target, "--merge_tensor_parallel_path", args.overwrite)
    examples = model_arguments.examples_from_args(args, DEFAULT_QUESTIONS, args.limit)
    backend, tokenizer = _open_backend(args)
    output = args.predict_file
    answer_rows(args, backend, tokenizer, examples, params, output, "{src}\n{output}\n")
    if backend.is_leader:
        print(f"{Path(output)}: {len(examples)} answers")
        if args.merge_tensor_parallel_path:
            _merge(args)
    exit_all_ranks()


def _open_backend(args: argparse.Namespace) -> "tuple[Backend, Tokenizer]":
    """The model, sharded over all ranks, or an exported folder in this process."""
    if not args.backend and not is_exported(args.model_name_or_path):
        return model_arguments.open_model(args)
    if args.merge_tensor_parallel_path:
        raise InputError("--merge_tensor_parallel_path: an exported folder holds no weights to merge")
    engine = open_engine_from_args(args)
    return engine.backend, engine.tokenizer


def _merge(args: argparse.Namespace) -> None:
    target = args.merge_tensor_parallel_path
    written = reshard(args.model_name_or_path, target, family=args.family, overwrite=args.overwrite)
    print(f"{target}: {written}")
