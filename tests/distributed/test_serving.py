"""`tools/api.py` under the launcher: one server over all ranks, which answers as one process does."""

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.engine import open_engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.main import main
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.distributed.launch import serving

PATH = "/v1/chat/completions"
QUESTIONS = ["你好", "类型#裤*版型#宽松*" * 20, "再见，明天见", "类型#裙", "颜色#白色*风格#简约*" * 6, "a"]


@pytest.fixture(scope="module")
def adapters(tiny_checkpoint, tmp_path_factory):
    """Folders of LoRA adapters and of two prefixes, with random numbers."""
    folder = tmp_path_factory.mktemp("adapters")
    lora = attach_lora(AutoModel.from_pretrained(tiny_checkpoint), LoraConfig(rank=4), seed=1)
    random = np.random.default_rng(5)
    lora.load_arrays(
        {lora.file_names[name]: random.normal(0, 0.1, spec.shape) for name, spec in lora.specs.items()}
    )
    found = {"lora": lora}
    for length in (3, 66):
        model = AutoModel.from_pretrained(tiny_checkpoint)
        found[str(length)] = attach_prefix(model, length, projection=length == 3, seed=1)
    for name, adapter in found.items():
        (folder / name).mkdir()
        adapter.save(folder / name)
    return [str(folder / name) for name in found]


def asking(text, **fields):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def answers_alone(folder, **options):
    """Of a session in this process."""
    engine = open_engine(folder, **options)
    params = GenerationParams(do_sample=False, max_new_tokens=12)
    session = ChatSession(engine.backend, engine.tokenizer, params)
    return [visible_text(session.answer([{"role": "user", "content": text}]).messages) for text in QUESTIONS]


def answers_of(address, *models):
    """Each model's answers to all questions, asked at the same time."""

    def ask(asked):
        text, model = asked
        body = httpx.post(address + PATH, json=asking(text, max_tokens=12, model=model), timeout=120).json()
        return body["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [(text, model) for text in QUESTIONS for model in models]))
    return [answers[index :: len(models)] for index in range(len(models))]


def leave_in_mid_answer(address):
    request = asking("你好", max_tokens=1500, stream=True)
    with httpx.stream("POST", address + PATH, json=request, timeout=120) as response:
        next(response.iter_bytes())
    end = time.monotonic() + 60
    while httpx.get(address + "/ready").json()["running"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def check_stops(launcher, address, ranks):
    """SIGTERM in mid-answer: the answer is completed, then all ranks and the port are gone."""
    request = asking("你好", max_tokens=200, stream=True)
    with httpx.stream("POST", address + PATH, json=request, timeout=120) as response:
        lines = response.iter_lines()
        next(lines)
        launcher.terminate()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert psutil.wait_procs(ranks, timeout=60)[1] == []
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", httpx.URL(address).port), timeout=5)


def ranks_of(launcher):
    """The processes that the launcher started, by rank."""
    ranks = {}
    for process in psutil.Process(launcher.pid).children():
        ranks[int(process.environ()["PADDLE_TRAINER_ID"])] = process
    return [ranks[rank] for rank in sorted(ranks)]


def test_two_ranks_answer_as_one_process(tiny_checkpoint, adapters, tmp_path):
    lora, prefix, other = adapters
    options = {"quantization_bit": 8, "ptuning_checkpoint": prefix}
    expected = [
        answers_alone(tiny_checkpoint, **options),
        answers_alone(tiny_checkpoint, **options, lora_path=lora),
        answers_alone(tiny_checkpoint, quantization_bit=8, ptuning_checkpoint=other),
    ]
    flags = ["--quantization_bit", "8", "--ptuning_checkpoint", prefix]
    flags += ["--adapters", f"shop={lora}", f"ads={other}"]
    flags += ["--prefill_chunk", "16", "--cache_memory", "0.0006"]  # less than the answers together leave
    models = tiny_checkpoint.name, "shop", "ads"
    with serving(tiny_checkpoint, 2, tmp_path, *flags) as (launcher, address):
        ranks = ranks_of(launcher)
        assert answers_of(address, *models) == expected
        leave_in_mid_answer(address)
        assert answers_of(address, *models) == expected
        [reused] = re.findall(
            r"\npaddle_glm_prefix_cache_hit_tokens_total (\S+)", httpx.get(address + "/metrics").text
        )
        assert float(reused) > 0
        check_stops(launcher, address, ranks)
    assert all("Traceback" not in (tmp_path / f"workerlog.{rank}").read_text() for rank in range(2))


@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [
        (1, signal.SIGKILL, r"error: rank 1 \(.*\) has ended without a word: killed"),
        pytest.param(0, signal.SIGKILL, "error: rank 0 has ended without a word", marks=pytest.mark.slow),
        pytest.param(
            *(1, signal.SIGSTOP, r"error: rank 1 \(.*\) has not been heard of for 45 s"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_lost_rank_ends_the_server(tiny_checkpoint, tmp_path, rank, how, message):
    """And its clients' answers; the other rank says why."""
    with serving(tiny_checkpoint, 2, tmp_path) as (launcher, address):
        ranks = ranks_of(launcher)
        request = asking("你好", max_tokens=1500, stream=True)
        with (
            pytest.raises(httpx.TransportError),
            httpx.stream("POST", address + PATH, json=request, timeout=120) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            os.kill(ranks[rank].pid, how)
            list(lines)
        assert launcher.wait(timeout=120) != 0
        assert psutil.wait_procs(ranks, timeout=60)[1] == []
    assert re.search(message, (tmp_path / f"workerlog.{1 - rank}").read_text())


def test_what_runs_in_one_process_says_so(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert main(["chat", "--model_name_or_path", str(tiny_checkpoint)]) == 2
    assert "have the launcher start tools/api.py" in capsys.readouterr().err
    (tmp_path / "generation_meta.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="runs in one process, but the launcher started 2"):
        open_backend("onnxruntime", tmp_path)


@pytest.mark.slow
def test_four_ranks_with_two_groups_of_keys(tiny_rows, tmp_path):
    texts = [text for row in tiny_rows for text in row.values()]
    folder, flags = tmp_path / "model", {"quantization_bit": 4, "quantization_group_size": 16}
    write_checkpoint(folder, texts, vocab_size=512, num_layers=2, hidden_size=128, ffn_hidden_size=256)
    expected = answers_alone(folder, **flags)
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with serving(folder, 4, tmp_path / "logs", *words) as (launcher, address):
        ranks = ranks_of(launcher)
        assert answers_of(address, folder.name) == [expected]
        check_stops(launcher, address, ranks)
