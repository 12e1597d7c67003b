"""Folders appear whole or not at all: crashes, leftovers, overwriting, two writers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddle_glm.checkpoint import atomic_save as folders
from paddle_glm.checkpoint.atomic_save import (
    MANIFEST,
    AtomicSave,
    atomic_folder,
    check_file_sizes,
    is_complete,
    latest_complete,
    read_manifest,
    remove_folder_atomically,
    remove_leftovers,
)
from paddle_glm.checkpoint.hashed_file import file_digest
from paddle_glm.errors import InputError
from tests.paths import ROOT


def fill(target: Path, text: str, overwrite: bool = False) -> None:
    with atomic_folder(target, overwrite) as folder:
        (folder / "weights").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "more").write_text(text * 2)


def test_manifest_has_sizes_and_digests(tmp_path: Path) -> None:
    fill(tmp_path / "new" / "model", "abc")
    target = tmp_path / "new" / "model"
    assert is_complete(target)
    assert read_manifest(target) == {
        name: {"size": size, "xxh3_128": file_digest(target / name)}
        for name, size in (("sub/more", 6), ("weights", 3))
    }
    assert [path.name for path in target.parent.iterdir()] == ["model"], "nothing is left beside it"


def test_an_error_leaves_the_target_untouched(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    with (
        pytest.raises(RuntimeError, match="halfway"),
        atomic_folder(tmp_path / "model", overwrite=True) as folder,
    ):
        (folder / "weights").write_text("new")
        raise RuntimeError("halfway")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "other"):
        raise RuntimeError
    assert not (tmp_path / "other").exists()


def test_overwriting_is_explicit_and_replaces_everything(tmp_path: Path) -> None:
    target = tmp_path / "model"
    fill(target, "old")
    (target / "extra").write_text("x")
    with pytest.raises(InputError, match=r"exists and is not empty.*--overwrite"):
        fill(target, "new")
    fill(target, "new", overwrite=True)
    assert (target / "weights").read_text() == "new"
    assert not (target / "extra").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_empty_folders_and_our_own_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "new")
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis").write_text("precious")
    with pytest.raises(InputError, match=r"has no manifest\.json, so it is not replaced"):
        fill(home, "new", overwrite=True)
    assert (home / "thesis").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        fill(home / "thesis", "new", overwrite=True)


def test_without_exchange_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.ctypes, "CDLL", lambda *_, **__: object())
    fill(tmp_path / "model", "old")
    fill(tmp_path / "model", "new", overwrite=True)
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    # Killed between the two renames: the next writer puts the old folder back first.
    os.rename(tmp_path / "model", tmp_path / ".model.previous")
    with pytest.raises(InputError, match="exists and is not empty"):
        fill(tmp_path / "model", "newer")
    assert (tmp_path / "model" / "weights").read_text() == "new"


def test_several_writers_fill_one_folder(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-5"
    save = AtomicSave(target)
    save.begin()
    for rank in range(3):
        (AtomicSave(target).path / f"rank{rank}").write_text("x")
    save.commit()
    assert is_complete(target)
    assert set(read_manifest(target) or {}) == {"rank0", "rank1", "rank2"}


def test_two_writers_of_one_target(tmp_path: Path) -> None:
    save = AtomicSave(tmp_path / "model")
    save.begin()
    with pytest.raises(InputError, match="is being written by another process"):
        AtomicSave(tmp_path / "model").begin()
    remove_leftovers(tmp_path)
    assert save.path.exists(), "a folder in use is no leftover"
    save.rollback()
    fill(tmp_path / "model", "new")


def test_incomplete_folders_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "model", "abc")
    assert not is_complete(tmp_path)
    check_file_sizes(tmp_path)
    (tmp_path / "model" / "weights").write_text("ab")
    assert not is_complete(tmp_path / "model")
    with pytest.raises(
        InputError, match=r"weights is 2 bytes long, manifest.json says 3: the copy is not complete"
    ):
        check_file_sizes(tmp_path / "model")
    (tmp_path / "model" / "weights").unlink()
    assert not is_complete(tmp_path / "model")
    with pytest.raises(InputError, match="weights is missing"):
        check_file_sizes(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).write_text("{")
    assert not is_complete(tmp_path / "model")


def test_the_latest_complete_checkpoint(tmp_path: Path) -> None:
    assert latest_complete(tmp_path) is None
    for step in (5, 10, 20):
        fill(tmp_path / f"checkpoint-{step}", "abc")
    (tmp_path / "checkpoint-20" / "weights").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-10"


WRITER = """
import sys
from pathlib import Path
import numpy as np
from paddle_glm.checkpoint import LazyTensor, atomic_folder, save_checkpoint

def chunks():
    print("writing", flush=True)
    for _ in range(1 << 16):
        yield np.ones(1024, np.float32)

with atomic_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "config.json").write_text("{}")
    save_checkpoint(folder, [("w", LazyTensor(np.dtype(np.float32), (1 << 26,), chunks))])
print("done", flush=True)
"""


@pytest.mark.integration
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
def test_a_killed_writer_leaves_the_old_folder_whole(tmp_path: Path, delay: float) -> None:
    target = tmp_path / "model"
    fill(target, "old")
    before = read_manifest(target)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert writer.stdout.read() == "", "it was killed while writing"
    writer.stdout.close()

    assert is_complete(target)
    assert read_manifest(target) == before
    assert all(file_digest(target / name) == record["xxh3_128"] for name, record in (before or {}).items())
    assert AtomicSave(target).path.exists()
    assert not is_complete(AtomicSave(target).path)
    fill(target, "new", overwrite=True)
    assert (target / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    AtomicSave(tmp_path / "checkpoint-5").path.mkdir()
    fill(tmp_path / "checkpoint-10", "abc")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_sidecar_of_another_size_is_not_believed(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("abc")
        (folder / ".weights.xxh3-of").write_text(json.dumps({"size": 2, "xxh3_128": "0"}))
    manifest = read_manifest(tmp_path / "model")
    assert manifest == {"weights": {"size": 3, "xxh3_128": file_digest(tmp_path / "model" / "weights")}}


def test_a_folder_that_holds_others_is_not_replaced(tmp_path: Path) -> None:
    """Such as the output_dir of a run, with its checkpoints."""
    fill(tmp_path / "out", "old")
    fill(tmp_path / "out" / "checkpoint-1", "mine")
    with pytest.raises(InputError, match=r"contains checkpoint-1, which has its own manifest\.json"):
        AtomicSave(tmp_path / "out").begin(overwrite=True)
    (tmp_path / "out" / "checkpoint-1").rename(tmp_path / "checkpoint-1")
    fill(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "weights").read_text() == "new"
    assert (tmp_path / "checkpoint-1" / "weights").read_text() == "mine"


def test_discarded_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "model").write_text("old")

    def broken(path: Path) -> None:
        raise OSError("broken off")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken off"):
        patch.setattr("paddle_glm.checkpoint.atomic_save.remove_tree", broken)
        remove_folder_atomically(target)
    assert not target.exists()
    remove_leftovers(tmp_path, "other*")
    assert list(tmp_path.iterdir())
    remove_leftovers(tmp_path, "o*")
    assert not list(tmp_path.iterdir())
