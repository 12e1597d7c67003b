"""Tokenizers: every recorded output of the originals, and the same rules on a model trained here."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.chat_template import render
from paddle_glm.errors import InputError
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.models.chatglm3.tokenizer import ChatGLM3Tokenizer
from paddle_glm.tokenizers.base import Tokenizer
from tests.paths import data, reference
from tests.tiny_sentencepiece import write_tiny_model
from tests.tokenizer_goldens import test_pairs, test_texts  # noqa: F401

CLASSES = {"chatglm2": ChatGLM2Tokenizer, "chatglm3": ChatGLM3Tokenizer}
GOLDENS = {"chatglm2": "chatglm2_6b.json", "chatglm3": "chatglm3_6b.json"}


@pytest.fixture(scope="module", params=list(CLASSES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def real(family):
    return AutoTokenizer.from_pretrained(data("tokenizers/chatglm2-6b"), family=family)


@pytest.fixture(scope="module")
def golden(family):
    return json.loads(reference(f"tokenizers/{GOLDENS[family]}").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_folder, family):
    return AutoTokenizer.from_pretrained(tiny_folder, family=family)


# -- the originals' recorded outputs ----------------------------------------------------------


def test_batch_padding(real, golden):
    texts = [case["a"] for case in golden["pairs"]] + ["类型#裙"]
    assert real(texts, padding=True) == golden["batch_padded"]
    arrays = real(texts, padding="longest", return_tensors="np")
    for name, rows in golden["batch_padded"].items():
        assert arrays[name].dtype == np.int64
        np.testing.assert_array_equal(arrays[name], rows)
    assert real.pad({"input_ids": [real.encode(text) for text in texts]}) == golden["batch_padded"]


def test_lengths(real, golden):
    assert real("hi", padding="max_length", max_length=8) == golden["max_length_8"]
    assert sorted(real("hi")) == golden["no_padding_keys"]
    assert real(["你好，世界！"], truncation=True, max_length=6) == golden["truncate_6"]


def test_ids_and_attributes(real, golden):
    assert real.vocab_size == golden["vocab_size"]
    assert len(real) == golden["len"]
    assert {token: real.get_command(token) for token in golden["special"]} == golden["special"]
    assert real.special_tokens == golden["special"]
    assert {name: getattr(real, name) for name in golden["attrs"]} == golden["attrs"]


def test_chat_prompts(real, golden, family):
    case = golden["chat_prompt"]
    if family == "chatglm3":
        inputs = real.build_chat_input(case["query"], history=case["history"])
        assert inputs["input_ids"].tolist() == case["ids"]
        assert inputs["attention_mask"].tolist() == case["mask"]
        assert inputs["position_ids"].tolist() == case["pos"]
        return
    assert real.build_prompt(case["query"], case["history"]) == case["prompt"]
    assert real.encode(case["prompt"]) == case["ids"]
    first = golden["chat_prompt_first"]
    assert real.build_prompt("你好") == first["prompt"]
    assert real.encode(first["prompt"]) == first["ids"]


def test_published_ids():
    tokenizer = AutoTokenizer.from_pretrained(data("tokenizers/chatglm2-6b"), family="chatglm2")
    cases = json.loads(reference("tokenizers/public_goldens.json").read_text(encoding="utf-8"))["chatglm2"]
    assert cases
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]


# -- the same rules on a model trained here ---------------------------------------------------


def test_special_ids_follow_the_model_size(tiny):
    pieces = tiny.sp_model.get_piece_size()
    assert tiny.get_command("[MASK]") == pieces
    assert tiny.get_command("sop") == pieces + 3
    assert tiny.vocab_size == pieces + len(tiny.command_tokens)
    assert tiny.encode("你好")[:2] == [pieces + 1, pieces + 3]
    with pytest.raises(InputError, match=r"<nothing>.*\[gMASK\]"):
        tiny.get_command("<nothing>")


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\u2581\0")))
def test_any_text_survives(tiny, text):
    assert tiny.decode(tiny.encode(text, add_special_tokens=False)) == text


def test_decode_takes_arrays_single_ids_and_padded_vocabulary_rows(tiny):
    ids = tiny.encode("你好", add_special_tokens=False)
    assert tiny.decode(np.array(ids)) == "你好"
    assert tiny.decode([*ids, tiny.vocab_size + 5]) == "你好"
    assert tiny.decode(ids[0]) == tiny.decode(ids[:1])
    assert tiny.batch_decode([ids, ids]) == ["你好", "你好"]


def test_special_tokens_in_text_need_asking(tiny, family):
    spelled = "[gMASK]<|user|>"
    plain = tiny.encode(spelled, add_special_tokens=False)
    assert max(plain) < tiny.sp_model.get_piece_size()
    parsed = tiny.encode(spelled, add_special_tokens=False, encode_special_tokens=True)
    assert parsed[0] == tiny.get_command("[gMASK]")
    assert (parsed[1:] == [tiny.special_tokens.get("<|user|>")]) is (family == "chatglm3")


def test_pair_truncation_cuts_the_longer_one(tiny):
    first, second = (tiny.encode(text, add_special_tokens=False) for text in ("你好，世界！", "世界"))
    room = len(first) + len(second) + 3 - 2
    ids = tiny.encode("你好，世界！", "世界", truncation=True, max_length=room)
    assert ids == tiny.build_inputs_with_special_tokens(first[:-2], second)
    with pytest.raises(InputError, match="max_length"):
        tiny.encode("你好", truncation=True)


def test_padding_rules(tiny):
    batch = tiny(["你好", "Hello, world!"], padding=True, pad_to_multiple_of=8, return_tensors="np")
    assert batch.input_ids.shape[1] % 8 == 0
    np.testing.assert_array_equal(batch.attention_mask == 0, batch.input_ids == tiny.pad_token_id)
    assert (batch.position_ids.max(axis=1) == batch.attention_mask.sum(axis=1) - 1).all()
    with pytest.raises(InputError, match="padding=True"):
        tiny(["你好", "Hello, world!"], return_tensors="np")
    with pytest.raises(InputError, match="'torch'"):
        tiny("你好", return_tensors="torch")
    with pytest.raises(InputError, match="'left'"):
        tiny("你好", padding="left")
    with pytest.raises(InputError, match="expected text, not int"):
        tiny.encode(5)


def test_saving_keeps_family_model_and_hub_keys(tiny_folder, tmp_path, family):
    tokenizer = CLASSES[family](tiny_folder / "tokenizer.model", {"padding_side": "left"})
    tokenizer.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert saved["tokenizer_class"] == "ChatGLMTokenizer"
    assert saved["name_or_path"].startswith("THUDM/")
    assert saved["padding_side"] == "left"
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(loaded) is CLASSES[family]
    assert loaded.encode("你好，世界！") == tokenizer.encode("你好，世界！")
    loaded.save_pretrained(tmp_path / "out")  # in place
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == tokenizer.model_file.read_bytes()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": '{"name_or_path": "THUDM/chatglm3-6b"}'}, ChatGLM3Tokenizer),
        ({"tokenizer_config.json": '{"name_or_path": "THUDM/chatglm2-6b"}'}, ChatGLM2Tokenizer),
        ({}, None),
        ({"tokenizer_config.json": "{"}, None),
    ],
)
def test_family_of_a_folder(tiny_folder, tmp_path, files, expected):
    (tmp_path / "tokenizer.model").write_bytes((tiny_folder / "tokenizer.model").read_bytes())
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    if expected is None:
        with pytest.raises(InputError, match=r"family=|not valid JSON"):
            AutoTokenizer.from_pretrained(tmp_path)
    else:
        assert type(AutoTokenizer.from_pretrained(tmp_path)) is expected


def test_family_from_the_models_config(tiny_folder, tmp_path):
    config = reference("chatglm2_6b_tiny_seed0/hf/config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "tokenizer.model").write_bytes((tiny_folder / "tokenizer.model").read_bytes())
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ChatGLM2Tokenizer


def test_unusable_model_files(tiny_folder, tmp_path):
    whole = (tiny_folder / "tokenizer.model").read_bytes()
    target = tmp_path / "tokenizer.model"
    with pytest.raises(InputError, match=r"tokenizer\.model not found"):
        AutoTokenizer.from_pretrained(tmp_path, family="chatglm2")
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        target.write_bytes(whole[:size])
        with pytest.raises(InputError, match=f"{size} bytes.*download it again"):
            AutoTokenizer.from_pretrained(tmp_path, family="chatglm2")
    target.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1018370\n")
    with pytest.raises(InputError, match="git lfs pull"):
        AutoTokenizer.from_pretrained(tmp_path, family="chatglm2")
    with pytest.raises(InputError, match="nowhere not found"):
        AutoTokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match="chatglm9"):
        AutoTokenizer.from_pretrained(tiny_folder, family="chatglm9")


def test_chatglm3_has_no_prompt_text(tiny_folder):
    with pytest.raises(InputError, match="build_chat_input"):
        ChatGLM3Tokenizer(tiny_folder / "tokenizer.model").build_prompt("你好")


def test_chat_template_of_one_conversation_and_of_a_batch(tiny):
    short = [{"role": "user", "content": "你好"}]
    long = [
        *short,
        {"role": "assistant", "content": "类型"},
        {"role": "user", "content": "类型#裙*颜色#白色"},
    ]
    prompts = [render(tiny.template, tiny, messages).input_ids for messages in (short, long)]
    assert tiny.apply_chat_template(short, add_generation_prompt=True) == tiny.sequence_inputs(prompts[0])
    one = tiny.apply_chat_template(short, return_tensors="np")
    assert one.input_ids.tolist() == prompts[:1]
    batch = tiny.apply_chat_template([short, long], padding=True, return_tensors="np")
    missing = len(prompts[1]) - len(prompts[0])
    assert batch.input_ids.tolist() == [[tiny.pad_token_id] * missing + prompts[0], prompts[1]]
    assert batch.attention_mask.sum(axis=1).tolist() == [len(prompts[0]), len(prompts[1])]
    with pytest.raises(InputError, match="assistant has the last message"):
        tiny.apply_chat_template(long[:2])
    with pytest.raises(InputError, match="leave its flags at True"):
        tiny.apply_chat_template(short, tokenize=False)


def test_shared_code_knows_no_family():
    source = Path(Tokenizer.__init__.__code__.co_filename).read_text(encoding="utf-8")
    assert "chatglm2" not in source.lower()
    assert "gMASK" not in source
