"""Four processes share a model with two key/value groups and generate the same tokens."""

import json
from pathlib import Path

from paddle_glm import AutoModel, AutoTokenizer
from tests.distributed.launch import launch

WORKER = Path(__file__).with_name("check_generation.py")
SNIPPET = Path(__file__).with_name("check_snippet.py")


def results_of(script, processes, tmp_path, *args):
    done = launch(script, processes, tmp_path / "log", *args)
    assert done.returncode == 0, done.stdout
    lines = {line for line in done.stdout.splitlines() if line.startswith("RESULT ")}
    results = {result["rank"]: result for result in (json.loads(line[7:]) for line in lines)}
    assert sorted(results) == list(range(processes)), done.stdout
    return results


def test_all_processes_give_one_answer(tmp_path):
    results = results_of(WORKER, 4, tmp_path)
    for name in ("greedy", "beam", "sampling"):
        assert all(result[name] == results[0][name] for result in results.values()), name
    assert all(result["pages"] == [results[0]["greedy"], results[0]["beam"]] for result in results.values())
    assert results[0]["alone"] == {name: results[0][name] for name in ("greedy", "beam")}


def test_load_model_on_gpus_shares_a_model_under_the_launcher(tiny_checkpoint, tmp_path):
    model, tokenizer = (
        AutoModel.from_pretrained(tiny_checkpoint),
        AutoTokenizer.from_pretrained(tiny_checkpoint),
    )
    alone, _ = model.chat(tokenizer, "你好", history=[], do_sample=False, max_new_tokens=12)
    results = results_of(SNIPPET, 2, tmp_path, str(tiny_checkpoint))
    assert {(result["degree"], result["response"]) for result in results.values()} == {(2, alone)}
    # The first process says what was opened, for all.
    logs = [(tmp_path / f"log/workerlog.{rank}").read_text() for rank in range(2)]
    assert [log.count("MB in each of 2 processes, on the CPU (") for log in logs] == [1, 0]
