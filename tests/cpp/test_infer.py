"""paddle_glm_infer gives Python's tokens, and says in one line what is wrong."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.base import Backend
from paddle_glm.chat_template import Message, render
from paddle_glm.export import export_model
from paddle_glm.generation import ChatSession, GenerationParams, generate_batch
from paddle_glm.generation.response_parser import parse_messages, visible_text
from paddle_glm.generation.session import with_special_token_ids
from paddle_glm.main import main
from paddle_glm.models.base import CausalLM
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tokenizers import Tokenizer
from tests.cpp.build import build, checked, run
from tests.tiny_sentencepiece import write_tiny_model

TOKENS = 12
QUESTIONS = ("类型#裤*版型#宽松", "你好", "上衣 黑色, 好看?", "a", "裙\n子")


@dataclass
class Exported:
    folder: Path
    backend: Backend
    tokenizer: Tokenizer


@pytest.fixture(scope="module", params=["chatglm", "chatglm2", "chatglm3", "chatglm2-float16"])
def exported(request, tiny_rows, tmp_path_factory) -> Exported:
    family, _, dtype = request.param.partition("-")
    path = tmp_path_factory.mktemp("cpp")
    model, tokenizer = tiny_model(path, family, tiny_rows, dtype or "float32")
    export_model(model, tokenizer, path / "out", prefix="model" if dtype else "chatglm")
    return Exported(path / "out", open_backend("paddle", path / "out"), tokenizer)


def tiny_model(
    path: Path, family: str, rows: list[dict], dtype: str = "float32"
) -> tuple[CausalLM, Tokenizer]:
    """An untrained model that says something."""
    texts = [text for row in rows for text in row.values()]
    vocab = 600 if family == "chatglm" else 512
    sizes = {"vocab_size": vocab, "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "seed": 1}
    write_checkpoint(path / "model", texts, family=family, **sizes)
    model = AutoModel.from_pretrained(path / "model", dtype)
    wake(model)
    return model, AutoTokenizer.from_pretrained(path / "model")


def wake(model: CausalLM) -> None:
    """Enlarge the layers' weights: an untrained ChatGLM-6B repeats its last token, whatever stands before."""
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.ndim == 2:
            parameter.set_value(parameter * 40)


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cpp") / "out"
    export_model(
        AutoModel.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint), path
    )
    return path


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def infer(*arguments: object, stdin: str = "") -> str:
    return checked(build() / "paddle_glm_infer", *arguments, stdin=stdin)


def rows_of(exported: Exported, tmp_path: Path, *flags: object) -> list[dict]:
    source, target = tmp_path / "rows.json", tmp_path / "answers.jsonl"
    source.write_text(json.dumps([{"content": text} for text in QUESTIONS], ensure_ascii=False), "utf-8")
    files = ("--input_file", source, "--output_file", target)
    infer("--model_dir", exported.folder, *files, "--max_new_tokens", TOKENS, *flags)
    return [json.loads(line) for line in target.read_text("utf-8").splitlines()]


def python_ids(exported: Exported, batch: int, **values: Any) -> list[list[int]]:
    """What Python answers QUESTIONS, `batch` at a time."""
    tokenizer = exported.tokenizer
    params = GenerationParams(max_new_tokens=TOKENS, **values)
    params = with_special_token_ids(params, tokenizer, tokenizer.template)
    asked: list[list[Message]] = [[{"role": "user", "content": text}] for text in QUESTIONS]
    prompts = [render(tokenizer.template, tokenizer, messages).input_ids for messages in asked]
    answers: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        answers += generate_batch(exported.backend, prompts[start : start + batch], params)
    return answers


