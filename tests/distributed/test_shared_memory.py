"""Ranks of one machine add through shared memory; what they do when one of them is killed, or cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.launched import launched_environments
from paddle_glm.system import create_shared_file, is_byte_locked, lock_byte, open_shared_file
from tests.distributed.check_shared_memory import CALLS
from tests.paths import ROOT

WORKER = Path(__file__).with_name("check_shared_memory.py")


def run_ranks(degree: int, *environments: dict[str, str]) -> list[tuple[int, list[dict], str]]:
    """Exit code, results and messages of each rank. The launcher would end all ranks when one is killed."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(degree)],
            env={**base, "PYTHONPATH": str(ROOT), **changed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for base, changed in zip(launched_environments(len(environments), 1), environments, strict=True)
    ]
    found = []
    try:
        for process in processes:
            output, messages = process.communicate(timeout=300)
            lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
            found.append((process.returncode, [json.loads(line[7:]) for line in lines], messages))
    finally:
        for process in processes:
            process.kill()
    return found


@pytest.mark.parametrize("degree", [2, 4])
def test_four_ranks_share_memory_until_one_is_killed(degree: int) -> None:
    """In a group of four, and in pairs of tensor-parallel and of data-parallel ranks."""
    for rank, (code, results, messages) in enumerate(run_ranks(degree, {}, {}, {}, {})):
        groups = 1 if degree == 4 else 2
        assert results[0]["shared"] == [True, groups == 2], messages
        assert results[0]["right"] == groups * [CALLS], messages
        assert results[0]["half"] == pytest.approx(3 * [0.1 * degree], rel=1e-3)
        last = rank // degree * degree + degree - 1
        if rank == last:
            assert code == -9
            continue
        assert f"rank {degree - 1} of a group of {degree}" in results[1]["error"]
        assert "has ended" in results[1]["error"] and results[1]["seconds"] < 60


def test_all_ranks_use_gloo_where_one_has_no_library() -> None:
    for code, results, messages in run_ranks(2, {}, {"PADDLE_GLM_KERNELS": "0"}):
        assert code == 0, messages
        assert results[0]["shared"] == [False, False]
        assert results[0]["right"] == [CALLS], messages


def test_shared_files_have_no_name_and_locks_are_the_process_own() -> None:
    created = create_shared_file("paddle_glm-test", 1 << 16)
    opened = open_shared_file(os.getpid(), created, "paddle_glm-test")
    os.pwrite(created, b"written", 10)
    assert os.pread(opened, 7, 10) == b"written" and os.fstat(opened).st_mode & 0o777 == 0o600
    assert os.fstat(opened).st_nlink == 0
    with pytest.raises(FileNotFoundError):
        open_shared_file(os.getpid(), created, "paddle_glm-other")
    assert lock_byte(created, 0)
    child = os.fork()
    if child == 0:
        os._exit(not (is_byte_locked(opened, 0) and not is_byte_locked(opened, 1)))
    assert os.waitpid(child, 0)[1] == 0
    os.close(created)
    os.close(opened)
