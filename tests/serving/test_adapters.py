"""Several adapters of one model, LoRA's and prefixes, chosen by `model` for each request."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from paddle_glm.auto.dygraph import check_adapters
from paddle_glm.auto.engine import open_engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import save_checkpoint
from paddle_glm.errors import InputError
from paddle_glm.generation import ChatSession, GenerationParams, generate_batch
from paddle_glm.main import main
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.serving.batching import admission
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.client import OpenAIClient, choose_models
from paddle_glm.serving.pages.chat_provider import local_provider
from tests.peft.test_lora import peft_folder, random_pair
from tests.serving.conftest import GREEDY, start_server
from tests.serving.test_prompt_reading import LONG, Recorder, ask

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "类型#裤*版型#宽松"}]
SHORT = GenerationParams(do_sample=False, max_new_tokens=12)
PREFIXES = {"shop": 3, "blog": 70}  # tokens


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory):
    model, found = open_engine(tiny_checkpoint).backend.model, {}
    for seed, name in enumerate(("ads", "poems")):
        layers = [
            f"transformer.encoder.layers.{number}.{layer}"
            for number in range(2)
            for layer in ("self_attention.query_key_value", "mlp.dense_4h_to_h")
        ]
        pairs = {layer: random_pair(model, 4, layer, 10 * seed + place) for place, layer in enumerate(layers)}
        found[name] = peft_folder(tmp_path_factory.mktemp("adapters") / name, pairs, lora_alpha=40)
    for name, length in PREFIXES.items():
        found[name] = tmp_path_factory.mktemp("prefixes") / name
        prefix = attach_prefix(AutoModel.from_pretrained(tiny_checkpoint), length, False, seed=length)
        prefix.save_pretrained(found[name])
    return found


def open_alone(checkpoint, folders, name):
    """The model with nothing but this adapter."""
    flag = "ptuning_checkpoint" if name in PREFIXES else "lora_path"
    return open_engine(checkpoint, **{flag: folders.get(name)})


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, folders):
    """What each model answers to `QUESTION` in a session of its own."""
    found = {}
    for name in (tiny_checkpoint.name, *folders):
        engine = open_alone(tiny_checkpoint, folders, name)
        found[name] = (
            ChatSession(engine.backend, engine.tokenizer, SHORT).answer(QUESTION).messages[0]["content"]
        )
    assert len(set(found.values())) == 5
    return found


@pytest.fixture(scope="module")
def address(tiny_checkpoint, folders):
    flags = [f"{name}={folder}" for name, folder in folders.items()]
    process, address = start_server(tiny_checkpoint, "--adapters", *flags)
    yield address
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output, output


def test_requests_choose_by_name(address, expected):
    def answer(name):
        fields = {"model": name} if name else {}
        response = httpx.post(address + PATH, json={"messages": QUESTION, **GREEDY, **fields}, timeout=60)
        body = response.json()
        return body["model"], body["choices"][0]["message"]["content"]

    names = [*expected, None, *expected] * 2
    base = next(iter(expected))
    with ThreadPoolExecutor(8) as pool:  # rows of several adapters run together
        answers = list(pool.map(answer, names))
    assert answers == [(name or base, expected[name or base]) for name in names]


def test_the_list_of_models(address, expected):
    base, *adapters = expected
    listed = httpx.get(address + "/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in listed] == [
        (base, None),
        *((name, base) for name in adapters),
    ]
    assert httpx.get(address + "/v1/models/poems").json() == listed[2]
    assert httpx.get(address + "/v1/models/prose").status_code == 404
    client = OpenAIClient(address + "/v1")
    assert choose_models(client, None) == (base, *adapters)
    assert choose_models(client, "poems") == ("poems", base, "ads", *PREFIXES)
    for path, body in ((PATH, {"messages": QUESTION}), ("/v1/completions", {"prompt": "a"})):
        response = httpx.post(address + path, json={**body, "model": "prose"})
        assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
        assert "'ads', 'poems', 'shop', 'blog'" in response.json()["error"]["message"]


@pytest.fixture
def scheduler(tiny_checkpoint, folders, request):
    """With so many pages of memory, or enough."""
    pages = getattr(request, "param", 1000)
    memory = pages * 2 * 2 * 2 * 64 * 16 * 4  # keys and values of 2 layers, 2 heads
    open_all = partial(open_engine, tiny_checkpoint, adapters=folders)
    scheduler = Scheduler(open_all, prefill_chunk=16, cache_memory=memory, prefix_memory=memory)
    scheduler.observer = Recorder()
    yield scheduler
    scheduler.close()


def test_a_prompt_begins_as_one_of_its_own_adapter(scheduler, tiny_checkpoint, folders):
    """What one adapter has read is not taken for another's; pieces are read with the request's."""

    def alone(name, prompt):
        return generate_batch(open_alone(tiny_checkpoint, folders, name).backend, [prompt], SHORT)[0]

    reused = scheduler.observer.reused
    answers = {None: ask(scheduler, LONG, SHORT).answer()}
    for name in folders:
        answers[name] = ask(scheduler, LONG, SHORT, name).answer()
    assert sum(reused) == 0
    for name, answer in answers.items():
        assert answer == alone(name, LONG)
        following = [*LONG, *answer, 7]
        beside = ask(scheduler, [7, 8, 9], GenerationParams(do_sample=False, max_new_tokens=60), "ads")
        assert beside.started.wait(60)
        assert ask(scheduler, following, SHORT, name).answer() == alone(name, following)
        assert reused[-1] == len(LONG) + len(answer) - 1
        beside.answer()


@pytest.mark.parametrize("scheduler", [12], indirect=True)
def test_rows_that_gave_way_go_on_as_before(scheduler, tiny_checkpoint, folders, monkeypatch):
    """Rows of all adapters begin, but there is no memory for all of their answers."""
    monkeypatch.setattr(admission, "RESERVED_TOKENS", 4)
    preempted = []
    scheduler.observer.on_preempted = lambda: preempted.append(1)
    params, names = GenerationParams(do_sample=False, max_new_tokens=64), (*folders, None)
    answers = [ask(scheduler, LONG[:20], params, name) for name in names]
    for name, answer in zip(names, answers, strict=True):
        backend = open_alone(tiny_checkpoint, folders, name).backend
        assert answer.answer() == generate_batch(backend, [LONG[:20]], params)[0]
    assert preempted


def test_a_page_has_them_beside_each_other(scheduler, expected):
    provider = local_provider(scheduler, SHORT, next(iter(expected)))
    assert provider.models == tuple(expected)
    values, found = {"temperature": 0, "top_p": 0.8, "max_new_tokens": 12}, {}

    def answer(name):
        found[name] = "".join(provider.open(values, name).stream(QUESTION))

    threads = [threading.Thread(target=answer, args=(name,)) for name in provider.models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    with pytest.raises(InputError, match="model 'prose' does not exist: expected one of"):
        provider.open(values, "prose")


def test_graphs_have_none():
    with pytest.raises(InputError, match="the backend onnxruntime runs a graph without adapters"):
        check_adapters("onnxruntime", Path("exported"), {"ads": "folder"})


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["ads"], "'ads': expected NAME=FOLDER"),
        (["a={ads}", "a={poems}"], "the name a is taken"),
        (["glm={ads}"], "the name glm is taken"),
        (["a={ads}/nothing"], "nothing not found: expected the folder of a LoRA adapter or of a prefix"),
        (["a={base}"], "has no prefix: expected tensors transformer.prefix_encoder.*"),
        (["a={other}"], "embedding.weight (3, 99), expected (3, 128)"),
        (["a={ads}", "--lora_path", "{ads}"], "give it to --adapters"),
    ],
)
def test_flags_that_cannot_be(tiny_checkpoint, folders, modules, message, tmp_path, capsys):
    save_checkpoint(
        tmp_path, [("transformer.prefix_encoder.embedding.weight", np.zeros((3, 99), np.float32))]
    )
    flags = [flag.format(**folders, base=tiny_checkpoint, other=tmp_path) for flag in modules]
    command = ["serve", "--model_path", str(tiny_checkpoint), "--served_model_name", "glm", "--port", "0"]
    assert main([*command, "--lora_modules", *flags]) == 2  # vLLM's name of --adapters
    assert message in capsys.readouterr().err
