"""Four processes share a model with two key/value groups and generate the same tokens."""

import json
from pathlib import Path

from tests.distributed.launch import launch

WORKER = Path(__file__).with_name("check_generation.py")


def test_all_processes_give_one_answer(tmp_path):
    done = launch(WORKER, 4, tmp_path / "log")
    assert done.returncode == 0, done.stdout
    lines = {line for line in done.stdout.splitlines() if line.startswith("RESULT ")}
    results = {result["rank"]: result for result in (json.loads(line[7:]) for line in lines)}
    assert sorted(results) == [0, 1, 2, 3], done.stdout
    for name in ("greedy", "beam", "sampling"):
        assert all(result[name] == results[0][name] for result in results.values()), name
    assert results[0]["alone"] == {name: results[0][name] for name in ("greedy", "beam")}
