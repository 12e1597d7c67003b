"""Configurations: hub files in and out, errors that name what is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from paddle_glm.config import ModelConfig, config_schema
from paddle_glm.errors import InputError
from paddle_glm.key_rules import Alias, Ignored, Restricted
from paddle_glm.models.family import family_of, get_family
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
        ({"num_layers": 0}, "num_layers = 0: expected a positive integer"),
        ({"padded_vocab_size": "65024"}, "padded_vocab_size = '65024': expected a positive integer"),
        ({"layernorm_epsilon": float("nan")}, "layernorm_epsilon = nan: expected a number above 0"),
        ({"hidden_dropout": 1.5}, "hidden_dropout = 1.5: expected a number from 0 to below 1"),
        ({"add_qkv_bias": "true"}, "add_qkv_bias = 'true': expected true or false"),
        ({"eos_token_id": [2, 7]}, r"eos_token_id = \[2, 7\]: expected a token's id"),
        ({"pad_token_id": -1}, "pad_token_id = -1: expected a token's id"),
        ({"multi_query_group_num": 3}, "num_key_value_heads 3"),
        ({"torch_dtype": "float8"}, "torch_dtype = 'float8': expected float32, float16 or bfloat16"),
        ({"rmsnorm": False}, "rmsnorm = False"),
        ({"num_hidden_layers": 27}, "num_hidden_layers = 27, but num_layers = 28"),
        ({"quantization_bit": 3}, "quantization_bit = 3: expected 0"),
        ({"quantization_bit": True}, "quantization_bit = True: expected 0"),
        ({"quantization_bit": 4, "quantization_group_size": "128"}, "quantization_group_size = '128': exp"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config = {'load_in_4bit'"),
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
        ({"num_attention_heads": "32"}, "num_attention_heads = '32': expected a positive integer"),
        ({"quantization_bit": 5}, "quantization_bit = 5"),
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


# What configuration_chatglm.py and modeling_chatglm.py of the originals read, and transformers below them.
READ = {
    "chatglm2": {
        "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels",
        "num_attention_heads", "seq_length", "hidden_dropout", "classifier_dropout", "attention_dropout",
        "layernorm_epsilon", "rmsnorm", "apply_residual_connection_post_layernorm", "post_layer_norm",
        "add_bias_linear", "add_qkv_bias", "bias_dropout_fusion", "multi_query_attention",
        "multi_query_group_num", "apply_query_key_layer_scaling", "attention_softmax_in_fp32",
        "fp32_residual_connection", "quantization_bit", "pre_seq_len", "prefix_projection",
        "original_rope", "rope_ratio", "use_cache", "torch_dtype", "dtype", "tie_word_embeddings",
        "eos_token_id", "pad_token_id", "quantization_config", "vocab_size",
    },
    "chatglm": {
        "vocab_size", "hidden_size", "num_layers", "num_attention_heads", "layernorm_epsilon",
        "use_cache", "bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id",
        "max_sequence_length", "inner_hidden_size", "position_encoding_2d", "quantization_bit",
        "quantization_embeddings", "pre_seq_len", "prefix_projection", "torch_dtype", "dtype",
        "tie_word_embeddings", "quantization_config",
    },
}  # fmt: skip
# Other values than those of HUB and HUB_6B, that are none the worse.
OTHER = {
    "num_layers": 3, "hidden_size": 64, "num_attention_heads": 16, "layernorm_epsilon": 1e-6,
    "eos_token_id": 7, "pad_token_id": 9, "pre_seq_len": 5, "prefix_projection": True, "quantization_bit": 8,
    "quantization_embeddings": True, "quantization_group_size": 64, "torch_dtype": "torch.bfloat16",
    "ffn_hidden_size": 96, "hidden_dropout": 0.1, "attention_dropout": 0.2, "add_qkv_bias": False,
    "multi_query_attention": False, "multi_query_group_num": 4, "rope_ratio": 2.5, "kv_channels": 64,
    "padded_vocab_size": 99, "seq_length": 10, "vocab_size": 99, "max_sequence_length": 10,
    "position_encoding_2d": False, "bos_token_id": 4, "mask_token_id": 5, "gmask_token_id": 6,
    "inner_hidden_size": 96,
    "original_rope": False, "apply_query_key_layer_scaling": False, "attention_softmax_in_fp32": False,
    "bias_dropout_fusion": False, "classifier_dropout": 0.5, "use_cache": False,
}  # fmt: skip
RULES = [(family, key) for family in READ for key in config_schema(family).rules]


def test_every_key_that_the_originals_read_has_a_rule() -> None:
    for family, keys in READ.items():
        assert keys <= config_schema(family).rules.keys()


@pytest.mark.parametrize(("family", "key"), RULES)
def test_a_key_is_honoured_or_refused_or_changes_nothing(family: str, key: str, tmp_path: Path) -> None:
    values = HUB if family == "chatglm2" else HUB_6B
    before, rule = ModelConfig.from_dict(values), config_schema(family).rules[key]
    if isinstance(rule, Restricted | Alias):
        with pytest.raises(InputError, match=f"config.json says {key} = "):
            ModelConfig.from_dict({**values, "torch_dtype": "float16", key: "else"})
        return
    changed = {**values, key: OTHER[key]}
    changed.setdefault("_name_or_path", "THUDM/chatglm2-6b")
    after = ModelConfig.from_dict(changed)
    if isinstance(rule, Ignored):
        assert after == before and rule.reason
    else:
        expected = OTHER[key] if rule.convert is None else rule.convert(OTHER[key])
        assert getattr(after, rule.field) == expected != getattr(before, rule.field)
        with pytest.raises(
            InputError, match=f"config.json says {key} = .*: expected {re.escape(rule.kind.description)}"
        ):
            ModelConfig.from_dict({**values, key: {"of": "the wrong kind"}})
    after.save_pretrained(tmp_path)
    assert ModelConfig.from_pretrained(tmp_path) == after


def test_unknown_keys_are_given_back_and_null_is_no_value(tmp_path: Path) -> None:
    config = ModelConfig.from_dict({**HUB, "somebodys_own": {"a": [1]}, "pad_token_id": None})
    assert config == ModelConfig(dtype="float16")
    assert config.to_hub_dict()["somebodys_own"] == {"a": [1]}


def test_newer_names_follow_what_is_written() -> None:
    """transformers writes `dtype` today; a folder that was cast must not say both."""
    named = {key: value for key, value in HUB.items() if key != "torch_dtype"}
    config = ModelConfig.from_dict({**named, "dtype": "bfloat16", "num_hidden_layers": 28})
    assert config.dtype == "bfloat16"
    saved = replace(config, dtype="float32", num_layers=3).to_hub_dict()
    assert (saved["dtype"], saved["num_hidden_layers"]) == ("float32", 3)
    assert ModelConfig.from_dict(saved).dtype == "float32"


def test_a_rope_ratio_needs_to_know_its_family(tmp_path: Path) -> None:
    values = {**HUB, "_name_or_path": "mine", "rope_ratio": 50}
    with pytest.raises(InputError, match=r"rope_ratio = 50, which ChatGLM2 and ChatGLM3 read differently"):
        ModelConfig.from_dict(values)
    assert ModelConfig.from_dict(values, "chatglm3").rope_ratio == 50
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm2-6b-32k"}')
    assert ModelConfig.from_pretrained(tmp_path).family == "chatglm2"


def test_our_own_fields_are_held_to_the_same_kinds() -> None:
    with pytest.raises(InputError, match=r"num_layers is 0: expected a positive integer"):
        ModelConfig(num_layers=0)
    with pytest.raises(InputError, match=r"layernorm_epsilon is nan: expected a number above 0"):
        ModelConfig(layernorm_epsilon=float("nan"))
