"""Data files: layouts, encodings, folders; bad rows are named by file, line and reason."""

import json
import logging

import numpy as np
import pytest

from paddle_glm.data.data_files import (
    Columns,
    find_data_files,
    load_examples,
    split_validation,
)
from paddle_glm.errors import InputError
from tests.paths import data

QA = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def write(path, rows, array=False):
    text = json.dumps(rows, ensure_ascii=False, indent=2) if array else "\n".join(
        json.dumps(row, ensure_ascii=False) for row in rows
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


def messages(*texts):
    roles = ("user", "assistant")
    return tuple({"role": roles[index % 2], "content": text} for index, text in enumerate(texts))


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"content": "q", "summary": "a"}, ("q", "a")),
        ({"instruction": "q", "input": "", "output": "a"}, ("q", "a")),
        ({"instruction": "q", "input": "more", "output": "a"}, ("q\nmore", "a")),
        ({"prompt": "q", "response": "a", "history": [["x", "y"]]}, ("x", "y", "q", "a")),
        ({"prompt": "q", "response": "a", "history": []}, ("q", "a")),
        ({"src": "q", "tgt": "a"}, ("q", "a")),
        ({"src": ["x", "q"], "tgt": ["y", "a"]}, ("x", "y", "q", "a")),
        ({"messages": QA}, ("q", "a")),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ("q", "a")),
        ({"question": "q", "answer": "a", "extra": 1}, ("q", "a")),
    ],
)
def test_known_layouts(tmp_path, row, expected, array):
    (example,) = load_examples(write(tmp_path / "rows.json", [row], array))
    assert example.messages == messages(*expected)
    assert example.answer == "a"
    assert example.prompt_messages == example.messages[:-1]


def test_named_columns_win(tmp_path):
    row = {"content": "no", "summary": "no", "q": "frage", "a": "antwort", "h": [["x", "y"]]}
    path = write(tmp_path / "rows.json", [row])
    (example,) = load_examples(path, Columns(prompt="q", response="a", history="h"))
    assert example.messages == messages("x", "y", "frage", "antwort")
    with pytest.raises(InputError, match=r"rows.json:1: no column 'nope' among content, summary, q, a, h"):
        load_examples(path, Columns(prompt="q", response="nope"))
    with pytest.raises(InputError, match="no row has the history column 'past'"):
        load_examples(path, Columns(prompt="q", response="a", history="past"))
    with pytest.raises(InputError, match="go together"):
        load_examples(path, Columns(prompt="q"))


def test_messages_keep_roles_and_tools(tmp_path):
    rows = [{"messages": [{"role": "system", "content": "s", "tools": [{"name": "t"}]}, *QA]}]
    (example,) = load_examples(write(tmp_path / "rows.json", rows))
    assert example.messages == tuple(rows[0]["messages"])


def test_prediction_rows_may_lack_answers(tmp_path):
    rows = [
        {"content": "q"},
        {"content": "q", "summary": "a"},
        {"content": "q", "summary": None},
        {"content": "q", "summary": ""},
    ]
    examples = load_examples(write(tmp_path / "rows.json", rows), require_answer=False)
    assert [example.answer for example in examples] == [None, "a", None, None]
    assert all(example.prompt_messages == messages("q") for example in examples)
    turns = [{"src": ["x", "q"], "tgt": ["y"]}]
    (example,) = load_examples(write(tmp_path / "turns.json", turns), require_answer=False)
    assert example.messages == messages("x", "y", "q")
    with pytest.raises(InputError, match="no known columns among content"):
        load_examples(tmp_path / "rows.json")


def test_limit(tmp_path):
    path = write(tmp_path / "rows.json", [{"src": str(index), "tgt": "a"} for index in range(9)])
    assert [example.prompt_messages[0]["content"] for example in load_examples(path, limit=2)] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"src": "q", "tgt": "a"}\n{"src": "q", "tgt": }', r":2: not JSON .*column 21"),
        ('{"src": "q", "tgt": "a"}\n\n[1]', r":3: expected an object, found \[1\]"),
        ('{"src": "q", "tgt": "a"}\n{"src": "q"}', r":2: no column 'tgt' among src"),
        ('{"src": "q", "tgt": 5}', r":1: 'tgt' is 5: expected text"),
        ('{"src": ["q", "r"], "tgt": ["a"]}', r":1: 2 entries in 'src' but 1 in 'tgt'"),
        ('{"a": 1, "b": 2}', r":1: no known columns among a, b .*--prompt_column"),
        ('{"prompt": "q", "response": "a", "history": ["x"]}', r":1: 'history' holds \"x\""),
        ('{"messages": []}', r":1: 'messages' is \[\]: expected a list"),
        ('{"messages": ["x"]}', r":1: a message is \"x\""),
        ('{"messages": [{"content": "x"}]}', r":1: a message has the role null"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r":1: the conversation ends with 'user'"),
        ('[\n{"src": "q", "tgt": "a"},\n{"src": "q", "tgt": 5}\n]', r":3: 'tgt' is 5"),
        ('[\n{"src": "q", "tgt": "a"}\n{"src": "q"}]', r":3: expected ',' or '\]'"),
        ('[\n{"src": "q", "tgt": "a"},\n{"src": "q" oops', r":3: not JSON"),
        ('[{"src": "q", "tgt": "a"}', r":1: expected ',' or '\]' after a row, found 'the end"),
        ('[{"src": "q", "tgt": "a"}]\n[]', r"after the array of rows"),
        ("", "holds no usable row"),
        ("[]", "holds no usable row"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, reason):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"rows.json.*{reason}|rows.json{reason}"):
        load_examples(path)


