"""export, infer and chat as commands, over one tiny model."""

import builtins
import json

import pytest

from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.commands import export
from paddle_glm.commands._chat_loop import ChatLoop
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.main import main
from tests.backends import fastdeploy_standin


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "exported"
    assert (
        main(["export", "--model_name_or_path", str(tiny_checkpoint), "--output_path", f"{folder}/chatglm"])
        == 0
    )
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("given", "prefix", "expected"),
    [("out/chatglm", "chatglm", ("out", "chatglm")), ("out", None, ("out", "chatglm")),
     ("out/chatglm", None, ("out", "chatglm")), ("a/out/", None, ("a/out", "chatglm")),
     ("infer/model", None, ("infer", "model")), ("infer/model", "glm", ("infer/model", "glm")),
     ("a/out/glm", "glm", ("a/out", "glm")), ("model", None, ("model", "chatglm")),
     ("chatglm", None, ("chatglm", "chatglm"))],
)  # fmt: skip
def test_both_spellings_of_the_output(given, prefix, expected):
    folder, found = export.parse_output_path(given, prefix)
    assert (str(folder), found) == expected


@pytest.mark.parametrize("prefix", ["model", "glm2"])
def test_paddlenlps_commands_in_turn(prefix, tiny_checkpoint, exported, tmp_path, capsys):
    """`--output_path infer/model`, then `--model_path infer --model_prefix model`: of any name."""
    start = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(tmp_path / "infer" / prefix)]
    assert main(["export", *start]) == 0
    if prefix == "model":
        assert {"model.json", "model.pdiparams"} <= {path.name for path in (tmp_path / "infer").iterdir()}
    found, sizes = [], ["--tgt_length", "6"]
    for words in (
        ["--model_path", str(tmp_path / "infer"), "--model_prefix", prefix],
        ["--model_path", str(tmp_path / "infer" / prefix)],
        ["--model_path", str(exported)],
    ):
        found.append(tmp_path / f"answers{len(found)}")
        assert main(["infer", *words, *sizes, "--output_file", str(found[-1])]) == 0
    assert lines(found[0]) == lines(found[1]) == lines(found[2])
    assert main(["infer", "--model_path", str(tmp_path / "infer"), "--model_prefix", "other"]) == 2
    assert "'other'" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_models_own_dtype_is_exported(dtype, tiny_checkpoint, tmp_path, capsys):
    reshard(tiny_checkpoint, tmp_path / "model", dtype=dtype)
    start = ["export", "--model_name_or_path", str(tmp_path / "model"), "--output_path"]
    assert main([*start, str(tmp_path / "own")]) == 0
    assert GenerationMeta.read(tmp_path / "own").stored_dtype == dtype
    if dtype == "float16":
        assert main([*start, str(tmp_path / "wide"), "--dtype", "float32"]) == 0
        own, wide = ((tmp_path / name / "chatglm.pdiparams").stat().st_size for name in ("own", "wide"))
        assert wide > 1.7 * own  # positions are float32 in both
    if dtype == "bfloat16":
        assert main([*start, str(tmp_path / "onnx"), "--format", "onnx"]) == 2
        assert "expected one of float32, float16 (--dtype)" in capsys.readouterr().err


