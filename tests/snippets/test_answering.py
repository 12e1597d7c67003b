"""`chat`, `stream_chat` and `generate` as THUDM's guides call them, but for `return_tensors`."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_glm import AutoModel, AutoTokenizer
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.models.past_key_values import PastKeyValues
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.tokenizers import Tokenizer
from tests.snippets.conftest import GREEDY


def test_chat_as_in_the_guides(model: CausalLM, tokenizer: Tokenizer) -> None:
    response, history = model.chat(
        tokenizer,
        "你好",
        history=[],
        max_length=60,
        num_beams=1,
        do_sample=True,
        top_p=0.7,
        temperature=0.95,
        logits_processor=None,
        seed=0,  # an answer of ChatGLM3 may be several messages
    )
    again, history = model.chat(tokenizer, "晚上睡不着应该怎么办", history=history, max_new_tokens=8, seed=0)
    assert isinstance(response, str) and isinstance(again, str)
    if model.config.family == "chatglm3":  # messages; one that takes the turn again has several
        assert history[0] == {"role": "user", "content": "你好"}
    else:
        assert [question for question, _ in history] == ["你好", "晚上睡不着应该怎么办"]
    with pytest.raises(InputError, match="turn sampling off"):
        model.chat(tokenizer, "你好", num_beams=2, do_sample=True)


def forbid(token: int) -> Callable:
    def processor(input_ids: paddle.Tensor, scores: paddle.Tensor) -> paddle.Tensor:
        assert input_ids.dtype == paddle.int64 and scores.dtype == paddle.float32
        assert input_ids.shape[0] == scores.shape[0]
        scores[:, token] = float("-inf")
        return scores

    return processor


@pytest.mark.parametrize("search", [{"do_sample": False}, {"seed": 3}, {"do_sample": False, "num_beams": 3}])
def test_a_logits_processor_is_honoured(model: CausalLM, tokenizer: Tokenizer, search: dict) -> None:
    inputs = tokenizer(["类型#裤", "宽松的阔腿裤"], padding=True, return_tensors="pd")
    width = inputs.input_ids.shape[1]
    ends = {"eos_token_id": [], "max_new_tokens": 8, **search}
    free = model.generate(**inputs, **ends).numpy()[:, width:]
    first = int(free[0, 0])
    processed = model.generate(**inputs, logits_processor=[forbid(first)], **ends).numpy()[:, width:]
    assert first in free and first not in processed
    unchanged = model.generate(**inputs, logits_processor=lambda ids, scores: scores, **ends).numpy()
    assert (unchanged[:, width:] == free).all()


def test_a_processor_sees_the_ids_so_far(model: CausalLM, tokenizer: Tokenizer) -> None:
    seen: list[np.ndarray] = []

    def look(input_ids: paddle.Tensor, scores: paddle.Tensor) -> np.ndarray:
        seen.append(input_ids.numpy())
        return scores.numpy()

    inputs = tokenizer(["类型#裤", "宽松的阔腿裤"], padding=True, return_tensors="pd")
    out = model.generate(**inputs, logits_processor=look, do_sample=False, max_new_tokens=4, eos_token_id=[])
    width = inputs.input_ids.shape[1]
    for step, ids in enumerate(seen):
        assert (ids == out.numpy()[:, : width + step]).all()
    assert len(seen) == 4


def test_a_processor_that_cannot_be_used_is_named(model: CausalLM, tokenizer: Tokenizer) -> None:
    cases = {
        "logits_processor holds 'top': expected a callable": ["top"],
        "logits_processor returned NaN, or -inf for every token": lambda ids, scores: scores * float("-inf"),
        r"logits_processor returned float32 \[5\]: expected scores": lambda ids, scores: scores[0, :5],
    }
    for message, processor in cases.items():
        with pytest.raises(InputError, match=message):
            model.chat(tokenizer, "你好", logits_processor=processor, **GREEDY)


def test_what_generation_cannot_do_is_refused_by_name(model: CausalLM, tokenizer: Tokenizer) -> None:
    for keyword, value, instead in (
        ("stopping_criteria", [], "stop reading stream_chat"),
        ("return_dict_in_generate", True, "returns ids"),
        ("num_return_sequences", 2, "repeat the prompt"),
        ("output_scores", True, r"model\(input_ids\).logits"),
        ("min_length", 5, "logits_processor"),
    ):
        with pytest.raises(InputError, match=f"{keyword} is not supported: .*{instead}"):
            model.chat(tokenizer, "你好", **{keyword: value})
    out = model.generate(
        **tokenizer("你好", return_tensors="pd"),
        use_cache=True,
        num_return_sequences=1,
        top_k=None,
        max_new_tokens=2,
    )
    assert out.shape[0] == 1


# -- streaming with a past ----------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every step that is computed from here on."""
    steps: list[int] = []
    run = DygraphBackend.run

    def counting(self: DygraphBackend, inputs: dict[str, np.ndarray]) -> np.ndarray:
        steps.append(inputs["input_ids"].shape[1])
        return run(self, inputs)

    monkeypatch.setattr(DygraphBackend, "run", counting)
    return steps


