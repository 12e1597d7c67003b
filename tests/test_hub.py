"""Names of models: folders as they are, hubs' names fetched by the hubs' own packages, or said how."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddle_glm import hub
from paddle_glm.checkpoint import open_checkpoint, save_checkpoint
from paddle_glm.errors import InputError
from paddle_glm.main import main
from tests.hub_server import COMMIT, serve_hub

NAME = "THUDM/chatglm2-6b"
ENDPOINTS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}


def fetch(home: Path, address: str, *arguments: object, **more: str) -> subprocess.CompletedProcess:
    """`resolve_model_folder` in its own process: the packages read the environment when imported."""
    code = f"from paddle_glm.hub import resolve_model_folder\nprint(resolve_model_folder(*{arguments!r}))"
    environment = {**os.environ, **dict.fromkeys(ENDPOINTS.values(), address), **more}
    environment |= {"HF_HOME": str(home / "hf"), "MODELSCOPE_CACHE": str(home / "ms"), "HOME": str(home)}
    words = [sys.executable, "-c", code]
    return subprocess.run(words, env=environment, cwd=home, text=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def published(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is on a hub: weights twice, in an older format too, and code."""
    folder = tmp_path_factory.mktemp("published") / "model"
    shutil.copytree(tiny_checkpoint, folder)
    checkpoint = open_checkpoint(folder)
    tensors = [(name, checkpoint.read(name)) for name in checkpoint.names()]
    save_checkpoint(folder, tensors, file_format="bin")
    for path in (folder / "manifest.json", *folder.glob(".*")):  # what we alone write
        path.unlink()
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('executed')\n")
    (folder / "MODEL_LICENSE").write_text("a licence\n")
    return folder


@pytest.mark.parametrize("source", ENDPOINTS)
def test_a_model_is_fetched_by_the_hubs_own_package(source: str, published: Path, tmp_path: Path) -> None:
    there = NAME if source == "huggingface" else "ZhipuAI/chatglm2-6b"
    with serve_hub({there: published}) as (address, requested):
        done = fetch(tmp_path, address, NAME, source)
        assert done.returncode == 0, done.stderr
        assert sorted(set(requested)) == sorted(
            path.name for path in published.iterdir() if path.suffix not in (".bin", ".py")
        )
        requested.clear()
        again = fetch(tmp_path, address, NAME, source)
        assert again.returncode == 0 and not requested, "what is there is not fetched again"
    folder = Path(done.stdout.splitlines()[-1])
    assert folder == Path(again.stdout.splitlines()[-1]) and folder.is_relative_to(tmp_path)
    ours, theirs = open_checkpoint(folder), open_checkpoint(published)
    ours.validate()
    for name in theirs.names():
        np.testing.assert_array_equal(ours.read(name), theirs.read(name))


def test_older_weights_are_fetched_where_there_are_no_safetensors(published: Path, tmp_path: Path) -> None:
    older = shutil.copytree(published, tmp_path / "older", ignore=shutil.ignore_patterns("*.safetensors"))
    with serve_hub({NAME: older}) as (address, requested):
        done = fetch(tmp_path, address, NAME, True, "v1")
    assert done.returncode == 0, done.stderr
    assert "pytorch_model.bin" in requested and "modeling_chatglm.py" not in requested
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.name == COMMIT
    open_checkpoint(folder).validate()


@pytest.mark.parametrize("source", ENDPOINTS)
def test_a_failed_fetch_is_said_in_a_line(source: str, published: Path, tmp_path: Path) -> None:
    with serve_hub({"other/model": published}) as (address, _):
        done = fetch(tmp_path, address, NAME, source)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    other = "modelscope" if source == "huggingface" else "huggingface"
    assert re.search(rf"InputError: .*/chatglm2-6b could not be downloaded.*--download {other}", last), last


def test_true_means_the_hub_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(hub, "_download", lambda *arguments: asked.append(arguments) or tmp_path)
    assert hub.resolve_model_folder(NAME, True) == tmp_path
    monkeypatch.setenv(hub.HUB_VARIABLE, "modelscope")
    hub.resolve_model_folder(NAME, "true", "v1.0", tmp_path)
    assert asked == [("huggingface", NAME, None, None), ("modelscope", NAME, "v1.0", tmp_path)]
    monkeypatch.setenv(hub.HUB_VARIABLE, "gitee")
    with pytest.raises(InputError, match="PADDLE_GLM_HUB=gitee: expected one of huggingface, modelscope"):
        hub.resolve_model_folder(NAME, True)