def test_a_device_that_has_no_meaning_or_is_not_there(tiny_checkpoint, tmp_path, capsys):
    start = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(tmp_path / "out"), "--device"]
    for words, message in (
        (["export", *start, "gpu", "--format", "onnx"], "ONNX graphs are made on the CPU"),
        (["export", *start, "tpu"], "expected auto, cpu, gpu or gpu:N"),
        (["quantize", *start, "cpu"], "--device cpu: only --method gptq"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_shards_are_exported_as_they_are(tiny_checkpoint, exported, tmp_path):
    reshard(tiny_checkpoint, tmp_path / "shards", 2)
    start = ["export", "--model_name_or_path", str(tmp_path / "shards"), "--output_path"]
    assert main([*start, str(tmp_path / "out")]) == 0
    weights = [(folder / "chatglm.pdiparams").read_bytes() for folder in (tmp_path / "out", exported)]
    assert weights[0] == weights[1]
    assert main([*start, str(tmp_path / "int4"), "--quantization_bit", "4"]) == 0
    assert main(["infer", "--model_path", str(tmp_path / "int4"), "--tgt_length", "2"]) == 0


def test_the_folder_holds_all_that_is_needed(exported):
    names = {path.name for path in exported.iterdir()}
    assert names >= {
        "chatglm.json",
        "chatglm.pdiparams",
        "generation_meta.json",
        "tokenizer.model",
        "config.json",
    }


def test_infer_answers_as_predict_does(exported, tiny_checkpoint, tiny_rows, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in tiny_rows[:5]), encoding="utf-8")
    sizes = ["--src_length", "24", "--tgt_length", "12", "--batch_size", "2", "--data_file", str(rows)]
    for more in ([], ["--num_beams", "2"]):
        inferred, predicted = tmp_path / "inferred", tmp_path / "predicted"
        infer = ["infer", "--model_path", str(exported), "--model_prefix", "chatglm", "--device", "cpu"]
        assert main([*infer, "--output_file", str(inferred), *sizes, *more]) == 0
        predict = ["predict", "--model_name_or_path", str(tiny_checkpoint), "--predict_file", str(predicted)]
        assert main([*predict, *sizes, *more]) == 0
        assert lines(inferred) == lines(predicted)
        assert [row["tgt"] for row in lines(inferred)] == [row["summary"] for row in tiny_rows[:5]]


def test_infer_takes_named_columns(exported, tmp_path, capsys):
    known = [{"prompt": "三", "response": "四", "history": [["一", "二"]]}, {"prompt": "五", "response": ""}]
    named = [{"frage": "三", "antwort": "四", "zuvor": [["一", "二"]]}, {"frage": "五", "antwort": ""}]
    flags = ["--prompt_column", "frage", "--response_column", "antwort", "--history_column", "zuvor"]
    infer = ["infer", "--model_path", str(exported), "--tgt_length", "6"]
    found = []
    for name, rows, columns in (("known", known, []), ("named", named, flags)):
        source, target = tmp_path / f"{name}.json", tmp_path / f"{name}.answers"
        source.write_text(json.dumps(rows), encoding="utf-8")
        assert main([*infer, "--data_file", str(source), "--output_file", str(target), *columns]) == 0
        found.append(lines(target))
    assert found[0] == found[1]
    assert [(row["src"], row["tgt"]) for row in found[1]] == [("三", "四"), ("五", "")]
    for words, message in (
        (["--data_file", str(tmp_path / "named.json")], "named.json:1: no known columns among frage"),
        (
            ["--data_file", str(source), *flags[2:]],
            "--response_column and --history_column need --prompt_col",
        ),
        (["--prompt", "你好", *flags], "--prompt_column names a key of rows: give --data_file too"),
        (["--data_file", "nowhere.csv"], "nowhere.csv: No such file"),
    ):
        assert main([*infer, *words]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def onnx_folder(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "onnx"
    words = ["export", "--model_name_or_path", str(tiny_checkpoint), "--output_path", str(folder)]
    assert main([*words, "--format", "onnx"]) == 0
    return folder


def test_every_engine_answers_alike(
    exported, onnx_folder, tiny_checkpoint, tiny_rows, tmp_path, monkeypatch, capsys
):
    fastdeploy_standin.install(monkeypatch)
    rows = tmp_path / "rows.json"
    rows.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in tiny_rows[:3]), encoding="utf-8")
    sizes = ["--tgt_length", "8", "--batch_size", "2", "--data_file", str(rows), "--cpu_threads", "1"]
    paddle = tmp_path / "paddle"
    assert main(["infer", "--model_path", str(exported), "--output_file", str(paddle), *sizes]) == 0
    engines = [
        [],
        ["onnx_runtime"],
        ["openvino"],
        ["fastdeploy"],
        ["fastdeploy", "--fastdeploy_engine", "openvino"],
    ]
    for words in engines:
        found = tmp_path / "found"
        backend = ["--backend", *words] if words else []
        infer = ["infer", "--model_path", str(onnx_folder), "--output_file", str(found), *sizes, *backend]
        assert main(infer) == 0
        assert lines(found) == lines(paddle)
    predicted, model = tmp_path / "predicted", ["predict", "--model_name_or_path", str(onnx_folder)]
    predict = [*model, "--predict_file", str(predicted), *sizes[:-2]]
    fastdeploy = ["--backend", "fastdeploy", "--fastdeploy_engine", "openvino"]
    for words in ([], ["--backend", "openvino"], fastdeploy):
        assert main([*predict, *words]) == 0
        assert lines(predicted) == lines(paddle)
    assert main(["predict", "--model_name_or_path", str(tiny_checkpoint), "--backend", "openvino"]) == 2
    assert "no exported folder" in capsys.readouterr().err
    assert main([*predict, *fastdeploy[2:]]) == 2
    assert "only fastdeploy does" in capsys.readouterr().err
    assert main(["infer", "--model_path", str(exported), "--backend", "openvino"]) == 2
    assert "format paddle, which --backend paddle reads" in capsys.readouterr().err


def test_infer_asks_common_questions_without_a_prompt(exported, capsys):
    assert main(["infer", "--model_path", str(exported), "--tgt_length", "4", "--cpu_threads", "1"]) == 0
    output = capsys.readouterr().out
    assert "问：你好\n答：" in output
    assert "2 answers" in output and "tokens/s" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--model_prefix", "other"], "not 'other'"),
     (["--prompt", "a", "--data_file", "b"], "give one of them"),
     (["--batch_size", "0"], "--batch_size 0"), (["--max_length", "3"], "leaves no room"),
     (["--device", "gpu"], "install paddlepaddle-gpu"), (["--data_file", "nowhere.json"], "nowhere.json")],
)  # fmt: skip
def test_errors_are_one_line(exported, capsys, flags, message):
    assert main(["infer", "--model_path", str(exported), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("paddle-glm: error: ") and error.count("\n") == 1


def test_exporting_onto_a_folder_in_use_needs_overwrite(exported, tiny_checkpoint, capsys):
    again = ["export", "--model_name_or_path", str(tiny_checkpoint), "--output_path", str(exported)]
    assert main(again) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite", "--dtype", "bfloat16"]) == 0
    assert "bfloat16" in capsys.readouterr().out


def test_chat_answers_until_stop(exported, onnx_folder, tiny_checkpoint, capsys, monkeypatch):
    for folder, backend in ((exported, []), (tiny_checkpoint, []), (onnx_folder, ["--backend", "openvino"])):
        questions = iter(["你好", "", "再见", "clear", "你好", "stop", "not read"])
        monkeypatch.setattr(builtins, "input", lambda _, questions=questions: next(questions))
        command = ["chat", "--model_path", str(folder), "--max_new_tokens", "6", "--do_sample", "False"]
        assert main([*command, *backend]) == 0
        output = capsys.readouterr().out
        answers = [text.split("\n")[0] for text in output.split("ChatGLM：")[1:]]
        assert len(answers) == 3
        assert answers[0] == answers[2]
        assert next(questions) == "not read"


class Recorder(ChatSession):
    """Keeps what it was asked; can be interrupted as by Ctrl-C."""

    interrupted = False

    def stream(self, messages):
        self.asked = messages
        yield from super().stream(messages)
        if self.interrupted:
            raise KeyboardInterrupt


def test_a_round_that_failed_is_left_out(tiny_checkpoint, monkeypatch, capsys):
    from paddle_glm.auto.engine import open_engine

    engine = open_engine(tiny_checkpoint)
    session = Recorder(engine.backend, engine.tokenizer, GenerationParams(do_sample=False, max_length=60))
    script = iter([("一", False), ("二" * 80, False), ("三", True), ("四", False), ("stop", False)])

    def ask(_):
        question, session.interrupted = next(script)
        return question

    monkeypatch.setattr(builtins, "input", ask)
    ChatLoop(session, [{"role": "system", "content": "短"}]).run()
    assert "leaves no room" in capsys.readouterr().out
    questions = [message["content"] for message in session.asked if message["role"] == "user"]
    assert questions == ["一", "四"]
    assert session.asked[0]["role"] == "system"
