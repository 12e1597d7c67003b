"""A request whose keys and values do not fit into memory is refused before its prompt is computed."""

import threading
from pathlib import Path

import numpy as np
import pytest

from paddle_glm import hardware
from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.engine import Engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.load_memory import CACHE_TOKENS, SKIP_VARIABLE
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.serving.batching.scheduler import Scheduler

PROMPT = [5, 6, 7, 8]


def per_token(config: ModelConfig) -> int:
    return 2 * config.num_layers * config.num_key_value_heads * config.head_dim * 4


@pytest.fixture(scope="module", params=["dygraph", "paddle", "onnxruntime"])
def backend(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> KVCacheBackend:
    model = AutoModel.from_pretrained(tiny_checkpoint)
    if request.param == "dygraph":
        return DygraphBackend(model)
    format = "onnx" if request.param == "onnxruntime" else "paddle"
    out = tmp_path_factory.mktemp("graph") / "exported"
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), out, format=format)
    return open_backend(request.param, out)


@pytest.fixture
def leave_tokens(backend: KVCacheBackend, monkeypatch: pytest.MonkeyPatch):
    """Pretends that so many tokens' keys and values are free beside what the cache holds."""

    def leave(tokens: int) -> None:
        size = tokens * per_token(backend.config) * backend.cache_copies
        monkeypatch.setattr(hardware, "free_cpu_memory", lambda: size - backend._cache.nbytes)

    return leave


def greedy(tokens: int | None, **params: int) -> GenerationParams:
    return GenerationParams(do_sample=False, max_new_tokens=tokens, **params)


def test_what_was_asked_for_has_to_fit(backend: KVCacheBackend, leave_tokens) -> None:
    expected = generate_batch(backend, [PROMPT] * 2, greedy(9))
    leave_tokens(2 * (len(PROMPT) + 9))
    assert generate_batch(backend, [PROMPT] * 2, greedy(9)) == expected
    held = backend._cache
    for params in (greedy(10), greedy(6, num_beams=3)):
        with pytest.raises(InputError, match=r"cache of \d x \d+ tokens needs .*are free: use a shorter"):
            generate_batch(backend, [PROMPT] * 2, params)
    assert backend._cache is held  # nothing was computed


def test_an_answer_of_unknown_length_needs_what_opening_kept_free(
    backend: KVCacheBackend, leave_tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ChatGLM2's default of 8192 tokens would refuse short questions on small machines."""
    most = min(backend.config.max_sequence_length, len(PROMPT) + CACHE_TOKENS)
    leave_tokens(most)
    backend.check_cache_fits(1, len(PROMPT), None)
    leave_tokens(most - 1)
    with pytest.raises(InputError, match=f"cache of 1 x {most} tokens"):
        backend.check_cache_fits(1, len(PROMPT), None)
    monkeypatch.setenv(SKIP_VARIABLE, "1")
    backend.check_cache_fits(1, len(PROMPT), None)


def test_memory_that_runs_out_ends_an_answer_with_an_error(backend: KVCacheBackend, leave_tokens) -> None:
    ids = np.array([PROMPT * 31])
    backend.prefill(ids, np.ones_like(ids))
    leave_tokens(129)
    for token in range(4):
        backend.decode(np.array([30 + token]))
    with pytest.raises(InputError, match="cache of 1 x 256 tokens"):
        backend.decode(np.array([40]))


class Collector:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.error: Exception | None = None
        self.ended = threading.Event()

    def on_token(self, token: int, logprobs: object) -> bool:
        self.tokens.append(token)
        return True

    def on_finished(self) -> None:
        self.ended.set()

    def on_failed(self, error: Exception) -> None:
        self.error = error
        self.ended.set()


def test_a_server_lets_requests_wait_for_memory(backend: KVCacheBackend) -> None:
    params = greedy(12)
    [alone] = generate_batch(backend, [PROMPT], params)
    most: list[int] = []
    decode = backend.decode

    def counted(tokens: np.ndarray) -> np.ndarray:
        most.append(len(tokens))
        return decode(tokens)

    if isinstance(backend, DygraphBackend):  # four pages, and a third for reading a prompt of 128 tokens
        limit, together, longest = 6 * 64 * per_token(backend.config), 4, 128
    else:
        together, longest = 2, 2 * (len(PROMPT) + 12)
        limit = longest * per_token(backend.config) * backend.cache_copies
    scheduler = Scheduler(
        lambda: Engine(backend, None, GenerationParams()), cache_memory=limit, prefix_memory=0
    )
    backend.decode = counted  # type: ignore[method-assign]
    try:
        listeners = [Collector() for _ in range(5)]
        for listener in listeners:
            scheduler.submit(PROMPT, params, listener)
        with pytest.raises(InputError, match=f"has memory for {longest} tokens of a request"):
            scheduler.submit(PROMPT * 32, params, Collector())
        for listener in listeners:
            assert listener.ended.wait(60)
    finally:
        scheduler.close()
    assert [listener.tokens for listener in listeners] == [alone] * 5
    assert all(listener.error is None for listener in listeners)
    assert max(most) == together
