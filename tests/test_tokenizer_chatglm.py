"""ChatGLM-6B's tokenizer: every recorded output of the original, and its rules on a model trained here."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.chatglm.tokenizer import ChatGLMTokenizer
from paddle_glm.models.family import family_of
from paddle_glm.tiny.grammar import make_rows
from paddle_glm.tiny.tokenizer import train_tokenizer
from tests.paths import data, reference
from tests.tiny_sentencepiece import write_tiny_model
from tests.tokenizer_goldens import test_pairs, test_texts  # noqa: F401

# Without image tokens, and with those of the first releases.
GOLDENS = {0: "chatglm_6b.json", 20000: "chatglm_6b_img20000.json"}


@pytest.fixture(scope="module", params=list(GOLDENS))
def images(request):
    return request.param


@pytest.fixture(scope="module")
def real(images):
    return ChatGLMTokenizer(data("tokenizers/chatglm-6b/ice_text.model"), {"num_image_tokens": images})


@pytest.fixture(scope="module")
def golden(images):
    return json.loads(reference(f"tokenizers/{GOLDENS[images]}").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    texts = [text for row in make_rows(60) for text in row.values()]
    path = tmp_path_factory.mktemp("tiny") / "ice_text.model"
    return train_tokenizer(texts, path, 600, ChatGLMTokenizer.sentencepiece)


@pytest.fixture(scope="module")
def tiny(model_file):
    return ChatGLMTokenizer(model_file)


def full_mask(inputs) -> np.ndarray:
    """The original's mask bool [1, tokens, tokens], True where masked, from our mask and positions."""
    real = np.asarray(inputs["attention_mask"]) == 1
    context = np.asarray(inputs["position_ids"])[1] == 0
    visible = (np.tri(len(real), dtype=bool) | context) & real & real[:, None]
    return ~visible[None]


# -- the original's recorded outputs ----------------------------------------------------------


def test_batch_padding(real, golden):
    texts = [case["a"] for case in golden["pairs"]] + ["类型#裙"]
    batch = real(texts, padding=True)
    expected = golden["batch_padded"]
    assert batch["input_ids"] == expected["input_ids"]
    assert batch["position_ids"] == expected["position_ids"]
    for index, mask in enumerate(expected["attention_mask"]):
        row = {name: values[index] for name, values in batch.items()}
        np.testing.assert_array_equal(full_mask(row), mask)
    arrays = real(texts, padding="longest", return_tensors="np")
    assert arrays["position_ids"].shape == (4, 2, 15)


def test_lengths(real, golden):
    one, expected = real("hi", padding="max_length", max_length=8), golden["max_length_8"]
    cut = real(["你好，世界！"], truncation=True, max_length=6)
    for ours, theirs in (
        (one, expected),
        ({name: rows[0] for name, rows in cut.items()}, {k: v[0] for k, v in golden["truncate_6"].items()}),
    ):
        assert ours["input_ids"] == theirs["input_ids"]
        assert ours["position_ids"] == theirs["position_ids"]
        np.testing.assert_array_equal(full_mask(ours), theirs["attention_mask"])


def test_ids_and_attributes(real, golden):
    assert real.vocab_size == golden["vocab_size"]
    assert len(real) == golden["len"]
    assert {token: real.convert_tokens_to_ids(token) for token in golden["special"]} == golden["special"]
    assert real.special_tokens.items() <= golden["special"].items()
    assert {name: getattr(real, name) for name in golden["attrs"]} == golden["attrs"]


def test_chat_prompt(real, golden):
    case = golden["chat_prompt"]
    assert real.build_prompt(case["query"], case["history"]) == case["prompt"]
    assert real.encode(case["prompt"]) == case["ids"]
    assert real.build_prompt("你好") == "你好"


def test_published_ids():
    tokenizer = AutoTokenizer.from_pretrained(data("tokenizers/chatglm-6b"))
    cases = json.loads(reference("tokenizers/public_goldens.json").read_text(encoding="utf-8"))["chatglm"]
    assert cases
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]


# -- its rules on a model trained here --------------------------------------------------------


