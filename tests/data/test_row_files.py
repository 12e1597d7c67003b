"""CSV, TSV and parquet hold the rows that JSON does; encodings other than UTF-8 are named."""

import builtins
import json
import re
import subprocess

import pyarrow
import pytest
from pyarrow import parquet

from paddle_glm.data import json_array
from paddle_glm.data.data_files import Columns, load_examples
from paddle_glm.data.row_reader import read_rows
from paddle_glm.errors import InputError

QUESTION, ANSWER = '类型#裤*款式#"阔腿",宽松', "第一行\n第二行, 后面"
ROWS = [
    {"prompt": "问", "response": "答", "history": []},
    {"prompt": QUESTION, "response": ANSWER, "history": [["一", "二"], ["三", "四\n五"]]},
]
MESSAGES = [("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四\n五")]
MESSAGES += [("user", QUESTION), ("assistant", ANSWER)]


def told(example):
    return [(message["role"], message["content"]) for message in example.messages]


def table(rows, delimiter=",", end="\r\n"):
    """The rows as spreadsheets write them: every field in quotes, lists as JSON."""
    values = [list(rows[0]), *(list(row.values()) for row in rows)]
    texts = [
        [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in line] for line in values
    ]
    return end.join(delimiter.join('"' + t.replace('"', '""') + '"' for t in line) for line in texts) + end


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".CSV", ","), (".tsv", "\t")])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_hold_what_json_does(tmp_path, suffix, delimiter, encoding, end):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(table(ROWS, delimiter, end).encode(encoding))
    first, second = load_examples(path)
    assert told(first) == [("user", "问"), ("assistant", "答")]
    assert told(second) == MESSAGES
    assert second.origin == f"{path}:3"


@pytest.mark.parametrize("name", ["rows.parquet", "rows"])
def test_parquet_holds_what_json_does(tmp_path, name):
    path = tmp_path / name
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert told(load_examples(path)[1]) == MESSAGES
    texts = [{**row, "history": json.dumps(row["history"])} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(texts), path)
    assert told(load_examples(path)[1]) == MESSAGES
    assert load_examples(path)[1].origin == f"{path}:2"


def test_conversations_in_tables(tmp_path):
    turns = [{"role": "system", "content": "s", "tools": [{"name": "t"}]}, {"role": "user", "content": "q"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "a"}]}]
    (tmp_path / "rows.csv").write_text(table(rows), encoding="utf-8", newline="")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for path in (tmp_path / "rows.csv", tmp_path / "rows.parquet"):
        (example,) = load_examples(path)
        assert example.messages == tuple(rows[0]["messages"])  # no "tools" where a message had none


def test_columns_are_named_and_rows_counted(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('q, a ,h\n一,二,"[[""x"", ""y""]]"\n\n三,四,\n', encoding="utf-8")
    examples = load_examples(path, Columns(prompt="q", response="a", history="h"))
    assert told(examples[0]) == [("user", "x"), ("assistant", "y"), ("user", "一"), ("assistant", "二")]
    assert told(examples[1]) == [("user", "三"), ("assistant", "四")]
    assert examples[1].origin == f"{path}:4"
    assert len(load_examples(path, Columns(prompt="q", response="a"), limit=1)) == 1
    with pytest.raises(InputError, match=r"rows.csv:2: no known columns among q, a, h .*--prompt_column"):
        load_examples(path)


def test_long_fields_and_answers_left_open(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"content,summary\n{'长' * 200_000},\n", encoding="utf-8")
    (example,) = load_examples(path, require_answer=False)
    assert len(example.prompt_messages[0]["content"]) == 200_000
    assert example.answer is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('src,tgt\n"a\nb",c\nq\n', r":4: 1 fields, expected 2 \(src, tgt\)"),
        ("src,tgt\nq,a,b\n", r":2: 3 fields, expected 2 .*double quotes"),
        (
            'src,tgt\nq,a\n"open,\n\nlast',
            r":3: the row that begins here is not CSV \(unexpected end of data\)",
        ),
        ('src,tgt\n"q" w,a\n', r":2: the row that begins here is not CSV .*doubled"),
        ("src,src\nq,a\n", r":1: the column 'src' occurs twice"),
        (
            "prompt,response,history\nq,a,\"[['x', 'y']]\"\n",
            r":2: 'history' is .*expected a list; a table",
        ),
        ("prompt,response,history\nq,a,5\n", r":2: 'history' is \"5\": expected a list"),
        ("prompt,response,history\nq,a,[5]\n", r":2: 'history' holds 5: expected \[question, answer\] pairs"),
        ("src,tgt\n", " holds no usable row"),
        ("", " holds no usable row"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, reason):
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"rows\.csv{reason}"):
        load_examples(path)


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(InputError, match=r"rows\.parquet cannot be read as parquet .*: write or download"):
        load_examples(path)
    parquet.write_table(pyarrow.table({"src": ["q", "q"], "tgt": [b"bytes", b"\xff"]}), path)
    with pytest.raises(InputError, match=r"rows\.parquet:1: 'tgt' is .*: expected text"):
        load_examples(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.touch()
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'need pyarrow: pip install -c constraints.txt -e "\.\[parquet\]"'):
        load_examples(path)