WAYS: dict[str, tuple[dict, tuple]] = {
    "greedy": ({"do_sample": False}, ()),
    "penalty": ({"do_sample": False, "repetition_penalty": 1.5}, ("--repetition_penalty", 1.5)),
    "sampling": (
        {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "seed": 7},
        ("--temperature", 1.5, "--top_k", 40, "--top_p", 0.9, "--seed", 7),
    ),
    "beams": (
        {"do_sample": False, "num_beams": 3, "length_penalty": 0.6, "repetition_penalty": 1.2},
        ("--num_beams", 3, "--length_penalty", 0.6, "--repetition_penalty", 1.2),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_are_pythons(exported, way, batch, tmp_path):
    values, flags = WAYS[way]
    tokenizer = exported.tokenizer
    expected = python_ids(exported, batch, **values)
    assert len({token for ids in expected for token in ids}) > len(expected)  # they do say something
    rows = rows_of(exported, tmp_path, "--batch_size", batch, *flags)
    assert [row["ids"] for row in rows] == expected
    assert [row["src"] for row in rows] == list(QUESTIONS)
    texts = [visible_text(parse_messages(tokenizer.template, tokenizer.decode(ids))) for ids in expected]
    assert [row["output"] for row in rows] == texts


def test_a_streamed_prompt_and_a_conversation(exported):
    params = GenerationParams(do_sample=False, max_new_tokens=TOKENS)
    session = ChatSession(exported.backend, exported.tokenizer, params)
    messages: list[Message] = [{"role": "system", "content": "简短"}]
    answers = []
    for question in QUESTIONS[:2]:
        messages.append({"role": "user", "content": question})
        reply = session.answer(messages)
        messages += reply.messages
        answers.append(visible_text(reply.messages))
    common = ("--model_dir", exported.folder, "--max_new_tokens", TOKENS, "--system", "简短")
    assert infer(*common, "--prompt", QUESTIONS[0]) == answers[0] + "\n"
    lines = "\n".join(["", *QUESTIONS[:2], "clear", QUESTIONS[0], "stop", "never"])
    shown = infer(*common, "--chat", "--do_sample", "false", stdin=lines)
    said = [part.partition("ChatGLM：")[2] for part in shown.split("\n用户：") if "ChatGLM：" in part]
    assert said == [answers[0] + "\n", answers[1] + "\n", answers[0] + "\n"]
    assert "对话历史已清空" in shown


def test_a_row_may_hold_a_conversation(exported, tmp_path):
    pair = [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]
    rows = [
        {"messages": [*pair, {"role": "user", "content": "三"}, {"role": "assistant", "content": "四"}]},
        {"prompt": "三", "history": [["一", "二"]]},
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows), "utf-8")
    lines = infer("--model_dir", exported.folder, "--input_file", source, "--max_new_tokens", 4).splitlines()
    first, second = map(json.loads, lines)
    assert first == {**second, "tgt": "四"} and (second["src"], second["tgt"]) == ("三", "")


def test_benchmark_and_help(folder):
    result = run(build() / "paddle_glm_infer", "--help")
    assert (result.returncode, result.stderr) == (0, "") and "--repetition_penalty" in result.stdout
    flags = ("--max_new_tokens", "3", "--benchmark", "--num_threads", "1")
    result = run(build() / "paddle_glm_infer", "--model_dir", folder, "--prompt", "你好", *flags)
    for word in ("load", "prefill", "decode", "tokens/s", "peak memory"):
        assert word in result.stderr


def refusal(*arguments) -> str:
    """The one line that the program ends with."""
    result = run(build() / "paddle_glm_infer", *arguments)
    assert result.returncode == 2, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


ASK = ("--prompt", "你好")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--model_dir is missing"),
        (("--model_dir", "."), "give one of --prompt, --chat, --serve and --input_file"),
        (("--nonsense",), "unknown argument --nonsense"),
        (("--model_dir",), "--model_dir needs a value"),
        (("--chat=1",), "--chat takes no value"),
        (("--model_dir", "/nowhere", *ASK), "generation_meta.json not found"),
        (("--model_dir", ".", *ASK, "--top_k", "many"), "--top_k many: expected a number"),
        (("--model_dir", ".", *ASK, "--seed", "-1"), "--seed -1: expected a number"),
        (("--model_dir", ".", *ASK, "--output_file", "x"), "--output_file needs --input_file"),
        (("--model_dir", ".", *ASK, "--prompt_column", "q"), "give --input_file too"),
        (("--model_dir", ".", *ASK, "--response_column", "a"), "need --prompt_column"),
        (("--model_dir", ".", *ASK, "--do_sample", "maybe"), "--do_sample maybe: expected true or false"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    assert message in refusal(*arguments)


def test_values_and_files_that_are_refused(folder, tmp_path):
    ask = ("--model_dir", folder, *ASK)
    assert "temperature is 0: expected a number from 1e-06 on" in refusal(*ask, "--temperature", 0)
    assert "top_p is 2" in refusal(*ask, "--top_p", 2)
    assert "num_beams is 0" in refusal(*ask, "--num_beams", 0)
    assert "num_beams is 3: expected 1 with sampling" in refusal(
        *ask, "--num_beams", 3, "--do_sample", "true"
    )
    assert "leaves no room for an answer within max_length 3" in refusal(*ask, "--max_length", 3)
    long = ("--model_dir", folder, "--prompt", "长" * 3000)
    assert "the model's limit of 2048 tokens" in refusal(*long)
    assert "engine 'other' is not in" in refusal(*ask, "--engine", "other")
    assert "backend 'x' is for engine 'fastdeploy', not for 'paddle'" in refusal(*ask, "--backend", "x")
    assert "wrote, this folder is in the format paddle, for --engine paddle" in refusal(
        *ask, "--engine", "fastdeploy"
    )
    rows = tmp_path / "rows.json"
    asked = ("--model_dir", folder, "--input_file", rows)
    assert "rows.json not found" in refusal(*asked)
    for text, message in (
        ("[1]", "row 1"),
        ('{"content": "a"}\n{"content"', "rows.json, row 2"),
        ('{"content": "a"}\n{"other": "b"}', "rows.json, row 2: no known columns among other"),
        (
            '{"other": "b"}',
            "rows.json, row 1: no known columns among other (known: messages; conversations; ",
        ),
        ("", "rows.json holds no usable row"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
            "expected 'user'",
        ),
    ):
        rows.write_text(text, "utf-8")
        assert message in refusal(*asked)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk"])
def test_the_command_for_another_encoding_mends_it(folder, tmp_path, encoding):
    rows = tmp_path / "my rows.json"
    rows.write_bytes('[{"content": "类型"}]'.encode(encoding))
    asked = ("--model_dir", folder, "--max_new_tokens", 1, "--input_file")
    command = refusal(*asked, rows).partition("convert it: ")[2]
    assert command.startswith("iconv -f ")
    checked("sh", "-c", command)
    assert json.loads(infer(*asked, tmp_path / "my rows-utf8.json"))["src"] == "类型"


@pytest.mark.parametrize("name", ["rows.csv", "ROWS.TSV", "rows.parquet", "rows"])
def test_tables_are_for_python(folder, tmp_path, name):
    rows = tmp_path / name
    rows.write_bytes(b"PAR1")
    assert "this program reads rows as JSON or JSON lines" in refusal(
        "--model_dir", folder, "--input_file", rows
    )


def test_named_columns_are_those_of_python(folder, tmp_path):
    row = {"frage": "三", "antwort": "四", "zuvor": [["一", "二"]]}
    known = {"prompt": "三", "response": "四", "history": [["一", "二"]]}
    flags = ("--prompt_column", "frage", "--response_column", "antwort", "--history_column", "zuvor")
    found = []
    for name, value, columns in (("a.json", row, flags), ("b.json", known, ())):
        (tmp_path / name).write_text(json.dumps([value, {"frage": " ", "prompt": ""}]), "utf-8")
        asked = ("--model_dir", folder, "--input_file", tmp_path / name, "--max_new_tokens", 4)
        result = run(build() / "paddle_glm_infer", *asked, *columns)
        assert "left out 1 rows with an empty question or answer (rows 2)" in result.stderr
        found.append(json.loads(result.stdout))
    assert found[0] == found[1]
    assert (found[0]["src"], found[0]["tgt"]) == ("三", "四")
    target = tmp_path / "python.jsonl"
    python = ["infer", "--model_path", folder, "--data_file", tmp_path / "a.json", "--output_file", target]
    assert main([*map(str, python), *flags, "--tgt_length", "4"]) == 0
    assert json.loads(target.read_text("utf-8"))["output"] == found[0]["output"]


def test_a_damaged_folder_is_refused(damaged):
    ask = ("--model_dir", damaged, *ASK)
    weights = damaged / "chatglm.pdiparams"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "chatglm.pdiparams has" in refusal(*ask)
    weights.unlink()
    assert "chatglm.pdiparams is missing" in refusal(*ask)
    weights.write_bytes(b"\0" * len(whole))  # which Paddle's own libraries have a word to say about, too
    result = run(build() / "paddle_glm_infer", *ask)
    assert result.returncode == 2
    assert "cannot be opened by engine 'paddle'" in result.stderr.splitlines()[-1]


def test_a_wrong_tokenizer_is_refused(damaged):
    write_tiny_model(damaged / "tokenizer.model")
    assert "tokenizer.model has" in refusal("--model_dir", damaged, *ASK)
    resize(damaged, "tokenizer.model")
    assert "pieces, the exported tokenizer has" in refusal("--model_dir", damaged, *ASK)
    (damaged / "tokenizer.model").write_bytes(b"nonsense")
    resize(damaged, "tokenizer.model")
    assert "is not a whole SentencePiece model" in refusal("--model_dir", damaged, *ASK)


def resize(folder: Path, name: str) -> None:
    """Let the meta data say that a file has the size that it has."""
    path = folder / "generation_meta.json"
    values = json.loads(path.read_text("utf-8"))
    values["files"][name] = (folder / name).stat().st_size
    path.write_text(json.dumps(values), "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: {**values, "format_version": 99}, "has format version 99, this program reads"),
        (lambda values: [], "has format version null"),
        (lambda values: {k: v for k, v in values.items() if k != "spelling"}, "spelling"),
        (lambda values: {**values, "positions": {"rule": "other"}}, 'position rule "other"'),
        (lambda values: {**values, "format": "other"}, 'a graph in the format "other"'),
        (
            lambda values: {**values, "template": {**values["template"], "layout": "x"}},
            'layout "x" is unknown',
        ),
        (lambda values: {**values, "vocab_size": 7}, "outside the model's vocabulary of 7"),
    ],
)
def test_other_meta_data_is_refused(damaged, change, message):
    path = damaged / "generation_meta.json"
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    assert message in refusal("--model_dir", damaged, *ASK)


def test_meta_data_that_is_no_json(damaged):
    (damaged / "generation_meta.json").write_text("{", "utf-8")
    assert "generation_meta.json cannot be read" in refusal("--model_dir", damaged, *ASK)


def give_prefix(source: Path, target: Path) -> Path:
    """A copy of an exported folder whose cache begins with random keys and values of five tokens."""
    shutil.copytree(source, target)
    path = target / "generation_meta.json"
    values = json.loads(path.read_text("utf-8"))
    random = np.random.default_rng(0)
    shape = (1, values["num_key_value_heads"], 5, values["head_dim"])
    names = [one["name"] for one in values["inputs"] if one["name"].startswith("past_")]
    save_file({name: random.standard_normal(shape, np.float32) for name in names}, target / "first")
    values["files"]["first"] = (target / "first").stat().st_size
    path.write_text(json.dumps({**values, "first_cache": {"file": "first", "length": 5}}), "utf-8")
    return target


@pytest.fixture(scope="module")
def prefixed(exported, tmp_path_factory) -> Exported:
    folder = give_prefix(exported.folder, tmp_path_factory.mktemp("cpp") / "prefixed")
    return Exported(folder, open_backend("paddle", folder), exported.tokenizer)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_behind_a_trained_prefix(prefixed, exported, way, tmp_path):
    values, flags = WAYS[way]
    expected = python_ids(prefixed, 3, **values)
    assert expected != python_ids(exported, 3, **values)
    rows = rows_of(prefixed, tmp_path, "--batch_size", 3, *flags)
    assert [row["ids"] for row in rows] == expected


def test_a_damaged_prefix_is_refused(prefixed, tmp_path):
    folder = shutil.copytree(prefixed.folder, tmp_path / "copy")
    (folder / "first").write_bytes(b"\xff" * (folder / "first").stat().st_size)
    assert "first is no safetensors file" in refusal("--model_dir", folder, *ASK)
