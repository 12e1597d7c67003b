"""Prefixes and LoRA in real processes: the loss and every gradient equal one process's."""

from pathlib import Path

import pytest

from tests.distributed.launch import launch
from tests.distributed.test_tensor_parallel import results

# Seen: 1.2e-6.
LARGEST = 1e-5
WORKER = Path(__file__).with_name("check_peft.py")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_compute_what_one_does(processes: int, tmp_path: Path) -> None:
    """Both families; ChatGLM2's two key/value groups are shared by four ranks."""
    done = launch(WORKER, processes, tmp_path / "logs", str(processes), str(tmp_path))
    assert done.returncode == 0, done.stdout
    ranks = {result.pop("rank"): result for result in results(done.stdout)}
    assert set(ranks) == set(range(processes)), done.stdout
    for rank, cases in ranks.items():
        for case, found in cases.items():
            for name in ("decode", "loss_False", "loss_True", "gradient_False", "gradient_True"):
                assert found[name] < LARGEST, (rank, case, name, found[name])
            assert found["saved"] == 0 and found["largest_gradient"] > 1e-5, (rank, case, found)
            assert found["dropout"]["loss"] < 1e-6 and found["dropout"]["gradient"] < 1e-6, (rank, case)