def test_streaming_with_a_past(
    model: CausalLM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THUDM's cli_demo.py: three rounds, the past given back in each."""
    queries = ["你好", "晚上睡不着应该怎么办", "再见"]
    if model.config.family == "chatglm":
        with pytest.raises(InputError, match=r"both directions.*leave past_key_values"):
            model.stream_chat(tokenizer, queries[0], return_past_key_values=True)
        return
    steps = counted(monkeypatch)
    short: dict[str, Any] = {"do_sample": False, "max_new_tokens": 20}
    past_key_values, history, asked = None, [], 0
    for query in queries:
        steps.clear()
        plain = list(model.stream_chat(tokenizer, query, history=history, **short))
        whole = steps[0]
        steps.clear()
        with_past = []
        for response, history, past_key_values in model.stream_chat(  # noqa: B007, B020
            tokenizer,
            query,
            history=history,
            past_key_values=past_key_values,
            return_past_key_values=True,
            **short,
        ):
            with_past.append((response, history))
        assert with_past == plain
        assert isinstance(past_key_values, PastKeyValues) and len(past_key_values) == model.config.num_layers
        # At least the last prompt, but for a token that the answer's beginning may have joined.
        assert whole - steps[0] >= max(asked - 1, 0)
        asked = whole
        assert past_key_values[0][0].shape[2] == len(past_key_values.input_ids)


def test_a_past_of_another_conversation_is_used_as_far_as_it_agrees(
    model: CausalLM, tokenizer: Tokenizer
) -> None:
    if not model.family.is_causal:
        pytest.skip("ChatGLM-6B attends to its prompt in both directions: it has no past to reuse")
    *_, (_, _, past) = model.stream_chat(tokenizer, "你好", return_past_key_values=True, **GREEDY)
    for query in ("你好吗", "裙", "你好"):
        *_, plain = model.stream_chat(tokenizer, query, **GREEDY)
        *_, resumed = model.stream_chat(tokenizer, query, past_key_values=past, **GREEDY)
        assert resumed == plain


def test_a_past_with_a_prefix_in_front(folder: str, tokenizer: Tokenizer) -> None:
    model = AutoModel.from_pretrained(folder)
    if not model.family.is_causal:
        pytest.skip("ChatGLM-6B attends to its prompt in both directions: it has no past to reuse")
    attach_prefix(model, 5, projection=False)
    *_, (_, history, past) = model.stream_chat(tokenizer, "你好", return_past_key_values=True, **GREEDY)
    assert past[0][0].shape[2] == 5 + len(past.input_ids)
    *_, plain = model.stream_chat(tokenizer, "再见", history, **GREEDY)
    *_, resumed = model.stream_chat(tokenizer, "再见", history, past_key_values=past, **GREEDY)
    assert resumed == plain


def test_a_past_that_does_not_belong_is_refused(model: CausalLM, tokenizer: Tokenizer, folder: str) -> None:
    if not model.family.is_causal:
        pytest.skip("ChatGLM-6B attends to its prompt in both directions: it has no past to reuse")
    *_, (_, _, past) = model.stream_chat(tokenizer, "你好", return_past_key_values=True, **GREEDY)
    other = AutoModel.from_pretrained(folder)
    for wrong in (tuple(past), [1, 2]):
        with pytest.raises(InputError, match="not what stream_chat of this model, as it is, gave"):
            model.stream_chat(tokenizer, "再见", past_key_values=wrong)
    with pytest.raises(InputError, match="not what stream_chat of this model, as it is, gave"):
        other.stream_chat(tokenizer, "再见", past_key_values=past)
    *_, (_, _, past) = other.stream_chat(tokenizer, "你好", return_past_key_values=True, **GREEDY)
    with pytest.raises(InputError, match="not what stream_chat of this model, as it is, gave"):
        other.half().stream_chat(tokenizer, "再见", past_key_values=past)
    with pytest.raises(InputError, match="num_beams 2: past_key_values are of one answer"):
        model.stream_chat(tokenizer, "再见", return_past_key_values=True, num_beams=2, do_sample=False)


def test_streaming_without_a_past_yields_pairs(model: CausalLM, tokenizer: Tokenizer) -> None:
    texts = []
    for response, _history in model.stream_chat(tokenizer, "你好", history=[], max_length=80, seed=2):
        texts.append(response)
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts[:-1]))


