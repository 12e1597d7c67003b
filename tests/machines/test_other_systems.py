"""Windows and macOS, as far as Linux can pretend to be them: `simulate` says how."""

import ast
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_glm import system
from paddle_glm.checkpoint import atomic_folder, is_complete
from paddle_glm.checkpoint import atomic_save as folders
from paddle_glm.checkpoint.atomic_save import read_manifest, write_manifest
from paddle_glm.errors import InputError
from paddle_glm.main import main
from paddle_glm.training.command_line import read_argument_file
from tests.machines import simulate as simulate_module
from tests.paths import ROOT

SHORT = ("--src_length", "32", "--tgt_length", "4")
TINY = ("--train_rows", "90", "--dev_rows", "4", "--vocab_size", "300", "--hidden_size", "32")
TRAIN = ("--do_train", "--max_steps", "2", "--save_steps", "1", "--logging_steps", "1")
TRAIN += ("--save_total_limit", "1", *SHORT, "--do_generation", "False", "--output_dir")


OURS = f"{ROOT / 'paddle_glm'}{os.sep}"


def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def commands() -> list[tuple[str, ...]]:
    """Everything that needs no second process, and what replaces folders that are there."""
    model, rows = ("--model_name_or_path", "demo/model"), ("--data_file", "demo/data/dev.json")
    finetune = ("finetune", "--task_name_or_path", "demo/data", *model, *TRAIN)
    return [
        ("tiny", "--output_dir", "demo", *TINY),
        ("convert", *model, "--output_path", "demo/shards", "--tensor_parallel_degree", "2"),
        ("merge", "--model_name_or_path", "demo/shards", "--merge_model_path", "demo/merged"),
        ("merge", "--model_name_or_path", "demo/shards", "--merge_model_path", "demo/merged", "--overwrite"),
        (
            "convert",
            *model,
            "--output_path",
            "demo/model",
            "--overwrite",
            "--dtype",
            "float32",
        ),  # onto itself
        ("quantize", *model, "--bits", "8", "--output_path", "demo/int8"),
        ("verify", "demo/merged", "--nan"),
        (*finetune, "demo/sft", "--overwrite_output_dir"),
        (*finetune, "demo/sft", "--overwrite_output_dir"),
        (*finetune, "demo/lora", "--lora", "True"),
        ("merge-lora", *model, "--lora_path", "demo/lora", "--merge_model_path", "demo/lora_merged"),
        ("plot", "--log", "demo/sft", "--output", "demo/loss.png"),
        ("predict", *model, *rows, "--predict_file", "demo/answers.json", *SHORT),
        ("evaluate", *model, *rows, "--output_dir", "demo/scores", "--limit", "2", *SHORT),
        ("export", *model, "--output_path", "demo/exported"),
        ("export", *model, "--output_path", "demo/exported", "--overwrite"),
        ("infer", "--model_path", "demo/exported", "--prompt", "你好", *SHORT[2:]),
        ("chat", *model, "--max_new_tokens", "2"),
        ("serve", "--model_path", "demo/exported", "--port", port()),
        ("estimate-memory", "--model", "demo/model"),
    ]


