"""Rows that join and leave while others go on get the tokens that they get alone."""

import numpy as np
import paddle
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.reading import add_rows

LENGTHS = (5, 2, 9)
ANSWER = 10


@pytest.fixture(scope="module")
def chatglm(tiny_rows, tmp_path_factory):
    """A ChatGLM-6B folder: its positions depend on where `<sop>` stands."""
    folder = tmp_path_factory.mktemp("joining") / "chatglm"
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(
        folder, texts, "chatglm", vocab_size=512, num_layers=2, hidden_size=64, ffn_hidden_size=96
    )
    return folder


@pytest.fixture(scope="module", params=["chatglm2", "prefix", "chatglm", "exported"])
def backend(request, tiny_checkpoint, chatglm, tmp_path_factory):
    folder = chatglm if request.param == "chatglm" else tiny_checkpoint
    model = AutoModel.from_pretrained(folder)
    if request.param in ("prefix", "exported"):
        paddle.seed(1)
        attach_prefix(model, 4, projection=False)
    if request.param != "exported":
        return DygraphBackend(model)
    export_model(model, AutoTokenizer.from_pretrained(folder), out := tmp_path_factory.mktemp("out") / "x")
    return open_backend("paddle", out)


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch):
    """What runs at every token and for every row does not call what leaves memory behind."""

    def refuse(*_args, **_keywords):
        raise AssertionError("paddle.to_tensor leaves memory behind at every call: take step_tensor")

    monkeypatch.setattr(paddle, "to_tensor", refuse)


def prompts_for(backend) -> list[list[int]]:
    special = (backend.config.gmask_token_id, backend.config.bos_token_id)
    end = [token for token in special if token is not None]  # those that ChatGLM-6B needs
    random = np.random.default_rng(0)
    return [[*random.integers(10, 300, length).tolist(), *end] for length in LENGTHS]


def row_of(ids):
    return np.array([ids]), np.ones((1, len(ids)), dtype=np.int64)


def test_rows_join_and_leave(backend):
    prompts = prompts_for(backend)
    params = GenerationParams(do_sample=False, max_new_tokens=ANSWER)
    alone = [generate_batch(backend, [prompt], params)[0] for prompt in prompts]
    answers: dict[int, list[int]] = {0: [], 1: [], 2: []}
    order = [0]
    logits = backend.prefill(*row_of(prompts[0]))
    for step in range(ANSWER + 5):
        tokens = logits.argmax(axis=-1)
        for row, token in zip(order, tokens, strict=True):
            answers[row].append(int(token))
        if len(answers[2]) == ANSWER:
            break
        alive = [place for place, row in enumerate(order) if len(answers[row]) < ANSWER]
        if len(alive) < len(order):
            backend.select(np.array(alive))
            backend.drop_padding()
            order = [order[place] for place in alive]
        logits = backend.decode(tokens[alive])
        if step == 1:  # shorter than what is held, then longer
            logits = np.concatenate([logits, add_rows(backend, *row_of(prompts[1]))])
            order.append(1)
        if step == 4:
            logits = np.concatenate([logits, add_rows(backend, *row_of(prompts[2]))])
            order.append(2)
    assert answers == dict(enumerate(alone))
    # Columns of rows that left are gone: the last row has as many as its own tokens.
    assert backend._ids.shape[1] == len(prompts[2]) + ANSWER - 1
    assert backend._cache.own_length == backend._ids.shape[1]


def test_a_join_that_fails_leaves_the_others_as_they_were(backend):
    prompt = prompts_for(backend)[0]
    backend.prefill(*row_of(prompt))
    expected = backend.decode(np.array([7]))
    backend.prefill(*row_of(prompt))
    with pytest.raises(InputError, match="vocabulary"):
        add_rows(backend, *row_of([10**6]))
    assert (backend.decode(np.array([7])) == expected).all()


def test_prompts_read_in_pieces_behind_what_a_row_left(backend):
    """Logits are those of the whole prompts at once, and the current rows go on as if nothing happened."""
    if not backend.family.is_causal:
        pytest.skip("its prompts are read whole")
    short, long, earlier = (
        row_of(list(range(first, first + size))) for first, size in ((20, 4), (30, 9), (30, 7))
    )
    padded = np.stack([np.pad(short[0][0], (5, 0)), long[0][0]])
    mask = np.stack([np.pad(short[1][0], (5, 0)), long[1][0]])
    expected = np.concatenate([backend.prefill(*short), backend.prefill(*long)])
    alone = [backend.prefill(*earlier), backend.decode(np.array([8]))]
    backend.prefill(padded, mask)
    left = backend.row_cache(1)
    assert left.nbytes > 0 and left.common_length(long[0][0]) == 8
    logits = backend.prefill(*earlier)
    reading = backend.start_reading(padded, mask)
    assert backend.read(reading, 2) is None and backend.read(reading, 5) is None
    together = backend.read(reading, 5)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    reused = backend.start_reading(*long, left)
    assert reused.columns_read == 8
    np.testing.assert_allclose(backend.read(reused, 5), expected[1:], atol=1e-5)
    np.testing.assert_array_equal(logits, alone[0])
    backend.join(reading)
    backend.join(reused)
    continued = backend.decode(np.array([8, 9, 9, 9]))
    np.testing.assert_allclose(continued[:1], alone[1], atol=1e-5)
    np.testing.assert_allclose(continued[2], continued[3], atol=1e-5)
    np.testing.assert_allclose(continued[1], backend.prefill(*row_of([20, 21, 22, 23, 9]))[0], atol=1e-5)
