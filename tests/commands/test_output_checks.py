"""What a command writes at the end of long work is looked at before the work begins."""

import json
import os
import shutil
from pathlib import Path

import pytest

from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.atomic_save import write_manifest
from paddle_glm.checkpoint.output_checks import check_output_file, check_output_folder
from paddle_glm.errors import InputError
from paddle_glm.main import main

COMMANDS = {
    "predict": "predict --model_name_or_path MODEL --data_file ROWS --predict_file TARGET",
    "predict-merge": "predict --model_name_or_path MODEL --merge_tensor_parallel_path TARGET",
    "evaluate": "evaluate --model_name_or_path MODEL --data_file ROWS --output_dir TARGET",
    "export": "export --model_name_or_path MODEL --output_path TARGET",
    "infer": "infer --model_path MODEL --data_file ROWS --output_file TARGET",
    "finetune": "finetune --do_train --model_name_or_path MODEL --task_name_or_path ROWS --output_dir TARGET",
    "merge": "merge --model_name_or_path MODEL --merge_model_path TARGET",
    "convert": "convert --model_name_or_path MODEL --output_path TARGET",
    "quantize": "quantize --model_name_or_path MODEL --output_path TARGET",
    "gptq": "quantize --model_name_or_path MODEL --output_path TARGET --method gptq --calibration_file ROWS",
}
FILES = ("predict", "infer")
# Folders that hold other things already may be written into.
INTO = ("evaluate", "finetune")


@pytest.fixture
def run(tiny_checkpoint, tiny_rows, tmp_path, monkeypatch, capfd):
    """Runs a command with a target; gives the error of one that ends before a weight is read."""
    rows = tmp_path / "rows.json"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in tiny_rows[:4])
    rows.write_text(text, encoding="utf-8")

    def opened(*_, **__):
        raise AssertionError("the model was opened before the target was looked at")

    monkeypatch.setattr("paddle_glm.auto.model.AutoModel.from_pretrained", opened)
    monkeypatch.setattr("paddle_glm.auto.engine.open_engine", opened)
    monkeypatch.setattr("paddle_glm.checkpoint.reshard.save_model", opened)

    def start(command: str, target: Path) -> str:
        values = {"MODEL": str(tiny_checkpoint), "ROWS": str(rows), "TARGET": str(target)}
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert main([values.get(word, word) for word in COMMANDS[command].split()]) == 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        error = capfd.readouterr().err.strip().splitlines()[-1]
        assert str(target) in error or str(target.parent) in error
        return error

    return start


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_where_a_folder_is_needed(run, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in run(command, tmp_path / "file" / "target")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in FILES])
def test_a_file_in_the_place_of_the_folder(run, tmp_path: Path, command: str) -> None:
    (tmp_path / "target").write_text("mine")
    assert "is a file" in run(command, tmp_path / "target")


@pytest.mark.parametrize("command", FILES)
def test_a_folder_in_the_place_of_the_file(run, tmp_path: Path, command: str) -> None:
    (tmp_path / "target").mkdir()
    assert "is a folder: expected a file" in run(command, tmp_path / "target")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in FILES + INTO])
def test_a_folder_that_is_in_use(run, tmp_path: Path, command: str) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("mine")
    assert "exists and is not empty: choose another folder or pass --overwrite" in run(
        command, tmp_path / "target"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_without_permission(run, tmp_path: Path, command: str) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    run(command, tmp_path / "closed" / "target")


@pytest.mark.parametrize("name", ["", "adapters"])
def test_what_is_read_is_not_replaced(tiny_checkpoint, tmp_path: Path, capfd, name: str) -> None:
    model, adapters = tmp_path / "model", tmp_path / "adapters"
    shutil.copytree(tiny_checkpoint, model)
    write_manifest(model)
    adapters.mkdir()
    read = f"--model_name_or_path {model} --lora_path {adapters} --overwrite"
    target = tmp_path / name if name else model
    assert main(f"export {read} --output_path {target}".split()) == 2
    assert "is, or contains, the source" in capfd.readouterr().err
    assert main(f"merge-lora {read} --merge_model_path {adapters}".split()) == 2
    assert "is, or contains, the source" in capfd.readouterr().err
    assert (model / "model.safetensors").is_file() and adapters.is_dir()


def test_permissions_are_asked(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"--output_dir .*new: .* is not writable"):
        check_output_folder(tmp_path / "new", "--output_dir", allow_existing=True)
    with pytest.raises(InputError, match=r"--output_file .*file is not writable"):
        check_output_file(tmp_path / "file", "--output_file")


def test_predict_replaces_what_it_merged(tiny_checkpoint, tmp_path, monkeypatch, capfd) -> None:
    """The advice of the refusal is followed."""
    monkeypatch.chdir(tmp_path)
    words = f"predict --model_name_or_path {tiny_checkpoint} --tgt_length 2".split()
    assert main([*words, "--merge_tensor_parallel_path", "merged"]) == 0
    assert main([*words, "--merge_tensor_parallel_path", "merged"]) == 2
    assert "pass --overwrite" in capfd.readouterr().err
    assert main([*words, "--merge_tensor_parallel_path", "merged", "--overwrite"]) == 0
    assert open_checkpoint("merged").tensor_parallel_degree == 1
    assert main([*words, "--overwrite"]) == 2
    assert "give both, or none" in capfd.readouterr().err
    inside = str(tiny_checkpoint.parent)
    assert main([*words, "--merge_tensor_parallel_path", inside, "--overwrite"]) == 2
    assert tiny_checkpoint.is_dir()