def test_rows_with_nothing_in_them_are_left_out(tmp_path, caplog):
    rows = [{"src": "q", "tgt": "a"}, {"src": " ", "tgt": "a"}, {"src": "q", "tgt": None}]
    with caplog.at_level(logging.WARNING):
        assert len(load_examples(write(tmp_path / "rows.json", rows))) == 1
    assert "left out 2 rows" in caplog.text
    assert "lines 2, 3" in caplog.text


def test_files_of_a_folder(tmp_path):
    for name in ("train_first5000.json", "dev.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    files = find_data_files(tmp_path)
    assert (files.train.name, files.validation.name, files.test) == ("train_first5000.json", "dev.json", None)
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "test.json").write_text("{}")
    files = find_data_files(tmp_path, validation_file=tmp_path / "notes.txt")
    assert [files.train.name, files.validation.name, files.test.name] == [
        "train.jsonl",
        "notes.txt",
        "test.json",
    ]
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(InputError, match=r"train\.json, train\.jsonl: give the file itself"):
        find_data_files(tmp_path)


def test_tables_in_a_folder(tmp_path):
    for name in ("train.csv", "dev-00000-of-00001.PARQUET", "test.tsv"):
        (tmp_path / name).touch()
    files = find_data_files(tmp_path)
    found = [path.name for path in (files.train, files.validation, files.test)]
    assert found == ["train.csv", "dev-00000-of-00001.PARQUET", "test.tsv"]
    (tmp_path / "train.json").touch()
    with pytest.raises(InputError, match=r"train\.csv, train\.json: give the file itself"):
        find_data_files(tmp_path)


def test_a_single_file(tmp_path):
    only = tmp_path / "data" / "school_math_first1000.json"
    only.parent.mkdir()
    with pytest.raises(InputError, match=r"no file of rows \(\.json, \.jsonl, \.csv, \.tsv, \.parquet\)"):
        find_data_files(only.parent)
    only.write_text("{}")
    assert find_data_files(only.parent).train == only
    assert find_data_files(only).train == only
    assert find_data_files(train_file=str(only)).validation is None
    assert find_data_files(str(only).replace("/", "\\")).train == only
    with pytest.raises(InputError, match=r"--train_file nowhere\.json not found"):
        find_data_files(train_file="nowhere.json")


@pytest.mark.parametrize(("rows", "held"), [(2, 1), (10, 1), (1000, 20), (60_000, 1000)])
def test_hold_out(rows, held):
    train, validation = split_validation(rows)
    assert len(validation) == held
    assert sorted([*train, *validation]) == list(range(rows))
    assert list(train) == sorted(train)
    assert list(validation) == sorted(validation)
    assert all(
        np.array_equal(*pair) for pair in zip(split_validation(rows), (train, validation), strict=True)
    )
    with pytest.raises(InputError, match="--validation_file"):
        split_validation(1)


@pytest.mark.parametrize(
    ("name", "rows", "first"),
    [
        ("AdvertiseGen/dev.json", 1070, "类型#上衣*材质#牛仔布"),
        ("AdvertiseGen/train_first5000.json", 5000, "类型#裤*版型#宽松"),
        ("school_math/school_math_first1000.json", 1000, "题目："),
    ],
)
def test_real_rows(name, rows, first):
    examples = load_examples(data(name))
    assert len(examples) == rows
    assert examples[0].messages[0]["content"].startswith(first)
    assert all(len(example.messages) == 2 and example.answer for example in examples)


def test_real_folder():
    files = find_data_files(data("AdvertiseGen"))
    assert (files.train.name, files.validation.name) == ("train_first5000.json", "dev.json")
