"""Every command that reads rows reads tables as it reads JSON, with columns of any name."""

import argparse
import csv
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from paddle_glm.commands._calibration_arguments import add_calibration_arguments, calibration_batches
from paddle_glm.main import main
from tests.training.finetune_helpers import finetune, losses, write_rows

NAMED = ["--prompt_column", "frage", "--response_column", "antwort"]


def write_csv(path, rows):
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folders(tiny_rows, tmp_path_factory):
    """A task folder of JSON, and one of tables that holds the same rows under other names."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "json", tiny_rows, dev=4)
    renamed = [{"frage": row["content"], "antwort": row["summary"]} for row in tiny_rows]
    (folder / "tables").mkdir()
    write_csv(folder / "tables" / "train.csv", renamed[:-4])
    parquet.write_table(pyarrow.Table.from_pylist(renamed[-4:]), folder / "tables" / "dev.parquet")
    return folder / "json", folder / "tables"


def run(*words) -> None:
    assert main(list(map(str, words))) == 0


def test_predict(tiny_checkpoint, folders, tmp_path):
    model = ("predict", "--model_name_or_path", tiny_checkpoint, "--tgt_length", 4)
    run(*model, "--data_file", folders[0] / "dev.json", "--predict_file", tmp_path / "a")
    run(*model, "--data_file", folders[1] / "dev.parquet", "--predict_file", tmp_path / "b", *NAMED)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_evaluate_a_folder(tiny_checkpoint, folders, tmp_path):
    model = ("evaluate", "--model_name_or_path", tiny_checkpoint, "--tgt_length", 4)
    scores = []
    for folder, columns in zip(folders, ([], NAMED), strict=True):
        out = tmp_path / folder.name
        run(*model, "--data_file", folder, "--output_dir", out, *columns)
        scores.append(json.loads((out / "metrics.json").read_text()))
        scores[-1].pop("seconds")
    assert scores[0] == scores[1]


def test_finetune(tiny_checkpoint, folders, tmp_path):
    flags = (
        f"--model_name_or_path {tiny_checkpoint} --do_train --max_steps 2 --logging_steps 1 --save_steps 9"
    )
    flags += " --do_eval --evaluation_strategy steps --eval_steps 2 --src_length 24 --tgt_length 24"
    for folder, columns in zip(folders, ([], NAMED), strict=True):
        out = tmp_path / folder.name
        assert finetune(flags, "--task_name_or_path", folder, "--output_dir", out, *columns) == 0
    assert losses(tmp_path / "json") == losses(tmp_path / "tables") != []


def test_calibration(tiny_checkpoint, folders):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_name_or_path", default=str(tiny_checkpoint))
    parser.add_argument("--family")
    add_calibration_arguments(parser)
    files = (folders[0] / "train.json", folders[1] / "train.csv")
    first, second = (
        calibration_batches(parser.parse_args(["--calibration_file", str(file), *columns]))
        for file, columns in zip(files, ([], NAMED), strict=True)
    )
    assert len(first) == len(second) == 7
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["input_ids"], other["input_ids"])
        np.testing.assert_array_equal(one["labels"], other["labels"])
