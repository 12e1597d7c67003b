"""`predict`, `infer` and the C++ program give one text; scores are of the text before replacements."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.chat_template import render
from paddle_glm.main import main
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.cpp.build import build, checked

RAW, SHOWN = "我的[[训练时间]]。", "我的2023年。"


@pytest.fixture(scope="module", params=["chatglm2", "chatglm3"])
def model(request, tiny_rows, tmp_path_factory) -> Path:
    """A model that answers RAW: its blocks add nothing, its head maps the last token to the next one."""
    folder = tmp_path_factory.mktemp("says") / "model"
    texts = [text for row in tiny_rows for text in row.values()] + [RAW] * 200
    sizes = {"vocab_size": 600, "num_layers": 1, "hidden_size": 256, "ffn_hidden_size": 32, "seed": 1}
    write_checkpoint(folder, texts, family=request.param, **sizes)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = tokenizer.encode(RAW, add_special_tokens=False)
    prompt = render(tokenizer.template, tokenizer, [{"role": "user", "content": "你好"}]).input_ids
    chain = [prompt[-1], *answer, tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain), "a token that comes twice has no single next one"
    model = AutoModel.from_pretrained(folder)
    weights = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    for name in weights:
        if name.endswith(("dense.weight", "dense_4h_to_h.weight")):
            weights[name][:] = 0
    embeddings, head = (
        next(value for name, value in weights.items() if part in name)
        for part in ("word_emb", "output_layer")
    )
    head[:] = 0
    for token, following in pairwise(chain):
        head[following] = embeddings[token] / np.linalg.norm(embeddings[token])
    for name, parameter in model.named_parameters():
        parameter.set_value(weights[name])
    model.save_pretrained(folder.parent / "saved")
    tokenizer.save_pretrained(folder.parent / "saved")
    return folder.parent / "saved"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "dev.json"
    path.write_text(json.dumps({"content": "你好", "summary": RAW}, ensure_ascii=False), encoding="utf-8")
    return path


def outputs(path: Path, key: str = "output") -> list[str]:
    return [json.loads(line)[key] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def exported(model) -> Path:
    folder = model.parent / "exported"
    assert main(["export", "--model_name_or_path", str(model), "--output_path", str(folder)]) == 0
    return folder


def test_predict_and_infer_give_the_displayed_text(model, exported, rows, tmp_path):
    for folder in (model, exported):
        command = ["predict", "--model_name_or_path", str(folder), "--data_file", str(rows)]
        assert main([*command, "--predict_file", str(tmp_path / "predicted")]) == 0
        assert outputs(tmp_path / "predicted") == [SHOWN]
    command = ["infer", "--model_path", str(exported), "--data_file", str(rows)]
    assert main([*command, "--output_file", str(tmp_path / "inferred")]) == 0
    assert (tmp_path / "inferred").read_bytes() == (tmp_path / "predicted").read_bytes()


def test_the_cpp_program_gives_it_too(exported, rows, tmp_path):
    files = ("--input_file", rows, "--output_file", tmp_path / "answers")
    checked(build() / "paddle_glm_infer", "--model_dir", exported, *files, "--do_sample", "false")
    assert outputs(tmp_path / "answers") == [SHOWN]


def test_scores_are_of_the_text_before_replacements(model, rows, tmp_path):
    command = ["evaluate", "--model_name_or_path", str(model), "--data_file", str(rows)]
    assert main([*command, "--output_dir", str(tmp_path)]) == 0
    assert outputs(tmp_path / "generated_predictions.txt", "predict") == [RAW]
