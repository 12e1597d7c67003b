"""Generating the answers to rows, the same for `infer` and `predict`: prompts, text, output file."""

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.chat_template import with_source_prefix

if TYPE_CHECKING:
    from paddle_glm.backends import Backend
    from paddle_glm.data.row_formats import Example
    from paddle_glm.generation import GenerationParams
    from paddle_glm.tokenizers import Tokenizer

# What PaddleNLP's predict_generation.py and infer_generation.py ask without a file.
DEFAULT_QUESTIONS = ("你好", "晚上睡不着应该怎么办")


def answer_rows(
    args: argparse.Namespace,
    backend: "Backend",
    tokenizer: "Tokenizer",
    examples: "Sequence[Example]",
    params: "GenerationParams",
    output_file: str | None,
    shown: str,
) -> int:
    """Generate the answer to each example, print it, write it; returns the number of generated tokens.

    args: `batch_size`, `src_length`, `tgt_length`, and `source_prefix` and `max_length` where a command has
    them. output_file: gets a line {"src", "tgt", "output"} per example as soon as it is generated. shown: the
    format of what is printed, of the same three fields. Under tensor parallelism every rank makes the same
    call, and rank 0 prints and writes. Raises `InputError` for a prompt that leaves no room for an answer.
    """
    from paddle_glm.data.datasets import GenerationDataset
    from paddle_glm.evaluation.batch_generation import display_text, generate_in_batches

    template = with_source_prefix(tokenizer.template, getattr(args, "source_prefix", None))
    prompts = GenerationDataset(examples, template, tokenizer, args.src_length, args.tgt_length).prompts
    max_length = getattr(args, "max_length", None)
    batches = generate_in_batches(backend, tokenizer, prompts, params, args.batch_size, max_length)
    answers = (ids for batch in batches for ids in batch)
    if not backend.is_leader:  # computes its shard of every step
        return sum(map(len, answers))
    if output_file is not None:
        Path(output_file).parent.mkdir(parents=True, exist_ok=True)
    tokens = 0
    with nullcontext() if output_file is None else open(output_file, "w", encoding="utf-8") as file:
        for example, ids in zip(examples, answers, strict=True):
            question = example.prompt_messages[-1]["content"]
            row = {"src": question, "tgt": example.answer or "", "output": display_text(tokenizer, ids)}
            print(shown.format(**row), flush=True)
            if file is not None:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
            tokens += len(ids)
    return tokens
