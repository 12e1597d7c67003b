"""`generation_config.json`: what each of its keys does, wherever a folder answers."""

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest

from paddle_glm.auto.engine import open_engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.generation_defaults import (
    CHAT_OVERRIDES,
    default_generation_params,
    generation_config_values,
)
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.commands._model_arguments import generation_params
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams
from paddle_glm.generation_keys import RULES
from paddle_glm.key_rules import Ignored, Mapped

# Other values than the defaults.
OTHER = {
    "do_sample": False, "temperature": 0.3, "top_k": 7, "top_p": 0.5, "repetition_penalty": 1.4,
    "num_beams": 3, "length_penalty": 0.5, "early_stopping": True, "max_length": 99, "max_new_tokens": 3,
    "eos_token_id": [2, 9], "pad_token_id": 4,
}  # fmt: skip


@pytest.mark.parametrize("key", RULES)
def test_a_key_is_honoured_or_refused_or_changes_nothing(key: str) -> None:
    rule = RULES[key]
    if isinstance(rule, Mapped):
        (found,) = generation_config_values(ModelConfig(generation_config={key: OTHER[key]})).items()
        expected = rule.convert(OTHER[key]) if rule.convert else OTHER[key]
        assert found == (rule.field, expected) and expected != getattr(GenerationParams(), rule.field)
        words = f"generation_config.json says {key} = .*: expected {re.escape(rule.kind.description)}"
        with pytest.raises(InputError, match=words):
            generation_config_values(ModelConfig(generation_config={key: {"of": "the wrong kind"}}))
    elif isinstance(rule, Ignored):
        assert (
            generation_config_values(ModelConfig(generation_config={key: "anything"})) == {} and rule.reason
        )
    else:
        neutral = {key: rule.allowed[0]}
        assert generation_config_values(ModelConfig(generation_config=neutral)) == {}
        with pytest.raises(
            InputError, match=rf"generation_config.json says {key} = 'else'; only .* is supported"
        ):
            generation_config_values(ModelConfig(generation_config={key: "else"}))


def test_chat_keeps_what_the_originals_chat_passes() -> None:
    params = default_generation_params(ModelConfig(generation_config=OTHER))
    chat = GenerationParams()
    assert {name: getattr(params, name) for name in CHAT_OVERRIDES} == {
        n: getattr(chat, n) for n in CHAT_OVERRIDES
    }
    assert (params.top_k, params.repetition_penalty, params.max_new_tokens) == (7, 1.4, 3)
    assert params.eos_token_ids == (2, 9)
    first = default_generation_params(
        ModelConfig(family="chatglm", num_key_value_heads=32, generation_config=OTHER)
    )
    assert (first.temperature, first.top_p, first.max_length, first.top_k) == (0.95, 0.7, 2048, 7)
    # ChatGLM3's chat passes the ends of its roles itself.
    assert (
        default_generation_params(ModelConfig(family="chatglm3", generation_config=OTHER)).eos_token_ids == ()
    )


def test_without_the_file_config_json_may_say_it() -> None:
    """transformers makes the one from the other."""
    assert generation_config_values(ModelConfig(extra_keys={"repetition_penalty": 1.4})) == {
        "repetition_penalty": 1.4
    }
    assert (
        generation_config_values(ModelConfig(extra_keys={"repetition_penalty": 1.4}, generation_config={}))
        == {}
    )
    with pytest.raises(InputError, match=r"config.json says no_repeat_ngram_size = 3; only 0 is supported"):
        generation_config_values(ModelConfig(extra_keys={"no_repeat_ngram_size": 3}))


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def write(folder: Path, **values: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps(values))


def test_the_file_is_heeded_wherever_a_folder_answers(folder: Path, tmp_path: Path) -> None:
    write(folder, repetition_penalty=1.4, max_new_tokens=3, eos_token_id=[7, 8], temperature=0.1, note="kept")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    prompt = tokenizer("类型#裙", return_tensors="np")["input_ids"]
    greedy = {"do_sample": False}
    short = model.generate(prompt, **greedy, eos_token_id=[]).numpy()
    assert short.shape[1] == prompt.shape[1] + 3
    asked = {**greedy, "max_new_tokens": 40, "eos_token_id": []}
    penalised = model.generate(prompt, **asked).numpy()
    assert (penalised == model.generate(prompt, **asked, repetition_penalty=1.4).numpy()).all()
    assert (penalised != model.generate(prompt, **asked, repetition_penalty=1.0).numpy()).any()
    engine = open_engine(folder)
    said = GenerationParams(repetition_penalty=1.4, max_new_tokens=3, eos_token_ids=(7, 8))
    assert engine.params == said
    first, _ = model.chat(tokenizer, "你好", **greedy)
    again, _ = model.chat(
        tokenizer, "你好", **greedy, repetition_penalty=1.4, max_new_tokens=3, eos_token_id=[7, 8]
    )
    assert first == again
    args = argparse.Namespace(model_name_or_path=str(folder), family=None, tgt_length=20)
    rows = generation_params(args)
    assert (rows.do_sample, rows.repetition_penalty, rows.max_new_tokens) == (False, 1.4, 20)
    export_model(model, tokenizer, tmp_path / "exported")
    exported = open_engine(tmp_path / "exported").params
    assert exported.updated({"pad_token_id": 0}) == said
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["note"] == "kept"


def test_what_would_change_answers_is_refused_before_weights_are_read(folder: Path, tmp_path: Path) -> None:
    write(folder, no_repeat_ngram_size=4)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = r"generation_config.json says no_repeat_ngram_size = 4; only 0 is supported"
    with pytest.raises(InputError, match=said):
        model.generate([[5, 6, 7]])
    with pytest.raises(InputError, match=said):
        model.chat(tokenizer, "你好")
    with pytest.raises(InputError, match=said):
        export_model(model, tokenizer, tmp_path / "exported")
    reshard(folder, tmp_path / "copy")  # a copy answers nothing
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=said):
        open_engine(folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config.json is not valid JSON"):
        ModelConfig.from_pretrained(folder)