def test_layout_is_the_originals(tiny):
    assert tiny.special_tokens["<pad>"] == 3
    assert [tiny.bos_token_id - tiny.get_command(name) for name in ("[MASK]", "[gMASK]")] == [4, 3]
    assert tiny.eos_token_id == tiny.bos_token_id + 1
    assert tiny.tokenize("的\t款\n\n  裙")[-6:] == ["<|tab|>", "款", "<n>", "<n>", "<|blank_2|>", "裙"]
    assert tiny.decode(tiny.encode("[gMASK] <sop>")) == "[gMASK] <sop>"


# Characters that its normalisation keeps; white space stands inside the text, where it is kept too.
KEPT = st.text(st.sampled_from("类型上衣的abc019[]<>|#*。、\U00020bb7é")).filter(bool)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(KEPT, min_size=1, max_size=5),
    blanks=st.lists(st.sampled_from([" ", "\n", "\t", "  ", " " * 80, " " * 83, "\n\n  \t"])),
)
def test_any_text_survives(tiny, words, blanks):
    text = words[0] + "".join(blank + word for blank, word in zip(blanks, words[1:], strict=False))
    assert tiny.decode(tiny.encode(text, add_special_tokens=False)) == text


def test_special_tokens_in_text_need_asking(tiny):
    assert tiny.gmask_token_id not in tiny.encode("[gMASK]", add_special_tokens=False)
    ids = tiny.encode("[gMASK]", add_special_tokens=False, encode_special_tokens=True)
    assert ids == [tiny.gmask_token_id]


def test_ids_without_text(model_file):
    tokenizer = ChatGLMTokenizer(model_file, {"num_image_tokens": 100})
    assert tokenizer.convert_ids_to_tokens([7, tokenizer.vocab_size, -1]) == ["<image_7>", "", ""]
    assert tokenizer.convert_tokens_to_ids("<image_7>") == 7
    assert tokenizer.decode([*tokenizer.encode("上衣"), tokenizer.vocab_size + 9]) == "上衣"


def test_a_text_without_an_answer_to_come_is_all_context(tiny):
    ids = tiny.encode("上衣", add_special_tokens=False)
    assert tiny.sequence_inputs(ids)["position_ids"] == [list(range(len(ids))), [0] * len(ids)]


@pytest.mark.parametrize("images", [0, 20000])
def test_image_tokens_follow_from_the_models_ids(model_file, tiny, tmp_path, images):
    (tmp_path / "ice_text.model").write_bytes(model_file.read_bytes())
    name = "chatglm_6b_early_tiny_seed0" if images else "chatglm_6b_tiny_seed0"
    values = json.loads((reference(name) / "hf_safetensors" / "config.json").read_text())
    values["bos_token_id"] = tiny.bos_token_id + images
    (tmp_path / "config.json").write_text(json.dumps(values))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.num_image_tokens == images
    assert tokenizer.encode("上衣") == [images + index for index in tiny.encode("上衣")]
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").num_image_tokens == images
    (tmp_path / "tokenizer_config.json").write_text('{"num_image_tokens": 7}')
    with pytest.raises(InputError, match="do not belong together"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_positions_are_those_of_the_model_beside_it(model_file, tiny, tmp_path):
    (tmp_path / "ice_text.model").write_bytes(model_file.read_bytes())
    values = json.loads((reference("chatglm_6b_tiny_seed0") / "hf_safetensors" / "config.json").read_text())
    ids = {"bos_token_id": tiny.bos_token_id, "gmask_token_id": tiny.gmask_token_id}
    values |= {**ids, "mask_token_id": tiny.mask_token_id, "position_encoding_2d": False}
    (tmp_path / "config.json").write_text(json.dumps(values))
    encoded = AutoTokenizer.from_pretrained(tmp_path)(["上衣", "裙"], padding=True, return_tensors="np")
    config = ModelConfig.from_pretrained(tmp_path)
    expected = family_of(config).positions(config, encoded["input_ids"], encoded["attention_mask"])
    assert encoded["position_ids"].ndim == 2
    np.testing.assert_array_equal(encoded["position_ids"], expected)


def test_models_of_other_tokenizers_are_refused(tmp_path, model_file):
    write_tiny_model(tmp_path / "ice_text.model")
    with pytest.raises(InputError, match=r"\[gMASK\].*not the SentencePiece model of ChatGLM-6B"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="num_image_tokens is -1"):
        ChatGLMTokenizer(model_file, {"num_image_tokens": -1})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"ice_text\.model or tokenizer\.model"):
        AutoTokenizer.from_pretrained(tmp_path / "empty")
