"""`predict`: the same answers in one process and over several, files as PaddleNLP's script writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.main import main
from tests.distributed.launch import launch
from tests.paths import ROOT


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def rows_file(tiny_rows, tmp_path) -> Path:
    path = tmp_path / "rows.json"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in tiny_rows[:5]]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def predict(model: Path, data: Path, out: Path, *flags: str) -> list[dict]:
    command = ["predict", "--model_name_or_path", str(model), "--data_file", str(data)]
    assert main([*command, "--predict_file", str(out), "--tgt_length", "6", *flags]) == 0
    return read(out)


def test_rows_come_back_in_order_with_their_answers(tiny_checkpoint, tiny_rows, rows_file, tmp_path, capsys):
    rows = predict(tiny_checkpoint, rows_file, tmp_path / "new" / "out.json", "--batch_size", "2")
    assert [row["src"] for row in rows] == [row["content"] for row in tiny_rows[:5]]
    assert [row["tgt"] for row in rows] == [row["summary"] for row in tiny_rows[:5]]
    assert all(row["output"] for row in rows)
    assert rows[3]["src"] + "\n" + rows[3]["output"] in capsys.readouterr().out


def test_batches_do_not_change_answers(tiny_checkpoint, rows_file, tmp_path):
    one = predict(tiny_checkpoint, rows_file, tmp_path / "1.json", "--batch_size", "1")
    four = predict(tiny_checkpoint, rows_file, tmp_path / "4.json", "--batch_size", "4")
    assert one == four


def test_answers_equal_the_models_own(tiny_checkpoint, tiny_rows, rows_file, tmp_path):
    """Against `model.generate`, token by token, for one row."""
    from paddle_glm import AutoModel, AutoTokenizer
    from paddle_glm.chat_template import render

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    messages = [{"role": "user", "content": tiny_rows[0]["content"]}]
    ids = np.asarray([render(tokenizer.template, tokenizer, messages).input_ids])
    model = AutoModel.from_pretrained(tiny_checkpoint)
    import paddle

    for _ in range(6):
        logits = model(paddle.to_tensor(ids)).logits
        ids = np.concatenate([ids, logits[:, -1].argmax(-1).numpy()[:, None]], axis=1)
    text = tokenizer.decode(ids[0, -6:].tolist(), skip_special_tokens=True).strip()
    assert predict(tiny_checkpoint, rows_file, tmp_path / "out.json")[0]["output"] == text


def test_without_a_file_it_asks_two_questions(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--model_name_or_path", str(tiny_checkpoint), "--tgt_length", "3"]) == 0
    assert [row["src"] for row in read(tmp_path / "prediction.json")] == ["你好", "晚上睡不着应该怎么办"]


def test_rows_without_answers_and_named_columns(tiny_checkpoint, tmp_path):
    (tmp_path / "rows.json").write_text('{"frage": "类型#裙"}\n', encoding="utf-8")
    rows = predict(tiny_checkpoint, tmp_path / "rows.json", tmp_path / "out.json", "--prompt_column", "frage")
    assert (rows[0]["src"], rows[0]["tgt"]) == ("类型#裙", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "0"], "'0' is not a positive number"),
        (["--temperature", "0", "--do_sample"], "temperature is 0.0"),
        (["--response_column", "a"], "need --prompt_column"),
        (["--data_file", "nowhere.json"], "nowhere.json"),
        (["--model_name_or_path", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(tiny_checkpoint, rows_file, tmp_path, capsys, flags, message):
    command = ["predict", "--model_name_or_path", str(tiny_checkpoint), "--data_file", str(rows_file)]
    assert main([*command, "--predict_file", str(tmp_path / "out.json"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_shards_in_two_processes_answer_alike_and_merge(tiny_checkpoint, rows_file, tmp_path):
    shards, merged = tmp_path / "shards", tmp_path / "merged"
    reshard(tiny_checkpoint, shards, degree=2)
    alone = predict(shards, rows_file, tmp_path / "alone.json")
    done = launch(
        ROOT / "tools" / "predict_generation.py",
        2,
        tmp_path / "log",
        *("--model_name_or_path", str(shards), "--merge_tensor_parallel_path", str(merged)),
        *("--data_file", str(rows_file), "--predict_file", str(tmp_path / "two.json"), "--tgt_length", "6"),
    )
    assert done.returncode == 0, done.stdout
    assert read(tmp_path / "two.json") == alone
    before, after = open_checkpoint(tiny_checkpoint), open_checkpoint(merged)
    assert after.tensor_parallel_degree == 1 and set(after.names()) == set(before.names())
    assert all((before.read(name) == after.read(name)).all() for name in before.names())


def test_what_is_merged_is_not_quantised_beside_it(tiny_checkpoint, tmp_path, capfd):
    words = ["--model_name_or_path", str(tiny_checkpoint), "--quantization_bit", "4"]
    assert main(["predict", *words, "--merge_tensor_parallel_path", str(tmp_path / "merged")]) == 2
    assert "run `paddle-glm quantize` first" in capfd.readouterr().err
    assert not (tmp_path / "merged").exists()