def test_a_folder_wins_and_holds_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert hub.resolve_model_folder(NAME, True, "main") == Path(NAME)
    with pytest.raises(InputError, match=r"revision 'v0.1.0': THUDM/chatglm2-6b is a local folder"):
        hub.resolve_model_folder(NAME, revision="v0.1.0")


def test_what_is_no_hubs_name_is_left_to_the_caller(tmp_path: Path) -> None:
    for name in (tmp_path / "missing", "missing", "./a/b", "a/b/c"):
        assert hub.resolve_model_folder(name) == Path(name)
    with pytest.raises(InputError, match=r"missing is not a hub name: expected OWNER/MODEL"):
        hub.resolve_model_folder("missing", "modelscope")
    with pytest.raises(InputError, match="download 'gitee': expected one of huggingface, modelscope"):
        hub.resolve_model_folder(NAME, "gitee")


def commands_in(text: str) -> list[list[str]]:
    return [shlex.split(words) for words in re.findall(r"`([^`]+)`", text)]


def test_the_commands_that_are_named_hold_the_revision() -> None:
    with pytest.raises(InputError, match="is not a local folder") as caught:
        hub.resolve_model_folder(NAME, revision="v1.0")
    first, second = commands_in(str(caught.value))
    assert first == ["hf", "download", NAME, "--revision", "v1.0", "--local-dir", NAME]
    assert second[:4] == ["modelscope", "download", "--model", "ZhipuAI/chatglm2-6b"]
    assert second[4:] == ["--revision", "v1.0", "--local_dir", NAME]


@pytest.mark.parametrize("source", ENDPOINTS)
def test_the_commands_that_are_named_fetch(source: str, published: Path, tmp_path: Path) -> None:
    there = NAME if source == "huggingface" else "ZhipuAI/chatglm2-6b"
    with pytest.raises(InputError) as caught:
        hub.resolve_model_folder(NAME)
    words = commands_in(str(caught.value))[list(ENDPOINTS).index(source)]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}
    with serve_hub({there: published}) as (address, _):
        environment |= dict.fromkeys(ENDPOINTS.values(), address)
        program = str(Path(sys.executable).parent / words[0])
        done = subprocess.run(
            [program, *words[1:]], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    open_checkpoint(tmp_path / NAME).validate()


@pytest.mark.parametrize(
    "words",
    [
        ["chat"],
        ["serve"],
        ["web"],
        ["predict"],
        ["merge", "--merge_model_path", "out"],
        ["convert", "--output_path", "out"],
        ["quantize", "--output_path", "out"],
        ["export", "--output_path", "out"],
        ["evaluate", "--data_file", "rows.json", "--output_dir", "out"],
        ["finetune", "--task_name_or_path", "rows", "--output_dir", "out", "--do_train"],
        ["ptuning", "--do_train", "--train_file", "rows.json", "--output_dir", "out"],
        ["ptuning", "--do_predict", "--test_file", "rows.json", "--output_dir", "out"],
    ],
    ids=" ".join,
)
def test_every_command_says_how_to_fetch(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--model_name_or_path", NAME]) == 2
    error = capfd.readouterr().err
    assert "THUDM/chatglm2-6b is not a local folder. Download it with `hf download" in error
    assert "`modelscope download --model ZhipuAI/chatglm2-6b" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_every_command_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(hub, "_download", lambda *arguments: asked.append(arguments) or tiny_checkpoint)
    flags = ["--model_name_or_path", NAME, "--download", "modelscope", "--revision", "v1"]
    assert main(["convert", *flags, "--output_path", str(tmp_path / "out")]) == 0
    open_checkpoint(tmp_path / "out").validate()
    missing = ["--task_name_or_path", "missing", "--output_dir", "trained", "--do_train", "--device", "cpu"]
    assert main(["finetune", *flags, *missing]) == 2
    assert "missing" in capfd.readouterr().err
    assert asked == [("modelscope", NAME, "v1", None)] * 2
