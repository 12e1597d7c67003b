"""`paddle-glm infer`: generate answers to prompts or to the rows of a file with an exported graph."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from paddle_glm.auto.backend import graph_backends
from paddle_glm.checkpoint.output_checks import check_output_file
from paddle_glm.commands._answer_rows import DEFAULT_QUESTIONS, answer_rows
from paddle_glm.commands._engine_arguments import (
    add_backend_arguments,
    check_device_flags,
    open_engine_from_args,
)
from paddle_glm.commands._model_arguments import add_column_arguments, examples_from_args
from paddle_glm.commands._sampling_arguments import (
    GREEDY,
    add_sampling_arguments,
    check_sampling_flags,
    sampling_params,
)
from paddle_glm.errors import InputError

HELP = "generate answers to prompts or to the rows of a file with an exported graph"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_path", required=True, help="folder that `paddle-glm export` wrote")
    add_backend_arguments(parser, graph_backends())
    parser.add_argument("--batch_size", type=int, default=2, help="prompts per batch")
    parser.add_argument(
        "--src_length", type=int, default=64, help="maximum tokens of a prompt; longer ones are truncated"
    )
    parser.add_argument("--tgt_length", type=int, default=64, help="maximum tokens of an answer")
    parser.add_argument(
        "--max_length", type=int, default=2048, help="maximum tokens of prompt and answer together"
    )
    parser.add_argument("--prompt", action="append", help="a prompt; may be repeated")
    parser.add_argument("--data_file", help="rows to answer, as for predict: JSON, CSV, TSV or parquet")
    add_column_arguments(parser)
    parser.add_argument("--output_file", help="JSON Lines file of answers: {src, tgt, output}")
    add_sampling_arguments(parser, GREEDY, exclude=("max_length", "max_new_tokens"))


def run(args: argparse.Namespace) -> None:
    for name in ("batch_size", "src_length", "tgt_length", "max_length"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected at least 1")
    check_device_flags(args)
    # Invalid values are reported before a model is loaded.
    check_sampling_flags(args, sampling_params(args, GREEDY))
    if args.output_file:
        check_output_file(args.output_file, "--output_file")
    if args.prompt and args.data_file:
        raise InputError("--prompt and --data_file: give one of them")
    examples = examples_from_args(args, args.prompt or DEFAULT_QUESTIONS)
    started = time.perf_counter()
    engine = open_engine_from_args(args, args.model_path)
    loaded = time.perf_counter()
    defaults = replace(engine.params, do_sample=False)
    params = sampling_params(args, defaults, max_new_tokens=args.tgt_length)
    output = args.output_file or None
    shown = "问：{src}\n答：{output}\n"
    tokens = answer_rows(args, engine.backend, engine.tokenizer, examples, params, output, shown)
    seconds = time.perf_counter() - loaded
    print(
        f"{len(examples)} answers, {tokens} tokens in {seconds:.2f} s ({tokens / seconds:.1f} tokens/s); "
        f"loaded in {loaded - started:.2f} s"
    )
    if output is not None:
        print(f"{Path(output)}: {len(examples)} answers")