def simulate(platform: str, words: list[tuple[str, ...]], cwd: Path, **variables: str) -> str:
    """What a simulated system printed while it ran commands, all of which succeeded."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "tests.machines.simulate", platform],
        input=json.dumps(words).encode(),
        cwd=cwd,
        env=environment,
        capture_output=True,
        timeout=600,
    )
    printed, errors = done.stdout.decode("utf-8"), done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, (printed[-3000:], errors[-3000:])
    codes = re.findall(r"^ran ([\w-]+): (\d+)", printed, re.MULTILINE)
    assert codes == [(one[0], "0") for one in words], (printed[-3000:], errors[-3000:])
    assert "left over: []" in printed, printed[-500:]
    warned = [line for line in errors.splitlines() if "EncodingWarning" in line and OURS in line]
    assert warned == []
    return printed


def test_windows_runs_every_command_of_one_process(tmp_path):
    """In a code page without Chinese, and with every file opened in an encoding that is named."""
    printed = simulate(
        "win32", commands(), tmp_path, PYTHONIOENCODING="cp1252:strict", PYTHONWARNDEFAULTENCODING="1"
    )
    assert "served 200" in printed and "ChatGLM：" in printed


def test_macos_trains_exports_and_answers(tmp_path):
    wanted = ("tiny", "convert", "finetune", "export", "infer", "chat")
    simulate(
        "darwin",
        [words for words in commands() if words[0] in wanted],
        tmp_path,
    )


@pytest.mark.parametrize("command", ["finetune", "predict"])
def test_several_processes_are_refused(command, tiny_checkpoint, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(system, "LINUX", False)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    words = [command, "--model_name_or_path", str(tiny_checkpoint)]
    words += {
        "finetune": ["--task_name_or_path", str(tmp_path), "--output_dir", str(tmp_path / "out")],
        "predict": ["--data_file", str(tmp_path / "train.json")],
    }[command]
    (tmp_path / "train.json").write_text('{"content": "一", "summary": "二"}\n', encoding="utf-8")
    assert main(words) == 2
    assert "distributed runs need Linux" in capfd.readouterr().err


def test_a_file_in_use_is_waited_for(monkeypatch):
    monkeypatch.setattr(system, "WINDOWS", True)
    monkeypatch.setattr(system, "FILE_IN_USE_TIMEOUT", 60.0)  # collecting garbage takes seconds under load
    failures = iter([PermissionError(), PermissionError()])

    def rename(name: str) -> str:
        for failure in failures:
            raise failure
        return name

    assert system.retry_while_in_use(rename, "done") == "done"
    monkeypatch.setattr(system, "FILE_IN_USE_TIMEOUT", 0.0)
    with pytest.raises(PermissionError):
        system.retry_while_in_use(refuse)


def test_what_was_written_is_kept_where_the_target_is_in_use(monkeypatch, tmp_path):
    target = tmp_path / "model"
    make_folder(target, "old")
    monkeypatch.setattr(folders, "_swap_folders", refuse)
    with pytest.raises(InputError, match=r"model cannot be replaced.* complete in .*model\.new:"):
        make_folder(target, "new")
    assert (target / "weights").read_text() == "old" and is_complete(target)
    assert (tmp_path / "model.new" / "weights").read_text() == "new" and is_complete(tmp_path / "model.new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.new"]


def refuse(*_: object) -> None:
    raise PermissionError(13, "in use")


def test_a_replaced_folder_comes_back_where_the_new_one_cannot_take_its_place(monkeypatch, tmp_path):
    """Without a system call that swaps two folders: the second of three renames fails."""
    monkeypatch.setattr(folders, "c_library", lambda: None)
    make_folder(tmp_path / "model", "old")
    rename, calls = os.rename, []

    def fails_once(source: os.PathLike, target: os.PathLike) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        make_folder(tmp_path / "model", "new")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_writer_left_between_two_renames_is_in_nobodys_way(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "c_library", lambda: None)
    make_folder(tmp_path / "model", "old")
    shutil.copytree(tmp_path / "model", tmp_path / ".model.previous")
    make_folder(tmp_path / "model", "new")
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def make_folder(target: Path, text: str) -> None:
    with atomic_folder(target, overwrite=True) as folder:
        (folder / "weights").write_text(text)


# Modules and functions that Windows lacks; `system` alone may use them.
LACKING = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog"}
LACKING |= {f"os.{name}" for name in simulate_module.UNIX_OS_ATTRIBUTES} | {
    "os.geteuid",
    "os.mkfifo",
    "os.chown",
    "os.wait",
}
LACKING |= {
    "signal.SIGKILL",
    "signal.SIGHUP",
    "signal.SIGALRM",
    "signal.pthread_kill",
    "sys.platform",
    "os.name",
}


@pytest.mark.parametrize("path", sorted((ROOT / "paddle_glm").rglob("*.py")), ids=lambda path: path.stem)
def test_what_a_system_lacks_is_used_in_one_place(path):
    if path.name == "system.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    used |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    used |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & LACKING


@pytest.mark.parametrize("value", ["demo\\data", "'demo\\data'"])
def test_paths_in_yaml_may_have_backslashes(value, tmp_path):
    recipe = tmp_path / "run.yaml"
    recipe.write_text(f"task_name_or_path: {value}\n", encoding="utf-8")
    assert read_argument_file(recipe) == ["--task_name_or_path", "demo\\data"]


def test_what_is_saved_names_files_with_slashes(tiny_checkpoint, tmp_path):
    assert (
        main(
            [
                "convert",
                "--model_name_or_path",
                str(tiny_checkpoint),
                "--output_path",
                str(tmp_path / "a"),
                "--max_shard_size",
                "100KB",
            ]
        )
        == 0
    )
    for path in (tmp_path / "a").glob("*.json"):
        assert "\\\\" not in path.read_text(encoding="utf-8"), path.name
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "deep" / "file").write_text("x", encoding="utf-8")
    write_manifest(tmp_path / "a")
    assert "deep/file" in (read_manifest(tmp_path / "a") or {})
