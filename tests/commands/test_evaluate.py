"""`evaluate`: the files it writes, the scores in them, and the table."""

import json
import math
from pathlib import Path

import pytest

from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.commands import evaluate
from paddle_glm.evaluation import metrics
from paddle_glm.main import main
from tests.distributed.launch import launch
from tests.paths import ROOT


@pytest.fixture(scope="module")
def data(tiny_rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in tiny_rows[:6]]
    (folder / "dev.json").write_text("".join(lines), encoding="utf-8")
    (folder / "train.json").write_text("".join(lines[:1]), encoding="utf-8")
    return folder


def command(model: Path, data: Path, out: Path) -> list[str]:
    lengths = ["--src_length", "100", "--tgt_length", "80", "--batch_size", "4"]
    return [
        "evaluate",
        "--model_name_or_path",
        str(model),
        "--data_file",
        str(data),
        "--output_dir",
        str(out),
        *lengths,
    ]


def load(folder: Path) -> tuple[dict, list[dict]]:
    lines = (folder / evaluate.PREDICTIONS_FILE).read_text(encoding="utf-8").splitlines()
    return evaluate.read_metrics(folder / evaluate.METRICS_FILE), [json.loads(line) for line in lines]


def test_files_and_scores(tiny_checkpoint, tiny_rows, data, tmp_path, capsys):
    assert main(command(tiny_checkpoint, data, tmp_path)) == 0
    results, rows = load(tmp_path)
    # References are cut to tgt_length tokens, of which two go to the special tokens in front.
    assert all(row["summary"].startswith(each["labels"]) for row, each in zip(tiny_rows, rows, strict=False))
    assert results["rows"] == len(rows) == 6
    expected = metrics.score([row["predict"] for row in rows], [row["labels"] for row in rows])
    assert {name: results[name] for name in metrics.METRIC_NAMES} == expected
    # Nothing is learnt yet: about one in 520 tokens.
    assert results["loss"] == pytest.approx(math.log(520), rel=0.05)
    assert results["perplexity"] == pytest.approx(math.exp(results["loss"]))
    assert f"perplexity  {results['perplexity']:>12.4f}" in capsys.readouterr().out


def test_baseline_is_shown_beside(tiny_checkpoint, data, tmp_path, capsys):
    assert main([*command(tiny_checkpoint, data, tmp_path / "a"), "--limit", "2"]) == 0
    capsys.readouterr()
    baseline = ["--baseline", str(tmp_path / "a" / evaluate.METRICS_FILE), "--limit", "2"]
    assert main([*command(tiny_checkpoint, data, tmp_path / "b"), *baseline]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "before", "after"]
    assert ["rows", "2", "2"] in [line.split() for line in lines]


def test_two_processes_score_alike(tiny_checkpoint, data, tmp_path):
    reshard(tiny_checkpoint, tmp_path / "shards", degree=2)
    assert main(command(tmp_path / "shards", data, tmp_path / "one")) == 0
    flags = command(tmp_path / "shards", data, tmp_path / "two")[1:]
    done = launch(ROOT / "tools" / "evaluate_generation.py", 2, tmp_path / "log", *flags)
    assert done.returncode == 0, done.stdout
    (one, one_rows), (two, two_rows) = load(tmp_path / "one"), load(tmp_path / "two")
    assert one_rows == two_rows
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "{data}/dev.json"], "is not a metrics.json"),
        (["--data_file", "{data}/.."], "expected train.json and dev.json"),
        (["--limit", "0"], "'0' is not a positive number"),
    ],
)
def test_mistakes_are_told_before_the_work(tiny_checkpoint, data, tmp_path, capsys, flags, message):
    flags = [flag.format(data=data) for flag in flags]
    assert main([*command(tiny_checkpoint, data, tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err
