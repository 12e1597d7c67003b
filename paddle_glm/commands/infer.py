"""`paddle-glm infer`: answers prompts or the rows of a file from an exported graph."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.auto.backend import graph_backends
from paddle_glm.checkpoint.output_checks import check_output_file
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

if TYPE_CHECKING:
    from paddle_glm.auto.engine import Engine
    from paddle_glm.data.data_files import Example
    from paddle_glm.generation import GenerationParams

HELP = "answer prompts or rows of a file from an exported graph"
# What is asked where neither a prompt nor a file is given, as PaddleNLP's script does.
DEFAULT_QUESTIONS = ("你好", "晚上睡不着应该怎么办")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_path", required=True, help="folder that `paddle-glm export` wrote")
    add_backend_arguments(parser, graph_backends())
    parser.add_argument("--batch_size", type=int, default=2, help="prompts answered together")
    parser.add_argument("--src_length", type=int, default=64, help="most tokens of a prompt; longer are cut")
    parser.add_argument("--tgt_length", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--max_length", type=int, default=2048, help="most tokens of both together")
    parser.add_argument("--prompt", action="append", help="a question; may be given several times")
    parser.add_argument("--data_file", help="rows with questions, as for predict: JSON, CSV, TSV or parquet")
    add_column_arguments(parser)
    parser.add_argument("--output_file", help="gets a line {src, tgt, output} per question")
    add_sampling_arguments(parser, GREEDY, exclude=("max_length", "max_new_tokens"))


def run(args: argparse.Namespace) -> None:
    for name in ("batch_size", "src_length", "tgt_length", "max_length"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected at least 1")
    check_device_flags(args)
    # Values that cannot work are reported before a model is loaded.
    params = sampling_params(args, GREEDY, max_length=args.max_length)
    check_sampling_flags(args, params)
    if args.output_file:
        check_output_file(args.output_file, "--output_file")
    if args.prompt and args.data_file:
        raise InputError("--prompt and --data_file: give one of them")
    examples = examples_from_args(args, args.prompt or DEFAULT_QUESTIONS)
    started = time.perf_counter()
    engine = open_engine_from_args(args, args.model_path)
    defaults = replace(engine.params, do_sample=False)
    params = sampling_params(args, defaults, max_length=args.max_length)
    loaded = time.perf_counter()
    rows, tokens = [], 0
    for example, text, count in answers(engine, examples, params, args):
        question = example.prompt_messages[-1]["content"]
        print(f"问：{question}\n答：{text}\n", flush=True)
        rows.append({"src": question, "tgt": example.answer or "", "output": text})
        tokens += count
    seconds = time.perf_counter() - loaded
    print(
        f"{len(rows)} answers, {tokens} tokens in {seconds:.2f} s ({tokens / seconds:.1f} tokens/s); "
        f"loaded in {loaded - started:.2f} s"
    )
    if args.output_file:
        path = Path(args.output_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
        print(f"{path}: {len(rows)} answers")


def answers(
    engine: "Engine", examples: "Sequence[Example]", params: "GenerationParams", args: argparse.Namespace
) -> "Iterator[tuple[Example, str, int]]":
    """Each example with the text that a reader sees and its number of tokens, batch by batch."""
    from paddle_glm.chat_template import render
    from paddle_glm.generation import generate_batch
    from paddle_glm.generation.response_parser import parse_messages, visible_text
    from paddle_glm.generation.session import with_special_token_ids

    template = engine.tokenizer.template
    params = with_special_token_ids(params, engine.tokenizer, template)
    for start in range(0, len(examples), args.batch_size):
        batch = examples[start : start + args.batch_size]
        prompts = [
            render(template, engine.tokenizer, example.prompt_messages, args.src_length).input_ids
            for example in batch
        ]
        room = params.max_total_length(max(map(len, prompts)), engine.backend.max_length) - max(
            map(len, prompts)
        )
        limited = params.updated({"max_new_tokens": min(args.tgt_length, room)})
        for example, ids in zip(batch, generate_batch(engine.backend, prompts, limited), strict=True):
            text = visible_text(parse_messages(template, engine.tokenizer.decode(ids)))
            yield example, text, len(ids)
