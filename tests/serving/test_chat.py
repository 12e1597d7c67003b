"""`paddle-glm chat --api_base` in a process of its own, in which Paddle cannot be imported."""

import os
import re
import subprocess
import sys

import pytest

from paddle_glm.main import main
from tests.paths import ROOT
from tests.serving.scripted_server import scripted_server

WITHOUT = "import sys; sys.modules[{!r}] = None; from paddle_glm.main import main; sys.exit(main())"
QUESTIONS = "你好\n类型#裤\nclear\n你好\nstop\n"
GREEDY = ["--do_sample", "False", "--max_new_tokens", "12"]


def chat(*flags, questions="", key=None, missing="paddle"):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    environment.pop("OPENAI_API_KEY", None)
    if key is not None:
        environment["OPENAI_API_KEY"] = key
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing), "chat", *flags],
        input=questions,
        env=environment,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )


def answers(output):
    return re.findall("ChatGLM：(.*?)\n\n?用户", output, re.DOTALL)


def test_the_same_words_as_locally(server, tiny_checkpoint):
    remote = chat("--api_base", f"{server}/v1", *GREEDY, questions=QUESTIONS)
    assert remote.returncode == 0, remote.stderr
    local = subprocess.run(
        [sys.executable, "-m", "paddle_glm.main", "chat", "--model_path", str(tiny_checkpoint), *GREEDY],
        input=QUESTIONS,
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert len(answers(remote.stdout)) == 3
    assert answers(remote.stdout) == answers(local.stdout)


def one_line(done):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("paddle-glm: error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_errors_are_one_line(server):
    assert "cannot be reached" in one_line(chat("--api_base", "http://127.0.0.1:9/v1"))
    assert "'gpt' is not among them" in one_line(chat("--api_base", f"{server}/v1", "--model", "gpt"))
    assert "end in /v1" in one_line(chat("--api_base", server))
    assert "OpenAI protocol has no beam search" in one_line(
        chat("--api_base", f"{server}/v1", "--num_beams", "3")
    )
    long = chat("--api_base", f"{server}/v1", questions="长" * 3000)
    assert "leaves no room" in one_line(long)


def test_a_package_that_is_missing_is_named():
    error = one_line(chat("--api_base", "http://127.0.0.1:9/v1", missing="httpx"))
    assert "httpx is missing: pip install" in error and "[serve]" in error


def test_the_key_goes_to_the_server_and_nowhere_else():
    with scripted_server() as (address, script):
        script.status = 401
        script.chunks = [b'{"error": {"message": "wrong key sk-hidden"}}']
        given = chat("--api_base", address, key="sk-hidden")
        assert "(is the key right?)" in one_line(given)
        assert "sk-hidden" not in given.stdout + given.stderr
        assert script.requests[-1][1]["Authorization"] == "Bearer sk-hidden"
        assert "set OPENAI_API_KEY" in one_line(chat("--api_base", address))
        assert "Authorization" not in script.requests[-1][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [([], "give --model_name_or_path FOLDER or --api_base URL"),
     (["--model_path", "a", "--api_base", "b"], "one of them"),
     (["--api_base", "http://127.0.0.1:9/v1", "--dtype", "float16"], "--dtype float16: it has no meaning"),
     (["--model_path", "a", "--model", "b"], "--model b: it has no meaning"),
     (["--api_base", "http://127.0.0.1:9/v1", "--temperature", "-1"], "temperature is -1.0")],
)  # fmt: skip
def test_flags_that_do_not_fit(flags, message, capsys):
    assert main(["chat", *flags]) == 2
    assert message in capsys.readouterr().err
