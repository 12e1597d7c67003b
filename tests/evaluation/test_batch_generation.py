"""Answers to many prompts come back in the order of the prompts, however they were batched."""

import numpy as np
import pytest

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.errors import InputError
from paddle_glm.evaluation.batch_generation import generate_for_scoring, generate_in_batches
from paddle_glm.generation.params import GenerationParams


class Echo:
    """A backend that repeats each row's last prompt token, then ends."""

    max_length = None

    def __init__(self, vocab: int, end: int) -> None:
        self.vocab, self.end = vocab, end

    def prefill(self, input_ids, attention_mask):
        return np.eye(self.vocab, dtype=np.float32)[input_ids[:, -1]]

    def decode(self, tokens):
        return np.eye(self.vocab, dtype=np.float32)[np.full(len(tokens), self.end)]

    def select(self, rows):
        pass

    def broadcast(self, values):
        return values


@pytest.fixture
def setting(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    words = [tokenizer.get_vocab()[word] for word in ("的", "，", "款", "这", "。")]
    prompts = [np.array([5] * length + [word]) for length, word in zip((7, 1, 4, 9, 2), words, strict=True)]
    backend = Echo(520, tokenizer.eos_token_id)
    return backend, tokenizer, prompts, GenerationParams(do_sample=False, max_new_tokens=3)


@pytest.mark.parametrize("progress", [True, False])
def test_all_answers_in_the_order_of_prompts(setting, progress):
    assert generate_for_scoring(*setting, batch_size=2, progress=progress) == ["的", "，", "款", "这", "。"]


def test_batches_in_order(setting):
    _, _, prompts, _ = setting
    last = [[int(prompt[-1])] for prompt in prompts]
    assert list(generate_in_batches(*setting, batch_size=2)) == [last[:2], last[2:4], last[4:]]


def test_max_length_counts_the_prompt(setting):
    """The first batch's longest prompt has 8 tokens, the second's 10, which leaves no room."""
    batches = generate_in_batches(*setting, batch_size=2, max_length=9)
    assert [len(ids) for ids in next(batches)] == [1, 1]
    with pytest.raises(InputError, match=r"a prompt of 10 tokens leaves no room .* max_length 9"):
        next(batches)


def test_no_prompts(setting):
    backend, tokenizer, _, params = setting
    assert generate_for_scoring(backend, tokenizer, [], params, batch_size=2, progress=False) == []
