"""A session over a real tokenizer and the numpy model."""

import numpy as np
import pytest

from paddle_glm.chat_template import render
from paddle_glm.errors import InputError
from paddle_glm.generation import ChatSession, GenerationParams, generate
from paddle_glm.generation.session import pad_left
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.models.chatglm3.tokenizer import ChatGLM3Tokenizer
from tests.generation.numpy_model import NumpyBackend
from tests.tiny_sentencepiece import write_tiny_model

MESSAGES = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module", params=[ChatGLM2Tokenizer, ChatGLM3Tokenizer])
def tokenizer(request, tmp_path_factory):
    return request.param(write_tiny_model(tmp_path_factory.mktemp("session") / "tokenizer.model"))


def backend_for(tokenizer, **kwargs):
    return NumpyBackend(vocab=len(tokenizer), limit=256, **kwargs)


def answer_ids(backend, tokenizer, messages, params):
    prompt = render(tokenizer.template, tokenizer, messages).input_ids
    columns = list(generate(backend, *pad_left([prompt], tokenizer.pad_token_id), params))
    return prompt, [int(column[0]) for column in columns]


@pytest.mark.parametrize("params", [{"seed": 5}, {"do_sample": False}, {"do_sample": False, "num_beams": 2}])
def test_pieces_are_the_decoded_answer(tokenizer, params):
    backend = backend_for(tokenizer, logit_scale=0.5)
    params = GenerationParams(max_new_tokens=40, **params)
    session = ChatSession(backend, tokenizer, params)
    pieces = list(session.stream(MESSAGES))
    prompt, ids = answer_ids(backend, tokenizer, MESSAGES, session.params)
    ends = [place for place, token in enumerate(ids) if token in session.params.eos_token_ids]
    kept = ids[: ends[0]] if ends else ids
    expected = [tokenizer.template.parse_response(tokenizer.decode(kept))]
    assert session.reply.messages == expected
    assert "".join(pieces) == expected[0]["content"]
    assert session.reply.finish_reason == ("stop" if ends else "length")
    assert (session.reply.prompt_tokens, session.reply.completion_tokens) == (len(prompt), len(kept))


def test_the_end_tokens_are_the_templates(tokenizer):
    session = ChatSession(backend_for(tokenizer), tokenizer)
    names = tokenizer.template.stop_tokens
    assert session.params.eos_token_ids == tuple(tokenizer.get_command(name) for name in names)
    assert session.params.pad_token_id == tokenizer.pad_token_id


def test_an_answer_that_ends_at_once(tokenizer):
    backend = backend_for(tokenizer)
    backend.run = lambda inputs: 99 * np.eye(len(tokenizer))[[tokenizer.eos_token_id]]
    reply = ChatSession(backend, tokenizer).answer(MESSAGES)
    assert (reply.finish_reason, reply.completion_tokens, reply.messages[0]["content"]) == ("stop", 0, "")


def test_errors_come_before_the_first_piece(tokenizer):
    with pytest.raises(InputError, match="leaves no room"):
        ChatSession(NumpyBackend(vocab=len(tokenizer), limit=5), tokenizer).stream(MESSAGES)
    with pytest.raises(InputError, match="empty conversation"):
        ChatSession(backend_for(tokenizer), tokenizer).stream([])
