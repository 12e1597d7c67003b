"""Flags of the commands that open a model: web_demo.sh's, and those that would have no effect."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.main import main
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.serving.http.address import bind
from tests.paths import ROOT

# ptuning/web_demo.sh of THUDM/ChatGLM2-6B, and ChatGLM-6B's flag; the length is the small prefix's.
WEB_DEMO = """--model_name_or_path THUDM/chatglm2-6b
    --ptuning_checkpoint output/adgen-chatglm2-6b-pt-8-2e-2/checkpoint-3000
    --pre_seq_len 8 --quantization_bit 4"""


@pytest.fixture(scope="module")
def workplace(tiny_checkpoint, tiny_rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "THUDM").mkdir()
    (folder / "THUDM" / "chatglm2-6b").symlink_to(tiny_checkpoint)
    checkpoint = folder / "output" / "adgen-chatglm2-6b-pt-8-2e-2" / "checkpoint-3000"
    checkpoint.mkdir(parents=True)
    attach_prefix(AutoModel.from_pretrained(tiny_checkpoint), 8, projection=False).save(checkpoint)
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in tiny_rows[:4]]
    (folder / "dev.json").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def test_web_demo_sh_starts(workplace):
    pytest.importorskip("gradio", reason="gradio is not installed (extra `web`)")
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    command = [sys.executable, str(ROOT / "tools" / "web_demo.py"), *WEB_DEMO.split(), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(900):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
                return
            except httpx.ConnectError:
                time.sleep(0.1)
        raise AssertionError("the page did not start")
    finally:
        process.terminate()
        process.wait(timeout=120)


MODEL = "--model_name_or_path THUDM/chatglm2-6b"
ROWS = f"{MODEL} --data_file dev.json --tgt_length 4"


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (
            "web",
            WEB_DEMO.replace("_len 8", "_len 128"),
            "a prefix of 8 tokens, not 128: give --pre_seq_len 8",
        ),
        ("web", f"{MODEL} --pre_seq_len 128", "--pre_seq_len 128 says how long the prefix in --ptuning"),
        ("chat", WEB_DEMO.replace("_len 8", "_len 7"), "a prefix of 8 tokens, not 7"),
        ("predict", f"{ROWS} {WEB_DEMO.replace('_len 8', '_len 9')}", "a prefix of 8 tokens, not 9"),
        ("web", "--api_base http://127.0.0.1:9/v1 --pre_seq_len 8", "--pre_seq_len 8: it has no meaning"),
        ("predict", f"{MODEL} --limit 3", "--limit 3 counts rows: give --data_file too"),
        ("predict", f"{ROWS} --top_p 0.5 --do_sample False", "--top_p 0.5 has no effect here"),
        ("predict", f"{ROWS} --length_penalty 2", "it needs --num_beams above 1"),
        ("evaluate", f"{ROWS} --num_beams 2 --temperature 0.5", "--temperature 0.5 has no effect here"),
        (
            "chat",
            f"{MODEL} --fastdeploy_engine openvino",
            "the backend dygraph does not take it, only fastdeploy does",
        ),
        ("chat", f"{MODEL} --device cpu --device_id 1", "it needs a GPU, but --device is cpu"),
        ("chat", f"{MODEL} --quantization_group_size 32", "need quantization_bit"),
        ("infer", "--model_path x --device gpu --cpu_threads 2", "it needs a CPU, but --device is gpu"),
    ],
)
def test_flags_without_an_effect_are_errors(command, flags, message, capfd, tmp_path):
    assert main([command, *flags.split()]) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_exported_folder_has_its_dtype_and_family(workplace, tmp_path, capfd):
    exported = str(tmp_path / "exported")
    assert main(["export", *MODEL.split(), "--output_path", exported]) == 0
    for flags in ("--dtype float16", "--family chatglm3", "--quantization_group_size 32"):
        command = ["predict", "--model_name_or_path", exported, "--data_file", "dev.json"]
        assert main([*command, *flags.split(), "--predict_file", str(tmp_path / "out.json")]) == 2
        error = capfd.readouterr().err
        assert f"{flags}: the backend paddle does not take it, only dygraph does" in error
        assert "give it to `paddle-glm export`" in error


def test_first_rows_and_a_text_in_front(workplace, tmp_path):
    def answered(*flags: str) -> list[dict]:
        out = tmp_path / "out.json"
        assert main(["predict", *ROWS.split(), "--predict_file", str(out), *flags]) == 0
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    whole = answered()
    assert answered("--max_predict_samples", "2") == whole[:2]
    prefixed = answered("--source_prefix", "白色的裙子，" * 4)
    assert [row["output"] for row in prefixed] != [row["output"] for row in whole]
