"""`paddle-glm predict`: answers the rows of a file, in one process or over tensor-parallel ones."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.auto.backend import graph_backends, is_exported
from paddle_glm.chat_template import with_source_prefix
from paddle_glm.checkpoint.output_checks import check_output_file
from paddle_glm.checkpoint.reshard import check_target, reshard
from paddle_glm.commands import _model_arguments as model_arguments
from paddle_glm.commands._engine_arguments import add_backend_arguments, open_engine_from_args
from paddle_glm.errors import InputError

if TYPE_CHECKING:
    from paddle_glm.backends import Backend
    from paddle_glm.tokenizers import Tokenizer
    from paddle_glm.training.row_formats import Example

HELP = "answer the rows of a file with a model folder of any kind, shards under the launcher too"

# What PaddleNLP's predict_generation.py asks where no file is given.
DEFAULT_QUESTIONS = ("你好", "晚上睡不着应该怎么办")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments.add_model_arguments(parser)
    add_backend_arguments(parser, graph_backends())
    parser.add_argument(
        "--data_file", help="rows to answer: JSON, CSV, TSV or parquet; two common questions without it"
    )
    parser.add_argument(
        "--predict_file", default="prediction.json", help="gets a line {src, tgt, output} per row"
    )
    parser.add_argument(
        "--merge_tensor_parallel_path", help="write the model to this folder too, in one piece"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a --merge_tensor_parallel_path that this program wrote",
    )
    model_arguments.add_limit_argument(parser, "answer the first rows only")
    model_arguments.add_generation_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from paddle_glm.data.datasets import GenerationDataset
    from paddle_glm.evaluation.batch_generation import generate_in_batches
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
    params = model_arguments.generation_params(args)
    check_output_file(args.predict_file, "--predict_file")
    if args.merge_tensor_parallel_path:
        target = args.merge_tensor_parallel_path
        check_target(args.model_name_or_path, target, "--merge_tensor_parallel_path", args.overwrite)
    examples = model_arguments.examples_from_args(args, DEFAULT_QUESTIONS, args.limit)
    backend, tokenizer = _open_backend(args)
    template = with_source_prefix(tokenizer.template, args.source_prefix)
    dataset = GenerationDataset(examples, template, tokenizer, args.src_length, args.tgt_length)
    first = backend.is_leader
    answers = generate_in_batches(backend, tokenizer, dataset.prompts, params, args.batch_size)
    rows = (answer for batch in answers for answer in batch)
    if first:
        _write(Path(args.predict_file), examples, rows)
    else:
        for _ in rows:  # the other processes compute their part of every step
            pass
    if first and args.merge_tensor_parallel_path:
        _merge(args)
    exit_all_ranks()


def _open_backend(args: argparse.Namespace) -> "tuple[Backend, Tokenizer]":
    """The model over all processes, or an exported folder in this one."""
    if not args.backend and not is_exported(args.model_name_or_path):
        return model_arguments.open_model(args)
    if args.merge_tensor_parallel_path:
        raise InputError("--merge_tensor_parallel_path: an exported folder holds no weights to merge")
    engine = open_engine_from_args(args)
    return engine.backend, engine.tokenizer


def _write(path: Path, examples: Sequence["Example"], answers: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for example, answer in zip(examples, answers, strict=True):
            question = example.prompt_messages[-1]["content"]
            print(f"{question}\n{answer}\n", flush=True)
            row = {"src": question, "tgt": example.answer or "", "output": answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    print(f"{path}: {len(examples)} answers")


def _merge(args: argparse.Namespace) -> None:
    target = args.merge_tensor_parallel_path
    written = reshard(args.model_name_or_path, target, family=args.family, overwrite=args.overwrite)
    print(f"{target}: {written}")
