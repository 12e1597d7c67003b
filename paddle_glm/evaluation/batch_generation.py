"""Answers to many prompts: batched generation over any backend, back in the order of the rows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tqdm import tqdm

from paddle_glm.array_types import IntArray
from paddle_glm.generation.backend_protocol import GenerationBackend
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.response_parser import parse_messages, visible_text
from paddle_glm.generation.session import generate_batch, with_special_token_ids
from paddle_glm.tokenizers.base import Tokenizer


def generate_in_batches(
    backend: GenerationBackend,
    tokenizer: Tokenizer,
    prompts: Sequence[IntArray],
    params: GenerationParams,
    batch_size: int,
) -> Iterator[list[str]]:
    """Yields the answers of `batch_size` prompts at a time, in the order given.

    prompts: int64 arrays of token ids. Special tokens are left out of the answers, white space around
    them too. Under tensor parallelism every process makes the same call and gets the same answers.
    """
    params = with_special_token_ids(params, tokenizer, tokenizer.template)
    for start in range(0, len(prompts), batch_size):
        batch = [prompt.tolist() for prompt in prompts[start : start + batch_size]]
        yield [decode_generated(tokenizer, ids) for ids in generate_batch(backend, batch, params)]


def generate_all(
    backend: GenerationBackend,
    tokenizer: Tokenizer,
    prompts: Sequence[IntArray],
    params: GenerationParams,
    batch_size: int,
    progress: bool = True,
) -> list[str]:
    """All answers at once; prompts of similar length share a batch, so that little padding is computed."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    batches = generate_in_batches(backend, tokenizer, [prompts[index] for index in order], params, batch_size)
    answers = [""] * len(prompts)
    places = iter(order)
    with tqdm(total=len(prompts), desc="answering", unit=" rows", disable=not progress) as bar:
        for batch in batches:
            for text in batch:
                answers[next(places)] = text
            bar.update(len(batch))
    return answers


def decode_generated(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of a generated answer: no special tokens, no replacements that are made for display only."""
    template = replace(tokenizer.template, replacements=())
    decoded = tokenizer.decode(list(ids), skip_special_tokens=True)
    return visible_text(parse_messages(template, decoded))
