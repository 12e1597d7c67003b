"""Rows from a cache of tokens, or read lazily, are those that are read and tokenized at once."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from paddle_glm.chat_template import with_source_prefix
from paddle_glm.data import token_cache
from paddle_glm.data.data_files import Columns
from paddle_glm.data.samples import SampleFormat
from paddle_glm.data.token_cache import open_token_cache
from paddle_glm.data.train_rows import open_train_rows
from paddle_glm.errors import InputError
from paddle_glm.models.chatglm.tokenizer import ChatGLMTokenizer
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.models.chatglm3.tokenizer import ChatGLM3Tokenizer
from tests.paths import data
from tests.tiny_sentencepiece import write_tiny_model

ROWS = [
    {"src": f"类型#裤*版型#{index}" * (1 + index % 4), "tgt": "宽松" * (1 + index % 5)} for index in range(23)
]
TURNS = [
    {"role": role, "content": text}
    for role, text in (("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四"))
]
NO_ANSWER_LEFT = {
    "messages": [{"role": "user", "content": "长" * 99}, {"role": "assistant", "content": "答"}]
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(token_cache, "ROWS_PER_PART", 4)


@pytest.fixture(scope="module")
def form(tmp_path_factory):
    model = write_tiny_model(tmp_path_factory.mktemp("tiny") / "tokenizer.model")
    tokenizer = ChatGLM3Tokenizer(model)
    return SampleFormat(tokenizer.template, tokenizer, 40, 40)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def samples_of(rows, indices=None):
    dataset = rows.dataset(np.arange(len(rows)) if indices is None else indices)
    samples = [dataset[index] for index in range(len(dataset))]
    return [{name: array.tolist() for name, array in sample.items()} for sample in samples]


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet", "array"])
def test_a_cache_gives_what_memory_does(tmp_path, form, suffix, caplog):
    rows = [*ROWS[:9], {"src": "", "tgt": "x"}, *ROWS[9:15], {"src": "长" * 99, "tgt": "答"}, *ROWS[15:]]
    path = tmp_path / f"rows{suffix if suffix != 'array' else '.json'}"
    if suffix == ".csv":
        text = "src,tgt\r\n" + "".join(f"{row['src']},{row['tgt']}\r\n" for row in rows)
        path.write_text(text, encoding="utf-8", newline="")
    elif suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "array":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        write_jsonl(path, rows)
    warnings = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        caplog.clear()
        source = open_train_rows(path, None, form, cache=cache, progress=False)
        samples = samples_of(source)
        warnings.append([one.getMessage() for one in caplog.records if one.levelno == logging.WARNING])
        if cache is None:
            expected, memory = samples, source
        assert len(source) == len(memory) == 24
        assert samples == expected
        assert source.examples(np.asarray([3, 9, 22])) == memory.examples(np.asarray([3, 9, 22]))
        assert samples_of(source, np.arange(5, 20, 3)) == samples_of(memory, np.arange(5, 20, 3))
        lengths = source.dataset(np.arange(24)).lengths
        assert list(lengths) == [len(sample["labels"]) for sample in samples]
    assert len(samples) == 23
    assert len(warnings[0]) == 2
    assert warnings[0] == warnings[1] == warnings[2]


def test_families_and_conversations(tmp_path, form):
    """Positions of two rows; several targets in one sample."""
    rows = [{"messages": TURNS}, NO_ANSWER_LEFT, {"messages": TURNS[:2]}]
    path = write_jsonl(tmp_path / "rows.json", rows)
    model = form.tokenizer.model_file
    first = ChatGLMTokenizer(data("tokenizers/chatglm-6b/ice_text.model"))
    for tokenizer in (ChatGLM3Tokenizer(model), ChatGLM2Tokenizer(model), first):
        own = SampleFormat(tokenizer.template, tokenizer, 40, 40)
        memory, cache, lazy = (
            samples_of(open_train_rows(path, None, own, *kind))
            for kind in ((False, None), (False, tmp_path / "cache"), (True, None))
        )
        assert memory == cache
        if len(memory) == 3:
            assert lazy == memory
        else:
            assert lazy == [
                memory[0],
                memory[1],
                memory[1],
            ]  # the next row in place of the one without answer


def test_what_the_tokens_depend_on_has_its_own_cache(tmp_path, form):
    path = write_jsonl(tmp_path / "rows.json", [{**row, "q": row["src"]} for row in ROWS])
    folder = tmp_path / "cache"
    two = ChatGLM2Tokenizer(form.tokenizer.model_file)
    rounds = SampleFormat(two.template, two, 40, 40)
    forms = [form, replace(form, tgt_length=3), replace(form, src_length=3), rounds]
    forms.append(replace(rounds, template=with_source_prefix(two.template, "前")))
    for number, one in enumerate(forms, 1):
        cached = samples_of(open_token_cache(folder, path, None, one))
        assert cached == samples_of(open_train_rows(path, None, one))
        assert len(list(folder.iterdir())) == number
    open_token_cache(folder, path, Columns("q", "tgt"), form)
    write_jsonl(path, ROWS[:5])
    assert len(open_token_cache(folder, path, None, form)) == 5
    assert len(list(folder.iterdir())) == len(forms) + 2


def test_errors_are_those_of_reading_at_once(tmp_path, form):
    path = write_jsonl(tmp_path / "rows.json", [*ROWS[:13], {"src": 5, "tgt": "x"}])
    for _ in range(2):  # the second attempt finds the parts of the first
        with pytest.raises(InputError, match=r"rows\.json:14: 'src' is 5: expected text"):
            open_token_cache(tmp_path / "cache", path, None, form)
    write_jsonl(path, [{"src": " ", "tgt": "x"}])
    with pytest.raises(InputError, match="holds no usable row"):
        open_token_cache(tmp_path / "cache", path, None, form)
    write_jsonl(path, [NO_ANSWER_LEFT])
    with pytest.raises(InputError, match="all 1 rows have no answer left"):
        samples_of(open_token_cache(tmp_path / "cache", path, None, form))
    write_jsonl(path, ROWS)
    with pytest.raises(InputError, match=r"no row has the history column 'h'; met src, tgt"):
        open_token_cache(tmp_path / "cache", path, Columns("src", "tgt", "h"), form)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--dataset_cache \S+file: .*: give a folder"):
        open_token_cache(tmp_path / "file", path, None, form)
    cache = open_token_cache(tmp_path / "cache", path, None, form)
    for part in (tmp_path / "cache").glob("*/part-00002.tokens"):
        part.unlink()
    cache.sample(7)
    with pytest.raises(InputError, match=r"part-00002\.tokens was removed or changed: start the run again"):
        cache.sample(8)


HOLD_A_PART = """
import sys, time
from pathlib import Path
from paddle_glm.data.token_cache_writer import _try_claim
assert _try_claim(Path(sys.argv[1]), 1) is not None
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.integration
def test_the_part_of_a_killed_process_is_written_by_another(tmp_path, form):
    path = write_jsonl(tmp_path / "rows.json", ROWS)
    expected = samples_of(open_token_cache(tmp_path / "cache", path, None, form))
    (folder,) = (tmp_path / "cache").iterdir()
    for file in folder.iterdir():
        file.unlink()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_A_PART, folder], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        found = []
        thread = threading.Thread(
            target=lambda: found.append(open_token_cache(tmp_path / "cache", path, None, form))
        )
        thread.start()
        while not (folder / "part-00005.npz").exists():
            thread.join(0.02)
            assert thread.is_alive()
        assert not (folder / "part-00001.npz").exists()  # the other process's share
        assert thread.is_alive()
        os.kill(other.pid, signal.SIGKILL)
        thread.join(30)
    assert samples_of(found[0]) == expected
    assert not list(folder.glob(".*"))


