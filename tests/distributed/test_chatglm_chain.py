"""Every command on a small ChatGLM-6B: the guides' commands over processes, merge, answers, export, chat."""

import builtins
import json

import pytest

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.main import main
from tests.distributed.launch import launch
from tests.distributed.test_finetune_parallel import SCRIPT, SHORT, assert_equal_runs
from tests.training.finetune_helpers import finetune, losses, max_parameter_difference
from tests.training.test_arguments import GUIDE_A, GUIDE_B

# The penalty lets a model of four steps say more than one word.
SIZES = "--src_length 24 --tgt_length 8 --batch_size 3 --repetition_penalty 2"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Rows, a tokenizer laid out as the original's and an untrained model, by `paddle-glm tiny`."""
    folder = tmp_path_factory.mktemp("chatglm")
    sizes = "--vocab_size 600 --num_layers 2 --hidden_size 64 --ffn_hidden_size 256"
    rows = "--train_rows 40 --dev_rows 6 --family chatglm"
    assert main(["tiny", "--output_dir", str(folder), *sizes.split(), *rows.split()]) == 0
    return folder


@pytest.fixture(scope="module")
def paths(start):
    return ["--model_name_or_path", str(start / "model"), "--task_name_or_path", str(start / "data")]


@pytest.fixture(scope="module")
def trained(paths, tmp_path_factory):
    """Guide command (a), with two processes that share the model."""
    out = tmp_path_factory.mktemp("chatglm") / "trained"
    flags = f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 2 --warmup_steps 0 --tensor_parallel_degree 2"
    done = launch(SCRIPT, 2, out.parent / "logs", *flags.split(), *paths, "--output_dir", str(out))
    assert done.returncode == 0, done.stdout
    return out


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatglm") / "merged"
    assert main(["merge", "--model_name_or_path", str(trained), "--merge_model_path", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(merged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatglm") / "exported"
    assert main(["export", "--model_name_or_path", str(merged), "--output_path", f"{folder}/chatglm"]) == 0
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_processes_train_as_one(paths, trained, tmp_path):
    flags = f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 2 --warmup_steps 0 --tensor_parallel_degree 1"
    assert finetune(flags, *paths, "--output_dir", tmp_path / "alone") == 0
    assert_equal_runs(tmp_path / "alone", trained)
    assert losses(trained)[-1] < losses(trained)[0]
    results = json.loads((trained / "eval_results.json").read_text())
    assert {"eval_loss", "eval_bleu-4", "eval_rouge-l"} <= results.keys()


def test_guide_command_b_with_packed_rows(paths, tmp_path):
    """Packing changes which rows share a step, not what a row's loss is."""
    flags = f"{GUIDE_B} {SHORT} --gradient_accumulation_steps 1 --tensor_parallel_degree 1 --zero_padding"
    assert finetune(flags, *paths, "--output_dir", tmp_path / "out") == 0
    assert len(losses(tmp_path / "out")) == 4


def test_merged_is_the_hub_layout(start, trained, merged):
    assert open_checkpoint(merged).tensor_parallel_degree == 1
    assert open_checkpoint(merged).names() == open_checkpoint(start / "model").names()
    assert max_parameter_difference(trained, merged) == 0
    assert AutoTokenizer.from_pretrained(merged).family == "chatglm"


def test_answers_are_the_same_from_shards_merged_and_exported(start, trained, merged, exported, tmp_path):
    data = ["--data_file", str(start / "data" / "dev.json"), *SIZES.split()]
    for folder in (trained, merged):
        out = ["--predict_file", str(tmp_path / folder.name)]
        assert main(["predict", "--model_name_or_path", str(folder), *data, *out]) == 0
    infer = ["infer", "--model_path", str(exported), "--output_file", str(tmp_path / "exported")]
    for more in ([], ["--num_beams", "2"]):
        out = ["--predict_file", str(tmp_path / "merged")]
        assert main(["predict", "--model_name_or_path", str(merged), *data, *out, *more]) == 0
        assert main([*infer, *data, *more]) == 0
        assert lines(tmp_path / "exported") == lines(tmp_path / "merged")
        if not more:
            assert lines(tmp_path / "trained") == lines(tmp_path / "merged")
    assert any(row["output"] for row in lines(tmp_path / "merged"))


def test_evaluation(start, merged, tmp_path, capsys):
    flags = ["--data_file", str(start / "data" / "dev.json"), "--output_dir", str(tmp_path), *SIZES.split()]
    assert main(["evaluate", "--model_name_or_path", str(merged), *flags]) == 0
    assert "perplexity" in capsys.readouterr().out
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 < scores["loss"] < 7 and scores["rows"] == 6


def test_chat(merged, exported, monkeypatch, capsys):
    answers = []
    for folder in (merged, exported):
        questions = iter(["类型#裙", "类型#裤", "stop"])
        monkeypatch.setattr(builtins, "input", lambda _, questions=questions: next(questions))
        command = ["chat", "--model_path", str(folder), "--max_new_tokens", "6", "--do_sample", "False"]
        assert main(command) == 0
        answers.append([text.split("\n")[0] for text in capsys.readouterr().out.split("ChatGLM：")[1:]])
    assert len(answers[0]) == 2 and answers[0] == answers[1]
