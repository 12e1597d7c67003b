"""Writers that are killed, run out of disk or room to write, or meet: the old folder stays whole."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.merge import make_shards
from paddle_glm.checkpoint import is_complete, open_checkpoint
from paddle_glm.checkpoint.atomic_save import read_manifest
from paddle_glm.checkpoint.hashed_file import file_digest
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from tests.paths import ROOT

# 24 MB: large enough to be killed while it is written.
CONFIG = ModelConfig(
    num_layers=2, hidden_size=512, num_attention_heads=8, num_key_value_heads=2, head_dim=64,
    ffn_hidden_size=2048, vocab_size=2048, max_sequence_length=32, dtype="float16",
)  # fmt: skip
KILLS = 14
COMMANDS = {
    "merge": ["merge", "--merge_model_path"],
    "convert to bin": ["convert", "--format", "bin", "--output_path"],
    "convert to paddle": ["convert", "--format", "paddle", "--max_shard_size", "5MB", "--output_path"],
    "reshard": ["merge", "--tensor_parallel_degree", "4", "--merge_model_path"],
}
# Nothing of ours: a folder of its own in memory, seen by one process and gone with it.
CAN_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
    ).returncode
    == 0
)
needs_mount = pytest.mark.skipif(not CAN_MOUNT, reason="mounting in a namespace is not allowed here")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash") / "shards"
    make_shards(folder, CONFIG, 2)
    return folder


def argv(command: str, source: Path, target: Path, *more: str) -> list[str]:
    name, *flags = COMMANDS[command]
    start = [sys.executable, "-m", "paddle_glm.main", name, "--model_name_or_path", str(source)]
    return [*start, *flags, str(target), *more]


def fingerprint(folder: Path) -> dict[str, str]:
    """The digest of every file, each compared with the manifest."""
    assert is_complete(folder)
    manifest = read_manifest(folder) or {}
    digests = {name: file_digest(folder / name) for name in manifest}
    assert digests == {name: record["xxh3_128"] for name, record in manifest.items()}
    return digests


@pytest.mark.parametrize("command", ["merge", "convert to paddle"])
def test_killed_at_random_points(tmp_path: Path, shards: Path, command: str) -> None:
    target, again = tmp_path / "model", tmp_path / "again"
    reshard(shards, target, dtype="bfloat16")
    old = fingerprint(target)
    subprocess.run(argv(command, shards, again), check=True, cwd=ROOT, capture_output=True)
    new = fingerprint(again)
    assert old != new
    rng = random.Random(7)
    found = set()
    for _ in range(KILLS):
        writer = subprocess.Popen(
            argv(command, shards, target, "--overwrite"), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        # Wait for the first byte: what comes before is Python's start.
        while writer.poll() is None and not list(tmp_path.glob(".model.incomplete/*")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.12))
        writer.kill()
        writer.wait()
        now = fingerprint(target)
        assert now in (old, new)
        found.add(now == new)
        if now == new:
            shutil.rmtree(target)
            reshard(shards, target, dtype="bfloat16")
    assert False in found, "every kill came too late"
    subprocess.run(argv(command, shards, target, "--overwrite"), check=True, cwd=ROOT, capture_output=True)
    assert fingerprint(target) == new
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"]


@pytest.mark.parametrize("file_format", ["safetensors", "bin", "pdparams"])
def test_every_file_operation_may_fail(file_format: str) -> None:
    # In memory, where flushing costs nothing: some hundred folders are written.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        script = [sys.executable, "tests/checkpoint/fault_injection.py", folder, file_format]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 40


FULL = """
set -e
mount -t tmpfs -o size=30m tmpfs "$1"
cd "$2"
"$3" -m paddle_glm.main merge --model_name_or_path "$4" --merge_model_path "$1/model" >/dev/null
before=$(cat "$1"/model/* | md5sum)
set +e
"$3" -c "
import shutil, sys
usage = type('Usage', (), {'free': 1 << 40})
if sys.argv.pop(1) == 'unnoticed': shutil.disk_usage = lambda path: usage
from paddle_glm.main import main
raise SystemExit(main(sys.argv[1:]))" \\
  "$5" merge --model_name_or_path "$4" --merge_model_path "$1/model" --overwrite
echo "code $?"
[ "$before" = "$(cat "$1"/model/* | md5sum)" ] && echo "old folder whole"
ls -A "$1"
"""


@needs_mount
@pytest.mark.parametrize(
    ("how", "message"),
    [("noticed", "GB free"), ("unnoticed", "model.safetensors: No space left on device")],
)
def test_a_full_disk(tmp_path: Path, shards: Path, how: str, message: str) -> None:
    arguments = ["unshare", "-rm", "sh", "-c", FULL, "sh"]
    arguments += [str(tmp_path), str(ROOT), sys.executable, str(shards), how]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.split("\n") == ["code 2", "old folder whole", "model", ""]


READ_ONLY = """
set -e
mount -t tmpfs tmpfs "$1"
cd "$2"
"$3" -m paddle_glm.main merge --model_name_or_path "$4" --merge_model_path "$1/model" >/dev/null
mount -o remount,ro "$1"
set +e
"$3" -m paddle_glm.main merge --model_name_or_path "$4" --merge_model_path "$1/model" --overwrite
echo "code $?"
"$3" -m paddle_glm.main merge --model_name_or_path "$4" --merge_model_path "$1/new/model"
echo "code $?"
"$3" -m paddle_glm.main verify "$1/model" > /dev/null && echo "old folder whole"
ls -A "$1"
"""


@needs_mount
def test_a_read_only_folder(tmp_path: Path, shards: Path) -> None:
    arguments = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh"]
    arguments += [str(tmp_path), str(ROOT), sys.executable, str(shards)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    first, second = done.stderr.splitlines()
    assert first == f"paddle-glm: error: {tmp_path}: cannot write here: Read-only file system"
    assert second == f"paddle-glm: error: {tmp_path / 'new'}: Read-only file system"
    assert done.stdout.split("\n") == ["code 2", "code 2", "old folder whole", "model", ""]


def test_two_writers_at_once(tmp_path: Path, shards: Path) -> None:
    """Of four processes that write one folder, those that come second say so, and one result is there."""
    target = tmp_path / "model"
    reshard(shards, target, dtype="bfloat16")
    commands = [argv(command, shards, target, "--overwrite") for command in COMMANDS]
    writers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    errors = [writer.communicate()[1] for writer in writers]
    assert 0 in [writer.returncode for writer in writers]
    for writer, error in zip(writers, errors, strict=True):
        assert (writer.returncode, "is being written by another process" in error) in ((0, False), (2, True))
    fingerprint(target)
    open_checkpoint(target).validate()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