def test_lazy_rows_are_those_in_memory(tmp_path, form):
    path = tmp_path / "rows.json"
    lines = [json.dumps(row, ensure_ascii=row["tgt"] == "宽松") for row in ROWS]
    path.write_bytes(("\ufeff" + "\r\n".join(lines[:7]) + "\n\n \n" + "\n".join(lines[7:])).encode())
    memory = open_train_rows(path, None, form)
    lazy = open_train_rows(path, None, form, lazy=True)
    assert len(lazy) == 23
    assert samples_of(lazy) == samples_of(memory)
    indices = np.asarray([0, 6, 7, 22])
    assert lazy.examples(indices) == memory.examples(indices)
    order = np.argsort(lazy.dataset(indices).lengths)
    assert order.tolist() == np.argsort([len(lines[index].encode()) for index in indices]).tolist()


def test_lazy_rows_that_cannot_be_used(tmp_path, form, caplog):
    empty = {"src": "", "tgt": "x"}
    path = write_jsonl(
        tmp_path / "rows.json", [empty, ROWS[0], {"src": "长" * 99, "tgt": "答"}, *ROWS[1:3], empty]
    )
    lazy = samples_of(open_train_rows(path, None, form, lazy=True))
    first, second, third = samples_of(
        open_train_rows(write_jsonl(tmp_path / "good.json", ROWS[:3]), None, form)
    )
    assert lazy == [first, first, second, second, third, first]
    assert "rows.json:1 is left out: its question or answer is empty" in caplog.text
    assert "rows.json:3 is left out: no answer is left" in caplog.text

    path.write_bytes(b"\n" + path.read_bytes() * 20 + b'{"src": "\xff"}\n{"src": nil}\n')
    dataset = open_train_rows(path, None, form, lazy=True).dataset(
        np.arange(122)
    )  # the first 100 are checked
    with pytest.raises(InputError, match=r"rows\.json:122: byte \d+ \(0xff\) is not UTF-8"):
        dataset[120]
    with pytest.raises(InputError, match=r"rows\.json:123: not JSON \(Expecting value at column 9\)"):
        dataset[121]
    write_jsonl(path, [NO_ANSWER_LEFT] * 3)
    with pytest.raises(InputError, match="all 3 rows have no answer left"):
        samples_of(open_train_rows(path, None, form, lazy=True))
    path.write_text("\n\n")
    with pytest.raises(InputError, match="holds no usable row"):
        open_train_rows(path, None, form, lazy=True)
    path.write_text(json.dumps(ROWS))
    with pytest.raises(InputError, match="--lazy reads JSON Lines alone"):
        open_train_rows(path, None, form, lazy=True)
