"""Tensor parallelism in real processes: logits and every gradient equal one process's."""

import json
from pathlib import Path

import pytest

from tests.distributed.launch import launch
from tests.paths import SHARED

WORKER = Path(__file__).with_name("check_model.py")


def results(output: str) -> list[dict]:
    return [json.loads(line.split("RESULT ", 1)[1]) for line in output.splitlines() if "RESULT " in line]


def results_by_rank(worker: Path, processes: int, folder: Path) -> dict[int, dict]:
    """What every process of `worker` found, whose arguments are their number and a folder to work in."""
    done = launch(worker, processes, folder / "logs", str(processes), str(folder))
    assert done.returncode == 0, done.stdout
    ranks = {result.pop("rank"): result for result in results(done.stdout)}
    assert set(ranks) == set(range(processes)), done.stdout
    return ranks


@pytest.mark.parametrize(
    ("family", "processes", "degree"),
    [("chatglm2", 2, 2), ("chatglm2", 4, 4), ("chatglm2", 4, 2), ("chatglm", 2, 2), ("chatglm", 4, 4)],
)
def test_processes_compute_what_one_does(family: str, processes: int, degree: int, tmp_path: Path) -> None:
    # The numbers of the originals come on top where they are present.
    folder = SHARED / "reference" / f"{family}_6b_tiny_seed0"
    original = [str(folder)] if folder.exists() else []
    done = launch(WORKER, processes, tmp_path, family, str(degree), *original)
    assert done.returncode == 0, done.stdout
    ranks = {result["rank"]: result for result in results(done.stdout)}
    assert set(ranks) == set(range(processes)), done.stdout
    for rank, result in ranks.items():
        assert (result["tensor"], result["data"]) == (degree, processes // degree)
        for found in (result, result.get("multi_head", result)):
            assert len(found) >= 13
            for name in found:
                if name.startswith(("logits", "decode", "loss", "gradient", "hidden")):
                    assert found[name] < 1e-5, (rank, name, found[name])
        assert ("multi_head" in result) is (family == "chatglm2")
        for spread in result["dropout"]:
            assert spread["whole"] < 1e-7 and spread["loss"] < 1e-6 and spread["gradient"] < 1e-6, spread
            assert spread["cut"] > 1e-3, "sharded regions must draw different numbers on each rank"
        if folder.exists():
            # Wider than within one process: sums of another order on top of the original's own rounding.
            assert result["original"]["logits"] < 1.5e-5 and result["original"]["gradient"] < 5e-6, result
        if processes > degree:
            # The data group of rank r holds r and its counterpart in the other model.
            assert result["data_sum"] == sum(range(rank % degree, processes, degree))
