"""Prefixes and LoRA through the chain: trained, saved alone, resumed, answered with, merged, exported."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.checkpoint import is_complete
from paddle_glm.checkpoint.tensor_file import open_safetensors
from tests.training.runs import contents, finetune, losses, write_rows

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
    assert contents(again / "checkpoint-4") == contents(out / "checkpoint-4")
