"""generate, chat and stream_chat as users of the original models call them."""

from itertools import pairwise

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.errors import InputError

GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module", params=["chatglm2", "chatglm3"])
def loaded(request, tiny_checkpoint):
    model = AutoModel.from_pretrained(tiny_checkpoint)
    return model, AutoTokenizer.from_pretrained(tiny_checkpoint, family=request.param)


def test_generate_returns_prompt_and_answer(loaded):
    model, tokenizer = loaded
    batch = tokenizer(["类型#裤", "宽松的阔腿裤"], padding=True, return_tensors="pd")
    out = model.generate(batch["input_ids"], batch["attention_mask"], **GREEDY)
    assert out.dtype == paddle.int64
    width = batch["input_ids"].shape[1]
    assert (out[:, :width] == batch["input_ids"]).all()
    assert width < out.shape[1] <= width + 12
    alone = tokenizer("类型#裤", return_tensors="np")["input_ids"]
    single = model.generate(alone, **GREEDY).numpy()[0, alone.shape[1] :]
    assert (out.numpy()[0, width:][: single.size] == single).all()


def test_generate_takes_transformers_name_for_the_end(loaded):
    model, _ = loaded
    prompt = np.array([[5, 6, 7]])
    free = model.generate(prompt, **GREEDY).numpy()[0, 3:]
    for end in (int(free[0]), [int(free[0]), 9]):
        assert model.generate(prompt, eos_token_id=end, **GREEDY).numpy()[0, 3:].tolist() == [free[0]]


def test_chat_keeps_history_as_the_original_does(loaded):
    model, tokenizer = loaded
    first, history = model.chat(tokenizer, "你好", **GREEDY)
    second, history = model.chat(tokenizer, "再见", history, seed=3, max_new_tokens=8)
    if tokenizer.family == "chatglm2":
        assert history == [("你好", first), ("再见", second)]
    else:
        assert [message["role"] for message in history] == ["user", "assistant"] * 2
        assert [message["content"] for message in history[::2]] == ["你好", "再见"]


def test_streaming_ends_with_what_chat_returns(loaded):
    model, tokenizer = loaded
    params = {"seed": 4, "max_new_tokens": 16}
    steps = list(model.stream_chat(tokenizer, "你好", [], **params))
    assert steps[-1] == model.chat(tokenizer, "你好", [], **params)
    # A ChatGLM3 that takes the turn again ends with its last message alone.
    texts = [response for response, _ in steps[:-1]]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts)), texts


def test_a_misspelt_parameter_is_an_error(loaded):
    model, tokenizer = loaded
    with pytest.raises(InputError, match="did you mean 'top_p'"):
        model.chat(tokenizer, "你好", topp=0.5)