# -- generate over a batch ----------------------------------------------------------------------


def test_generate_from_what_the_tokenizer_gives(model: CausalLM, tokenizer: Tokenizer) -> None:
    texts = ["类型#裤", "宽松的阔腿裤这两年真的吸粉不少"]
    inputs = tokenizer(texts, return_tensors="pd", padding=True)
    assert set(inputs) == {"input_ids", "attention_mask", "position_ids"}
    outputs = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    answers = tokenizer.batch_decode(outputs[:, inputs.input_ids.shape[1] :])
    for text, answer in zip(texts, answers, strict=True):
        alone = tokenizer([text], return_tensors="pd")
        out = model.generate(**alone, max_new_tokens=6, do_sample=False)
        response = tokenizer.decode(out.tolist()[0][len(alone["input_ids"][0]) :])
        assert answer.startswith(response) or response.startswith(answer)
        assert tokenizer.decode(out[0]) == tokenizer.decode(out.tolist()[0])


def test_positions_that_are_not_the_models_own_are_refused(model: CausalLM, tokenizer: Tokenizer) -> None:
    inputs = tokenizer(["类型#裤", "宽松"], return_tensors="np", padding="longest")
    inputs["position_ids"] = inputs.position_ids + 1
    with pytest.raises(InputError, match=r"position_ids .* are not the model's own"):
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(InputError, match="generate takes input_ids"):
        model.generate(max_new_tokens=2)


def test_pytorchs_tensors_are_refused_by_name(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"return_tensors='pt': expected None, 'np' \(numpy\) or 'pd'"):
        tokenizer("你好", return_tensors="pt")
    cut = tokenizer(["宽松的阔腿裤"] * 2, return_tensors="pd", truncation=True, max_length=5)
    assert cut.input_ids.shape == [2, 5]


def test_paths_may_be_path_objects(folder: str) -> None:
    assert AutoTokenizer.from_pretrained(Path(folder)).family == Path(folder).name


def test_the_last_logits_alone(model: CausalLM, tokenizer: Tokenizer) -> None:
    """THUDM's evaluate_ceval.py: which of A, B, C, D comes next."""
    inputs = tokenizer(["类型#裤", "宽松的阔腿裤"], padding=True, return_tensors="pd").to(model.device)
    outputs = model(**inputs, return_last_logit=True)
    logits = outputs.logits[:, -1]
    assert outputs.logits.shape[1] == 1
    assert float((logits - model(**inputs).logits[:, -1]).abs().max()) < 1e-5
    with pytest.raises(InputError, match="return_last_logit and labels exclude each other"):
        model(inputs.input_ids, labels=inputs.input_ids, return_last_logit=True)