TEXTS = {
    "rows.json": '{"content": "类型", "summary": "一条裤子"}\n' * 3,
    "my rows.csv": "content,summary\r\n类型#裤,一条裤子\r\n",
}


@pytest.mark.integration
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("written", "named", "converted_from"),
    [
        ("utf-16", "looks like UTF-16", "UTF-16"),  # with a mark
        ("utf-16-le", "looks like UTF-16", "UTF-16LE"),
        ("utf-16-be", "looks like UTF-16", "UTF-16BE"),
        ("utf-32", "looks like UTF-32", "UTF-32"),
        ("gbk", "is not UTF-8; it looks like GBK", "GB18030"),
    ],
)
def test_the_command_for_another_encoding_mends_it(tmp_path, name, written, named, converted_from):
    path = tmp_path / name
    path.write_bytes(TEXTS[name].encode(written))
    with pytest.raises(InputError) as error:
        load_examples(path)
    assert named in str(error.value)
    command = str(error.value).partition("convert it: ")[2]
    assert command.startswith(f"iconv -f {converted_from} -t UTF-8 ")
    subprocess.run(command, shell=True, check=True)
    converted = path.with_name(f"{path.stem}-utf8{path.suffix}")
    assert load_examples(converted)[0].messages[1]["content"] == "一条裤子"


def test_utf8_and_what_is_wrong_in_it(tmp_path):
    path = tmp_path / "rows.json"
    line = json.dumps({"content": "类型", "summary": "裤"}, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n")
    assert told(load_examples(path)[0]) == [("user", "类型"), ("assistant", "裤")]
    path.write_bytes(line + b"\n" + line[:14])  # cut off within a character: no GBK
    with pytest.raises(
        InputError, match=r"rows\.json:2: byte .* is not UTF-8; if it is GBK, convert it: iconv"
    ):
        load_examples(path)
    path.write_bytes(line + b"\n\0")
    with pytest.raises(InputError, match=r"rows\.json:2: not JSON"):
        load_examples(path)


@pytest.mark.parametrize(
    ("beginning", "advice"),
    [(b"PK\x03\x04", "CSV UTF-8"), (b"\xd0\xcf\x11\xe0", "CSV UTF-8"), (b"\x1f\x8b", "gunzip")],
)
def test_workbooks_and_archives(tmp_path, beginning, advice):
    path = tmp_path / "rows.csv"
    path.write_bytes(beginning + bytes(200))
    with pytest.raises(InputError, match=re.escape(str(path)) + f" is .*{advice}"):
        load_examples(path)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "dev.json").write_text("[]")
    with pytest.raises(InputError, match=r"is a folder, expected a file of rows: dev\.json"):
        load_examples(tmp_path)


ARRAY = json.dumps([*ROWS, -1.5e10, 12345, None, "一\n二"], ensure_ascii=False, indent=1)


@pytest.mark.parametrize("block", [1, 3, 16, 1 << 20])
@pytest.mark.parametrize("text", [ARRAY, f"\n {ARRAY}\n", "[ ]", json.dumps(ROWS)])
def test_an_array_is_read_a_block_at_a_time(tmp_path, monkeypatch, text, block):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(json_array, "_BLOCK", block)
    assert [row for _, row in read_rows(path)] == json.loads(text)
    assert [row for _, row in read_rows(path, lambda index: index == 1)] == json.loads(text)[1:2]


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[\n{"a": 1},\n {"a": nule}]', ":3: not JSON (Expecting value at column 8)"),
        ('[1,\n"open', ":2: not JSON (Unterminated string starting at at column 1)"),
        ('[1,\n2 3]', ":2: expected ',' or ']' after a row, found '3"),
        ("[1\n", ":2: expected ',' or ']' after a row, found 'the end of the file'"),
        ("[1]\n[2]", ": found '["),
    ],
)  # fmt: skip
def test_bad_arrays_are_named_wherever_they_are_cut(tmp_path, monkeypatch, text, reason, block):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(json_array, "_BLOCK", block)
    with pytest.raises(InputError, match=re.escape(f"rows.json{reason}")):
        list(read_rows(path))


def test_unwanted_lines_are_not_parsed(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n\nno JSON\n{"a": 2}\n', encoding="utf-8")
    assert list(read_rows(path, lambda index: index != 1)) == [(1, {"a": 1}), (4, {"a": 2})]
    with pytest.raises(InputError, match=r"rows\.json:3: not JSON"):
        list(read_rows(path))
