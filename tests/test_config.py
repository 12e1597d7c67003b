"""Configurations: hub files in and out, errors that name what is wrong."""

import json
from pathlib import Path

import pytest

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import family_of, get_family
from tests.paths import reference

# What THUDM/chatglm2-6b's config.json says.
HUB = {
    "_name_or_path": "THUDM/chatglm2-6b", "model_type": "chatglm", "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "ffn_hidden_size": 13696,
    "fp32_residual_connection": False, "hidden_dropout": 0.0, "hidden_size": 4096, "kv_channels": 128,
    "layernorm_epsilon": 1e-05, "multi_query_attention": True, "multi_query_group_num": 2,
    "num_attention_heads": 32, "num_layers": 28, "original_rope": True, "padded_vocab_size": 65024,
    "post_layer_norm": True, "rmsnorm": True, "seq_length": 32768, "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def test_the_real_configuration_is_read_and_given_back(tmp_path: Path) -> None:
    config = ModelConfig.from_dict(HUB)
    assert config == ModelConfig(dtype="float16")
    assert sum(_size(spec.shape) for spec in family_of(config).parameters(config).values()) == 6_243_584_000
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert HUB.items() <= saved.items()
    assert ModelConfig.from_pretrained(tmp_path) == config


def _size(shape: tuple[int, ...]) -> int:
    out = 1
    for length in shape:
        out *= length
    return out


def test_chatglm3_is_told_apart_by_its_name_or_its_tokenizer(tmp_path: Path) -> None:
    assert ModelConfig.from_dict({**HUB, "_name_or_path": "THUDM/chatglm3-6b"}).family == "chatglm3"
    (tmp_path / "config.json").write_text(json.dumps({**HUB, "_name_or_path": "x"}))
    assert ModelConfig.from_pretrained(tmp_path).family == "chatglm2"
    (tmp_path / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm3-6b"}')
    assert ModelConfig.from_pretrained(tmp_path).family == "chatglm3"
    assert ModelConfig.from_pretrained(tmp_path, family="chatglm2").family == "chatglm2"


def test_the_first_release_has_no_pad_token_of_its_own() -> None:
    folder = reference("chatglm2_6b_v1_tiny_seed0") / "hf"
    assert ModelConfig.from_pretrained(folder).num_key_value_heads == 2


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"multi_query_group_num": 3}, "num_key_value_heads 3"),
        ({"torch_dtype": "float8"}, "float8"),
        ({"rmsnorm": False}, "rmsnorm = False"),
        ({"rope_ratio": 50}, "rope_ratio = 50"),
        ({"quantization_bit": 3}, "quantization_bit 3: expected 0"),
        ({"quantization_bit": 4, "quantization_group_size": "128"}, "quantization_group_size must be"),
    ],
)
def test_what_is_not_supported_is_named(change: dict, names: str) -> None:
    with pytest.raises(InputError, match=names):
        ModelConfig.from_dict({**HUB, **change})


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks hidden_size"):
        ModelConfig.from_dict({key: value for key, value in HUB.items() if key != "hidden_size"})
    with pytest.raises(InputError, match="not a model folder"):
        ModelConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        ModelConfig.from_pretrained(tmp_path)


def test_an_unknown_family_lists_the_known() -> None:
    with pytest.raises(InputError, match="chatglm2, chatglm3"):
        get_family("gpt")


# What THUDM/chatglm-6b's config.json says, and what that of its first releases said otherwise.
HUB_6B = {
    "_name_or_path": "THUDM/chatglm-6b", "architectures": ["ChatGLMModel"], "model_type": "chatglm",
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "bos_token_id": 130004, "eos_token_id": 130005, "mask_token_id": 130000, "gmask_token_id": 130001,
    "pad_token_id": 3, "hidden_size": 4096, "inner_hidden_size": 16384, "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048, "num_attention_heads": 32, "num_layers": 28, "position_encoding_2d": True,
    "torch_dtype": "float16", "transformers_version": "4.23.1", "use_cache": True, "vocab_size": 130528,
}  # fmt: skip
FIRST_6B = {"bos_token_id": 150004, "eos_token_id": 150005, "pad_token_id": 20003, "vocab_size": 150528}


@pytest.mark.parametrize(("early", "parameters"), [(False, 6_173_286_400), (True, 6_255_206_400)])
def test_chatglm_6b_of_both_vocabularies(early: bool, parameters: int, tmp_path: Path) -> None:
    named = {key: value for key, value in HUB_6B.items() if not key.endswith("mask_token_id")}
    values = {**named, **FIRST_6B} if early else HUB_6B
    config = ModelConfig.from_dict(values)
    assert (config.family, config.num_key_value_heads, config.head_dim) == ("chatglm", 32, 128)
    assert (config.gmask_token_id is None) is early
    assert sum(_size(spec.shape) for spec in family_of(config).parameters(config).values()) == parameters
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert values.items() <= saved.items()
    assert ("gmask_token_id" in saved) is not early
    assert ModelConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"num_attention_heads": 30}, "4096 is not a multiple of num_attention_heads 30"),
        ({"num_attention_heads": "32"}, "num_attention_heads must be a positive integer"),
        ({"quantization_bit": 5}, "quantization_bit 5"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False"),
    ],
)
def test_what_is_not_chatglm_6b_is_named(change: dict, names: str) -> None:
    with pytest.raises(InputError, match=names):
        ModelConfig.from_dict({**HUB_6B, **change})
    with pytest.raises(InputError, match=r"lacks bos_token_id: is it a ChatGLM-6B"):
        ModelConfig.from_dict({key: value for key, value in HUB_6B.items() if key != "bos_token_id"})
    with pytest.raises(InputError, match=r"unknown model family 'gpt'.*chatglm3"):
        ModelConfig.from_dict(HUB_6B, family="gpt")
