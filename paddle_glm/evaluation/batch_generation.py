"""Batched generation over any backend, and the two texts that generated ids are decoded to."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tqdm import tqdm

from paddle_glm.array_types import IntArray
from paddle_glm.chat_template import ChatTemplate
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
    max_length: int | None = None,
) -> Iterator[list[list[int]]]:
    """Yield the generated ids of `batch_size` prompts at a time, in order, without end tokens.

    prompts: token ids, int64 [prompt_length] each. max_length: maximum tokens of prompt and answer
    together, counted from the longest prompt of a batch; None limits the answer alone. Under tensor
    parallelism every rank makes the same call and gets the same ids. Raises `InputError` where a prompt
    leaves no room for an answer.
    """
    params = with_special_token_ids(params, tokenizer, tokenizer.template)
    for start in range(0, len(prompts), batch_size):
        batch = [prompt.tolist() for prompt in prompts[start : start + batch_size]]
        yield generate_batch(backend, batch, _within(params, max(map(len, batch)), max_length))


def _within(params: GenerationParams, prompt_length: int, max_length: int | None) -> GenerationParams:
    """`params` with `max_new_tokens` lowered to what `max_length` leaves; raises as above."""
    if max_length is None:
        return params
    total = replace(params, max_new_tokens=None, max_length=max_length)
    room = total.max_total_length(prompt_length, None) - prompt_length
    return replace(params, max_new_tokens=min(params.max_new_tokens or room, room))


def generate_for_scoring(
    backend: GenerationBackend,
    tokenizer: Tokenizer,
    prompts: Sequence[IntArray],
    params: GenerationParams,
    batch_size: int,
    progress: bool = True,
) -> list[str]:
    """`scoring_text` of the answer to each prompt (int64 [prompt_length]), in the order given.

    Prompts of similar length share a batch, so that little padding is computed.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    batches = generate_in_batches(backend, tokenizer, [prompts[index] for index in order], params, batch_size)
    answers = [""] * len(prompts)
    places = iter(order)
    with tqdm(total=len(prompts), desc="answering", unit=" rows", disable=not progress) as bar:
        for batch in batches:
            for ids in batch:
                answers[next(places)] = scoring_text(tokenizer, ids)
            bar.update(len(batch))
    return answers


def display_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The answer as `chat`, the server and the C++ program show it: the template's replacements applied."""
    return _text(tokenizer.template, tokenizer.decode(list(ids)))


def scoring_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The answer as metrics compare it: no special tokens, and none of the template's `replacements`.

    THUDM's `ptuning/main.py` scores what the tokenizer decodes, without `process_response`. Full-width
    punctuation of ChatGLM-6B (`wide_punctuation`) is restored all the same, as in the references.
    """
    decoded = tokenizer.decode(list(ids), skip_special_tokens=True)
    return _text(replace(tokenizer.template, replacements=()), decoded)


def _text(template: ChatTemplate, decoded: str) -> str:
    return visible_text(parse_messages(template, decoded))
