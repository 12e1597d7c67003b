"""Prefixes and LoRA through the chain: trained, saved alone, resumed, answered with, merged, exported."""

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import is_complete
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.main import main
from tests.training.finetune_helpers import (
    finetune,
    losses,
    max_parameter_difference,
    resumable_files,
    write_rows,
)

SMALL = """
    --src_length 24 --tgt_length 12 --per_device_train_batch_size 4 --logging_steps 1 --save_steps 2
    --disable_tqdm True --do_train
"""
METHODS = {
    "prefix": "--pre_seq_len 6 --prefix_projection --learning_rate 2e-2",
    "lora": "--lora True --lora_rank 4 --lora_alpha 8 --lora_dropout 0.1 --learning_rate 1e-2",
}
FILES = {
    "prefix": {"prefix_model.safetensors", "prefix_config.json"},
    "lora": {"adapter_model.safetensors", "adapter_config.json"},
}


@pytest.fixture(scope="module")
def paths(tiny_checkpoint: Path, tiny_rows, tmp_path_factory) -> list:
    rows = write_rows(tmp_path_factory.mktemp("rows"), tiny_rows)
    return ["--model_name_or_path", tiny_checkpoint, "--task_name_or_path", rows]


def command(name: str, *words: object) -> int:
    return main([name, *map(str, words)])


def tensors(folder: Path, method: str) -> dict[str, np.ndarray]:
    (name,) = (name for name in FILES[method] if name.endswith("safetensors"))
    return open_safetensors(folder / name)


@pytest.fixture(scope="module", params=METHODS)
def trained(request, paths, tmp_path_factory):
    """(method, flags, output folder) of a run of 4 steps."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    flags = f"{SMALL} {METHODS[request.param]} --recompute True"
    assert finetune(f"{flags} --max_steps 4", *paths, "--output_dir", out) == 0
    return request.param, flags, out


def test_only_what_is_trained_is_written(trained):
    method, _, out = trained
    assert is_complete(out) and is_complete(out / "checkpoint-4")
    for folder in (out, out / "checkpoint-4"):
        names = {path.name for path in folder.iterdir()}
        assert FILES[method] <= names and not any(name.startswith("model") for name in names)
    assert all(array.dtype == np.float32 for array in tensors(out, method).values())
    history = losses(out)
    assert len(history) == 4 and history[-1] < history[0]


def test_a_resumed_run_is_the_same_in_every_bit(trained, paths, tmp_path):
    _, flags, out = trained
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(out / "checkpoint-2", again / "checkpoint-2")
    assert finetune(f"{flags} --max_steps 4", *paths, "--output_dir", again) == 0
    assert resumable_files(again / "checkpoint-4") == resumable_files(out / "checkpoint-4")


def flag(method: str) -> str:
    return "--ptuning_checkpoint" if method == "prefix" else "--lora_path"


def answers(file: Path) -> list[str]:
    return [json.loads(line)["output"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_going_on_from_what_was_trained(trained, paths, tmp_path):
    method, flags, out = trained
    assert finetune(f"{flags} --max_steps 1", *paths, "--output_dir", tmp_path, flag(method), out) == 0
    assert losses(tmp_path)[0] < losses(out)[0]


def test_the_model_answers_and_is_exported_with_it(trained, paths, tmp_path):
    method, _, out = trained
    data = ("--data_file", paths[3] / "dev.json", "--src_length", 24, "--tgt_length", 12)
    base = ("--model_name_or_path", paths[1])
    mine = (*base, flag(method), out)
    assert command("predict", *base, *data, "--predict_file", tmp_path / "base.json") == 0
    assert command("predict", *mine, *data, "--predict_file", tmp_path / "mine.json") == 0
    assert command("evaluate", *mine, *data, "--output_dir", tmp_path / "scores") == 0
    assert command("export", *mine, "--output_path", tmp_path / "exported") == 0
    model = ("--model_path", tmp_path / "exported", "--output_file", tmp_path / "graph.json")
    assert command("infer", *model, *data) == 0
    assert (
        answers(tmp_path / "graph.json") == answers(tmp_path / "mine.json") != answers(tmp_path / "base.json")
    )
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert 0 < scores["loss"] < 10


def test_what_was_trained_is_no_model_by_itself(trained, paths, capfd):
    method, _, out = trained
    for name in ("predict", "chat", "export"):
        extra = ("--output_path", out / "exported") if name == "export" else ()
        assert command(name, "--model_name_or_path", out, *extra) == 2
        assert f"give --model_name_or_path {paths[1]} {flag(method)} {out}" in capfd.readouterr().err
    words = ("--model_name_or_path", out, "--task_name_or_path", paths[3], "--output_dir", out / "no")
    assert finetune(SMALL, *words) == 2
    assert "has no model" in capfd.readouterr().err


@pytest.mark.parametrize("trained", ["lora"], indirect=True)  # prefixes are not weights
def test_unmerged_and_merged_adapters_are_one_model(trained, paths, tmp_path):
    _, _, out = trained
    common = ("--model_name_or_path", paths[1], "--lora_path", out)
    assert command("merge-lora", *common, "--merge_model_path", tmp_path / "whole") == 0
    cut = ("--merge_model_path", tmp_path / "cut", "--tensor_parallel_degree", 4)
    assert command("merge-lora", *common, *cut) == 0
    assert max_parameter_difference(tmp_path / "whole", tmp_path / "cut") == 0
    ids = paddle.to_tensor([[5, 6, 7, 8, 9, 10]])
    beside = AutoModel.from_pretrained(paths[1], lora_path=out)
    merged = AutoModel.from_pretrained(tmp_path / "whole")
    assert float((beside(ids).logits - merged(ids).logits).abs().max()) < 2e-6
    assert float((beside(ids).logits - AutoModel.from_pretrained(paths[1])(ids).logits).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lora True --pre_seq_len 4", "exclude each other"),
        ("--prefix_tuning True --num_prefix_tokens 4 --pre_seq_len 5", "both give the prefix length"),
        ("--pre_seq_len 0", "expected at least 1"),
        ("--lora True --lora_rank 0", "a rank of at least 1"),
        ("--lora True --lora_target_modules beauty", "linear layers are"),
        ("--lora_path nowhere", "nowhere"),
        ("--ptuning_checkpoint nowhere", "nowhere"),
    ],
)
def test_what_cannot_work_is_one_line(paths, tmp_path, capfd, flags, message):
    assert finetune(f"{SMALL} {flags}", *paths, "--output_dir", tmp_path) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error
