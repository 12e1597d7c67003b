"""`paddle-glm verify`: what is whole passes; every kind of damage is named, and the exit code says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.merge import make_shards
from paddle_glm.checkpoint import atomic_folder, open_checkpoint, save_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.main import main
from tests.checkpoint.test_reader import CONFIG, synthetic
from tests.paths import reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "model") as temporary:
        CONFIG.save_pretrained(temporary)
        save_checkpoint(temporary, synthetic().items())
    return tmp_path / "model"


def output(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["verify", *arguments]) == code
    return capsys.readouterr().out


def test_a_whole_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = output(capsys, str(folder), "--nan")
    assert "WRONG" not in table
    assert "model.safetensors" in table and "checksum correct" in table
    assert "chatglm2, 17 tensors of F32: names and shapes match config.json" in table
    assert "all finite" in table and "everything is correct" in table


@pytest.mark.parametrize("file_format", ["safetensors", "pdparams"])
def test_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str], file_format: str) -> None:
    make_shards(tmp_path / "one", CONFIG, 1)
    reshard(
        tmp_path / "one", tmp_path / "two", 1 if file_format == "pdparams" else 2, file_format=file_format
    )
    (tmp_path / "two" / "notes.txt").write_text("mine")
    table = output(capsys, str(tmp_path / "two"))
    assert "notes.txt" in table and "not in the manifest" in table


def test_a_download_has_no_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    table = output(capsys, str(reference("chatglm2_6b_tiny_seed0") / "hf_fp16_sharded"), "--nan")
    assert "sizes and checksums are unknown" in table


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def edit_config(folder: Path) -> None:
    """One layer more than there are weights, with a size and checksum that fit."""
    checkpoint = open_checkpoint(folder)
    tensors = [
        (name, checkpoint.read(name).copy()) for name in checkpoint.names() if ".layers.1." not in name
    ]
    with atomic_folder(folder, overwrite=True) as temporary:
        CONFIG.save_pretrained(temporary)
        save_checkpoint(temporary, tensors)


def spoil(folder: Path) -> None:
    whole = synthetic()
    whole["transformer.output_layer.weight"][3, 4:7] = np.nan
    with atomic_folder(folder, overwrite=True) as temporary:
        CONFIG.save_pretrained(temporary)
        save_checkpoint(temporary, whole.items())


def escape(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = manifest["files"]["config.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(folder / "config.json", folder.parent / "secret")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip, "the checksum differs"),
        (lambda folder: (folder / "config.json").write_text("{}"), "2 bytes, expected"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "it lists no files"),
        (edit_config, "7 missing: transformer.encoder.layers.1."),
        (spoil, "NaN or Inf in transformer.output_layer.weight (3)"),
        (escape, "outside the folder"),
    ],
)
def test_damage(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], expected: str
) -> None:
    damage(folder)
    table = output(capsys, str(folder), "--nan", code=1)
    assert "WRONG" in table and expected in table and "wrong" in table.splitlines()[-1]


def test_checksums_can_be_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(folder)
    assert "checksum " not in output(capsys, str(folder), "--no_checksums")


def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert main(["verify", str(tmp_path), "--chekcsums"]) == 2
    assert "did you mean '--checksums'" in capsys.readouterr().err
