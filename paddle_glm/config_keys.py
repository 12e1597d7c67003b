"""Every key that the originals' code reads of `config.json`, and what is made of it here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.key_rules import (
    BOOLEAN,
    FRACTION,
    POSITIVE_INT,
    POSITIVE_INT_OR_NULL,
    POSITIVE_NUMBER,
    TOKEN_ID,
    Alias,
    Ignored,
    Mapped,
    Restricted,
    Rule,
    Rules,
    ValueType,
    one_of,
)

DTYPES = ("float32", "float16", "bfloat16")
CONFIG_FILE = "config.json"

# What our fields may hold, read from a file or not.
FIELD_TYPES: Mapping[str, ValueType] = {
    **dict.fromkeys(
        ("num_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"), POSITIVE_INT
    ),
    **dict.fromkeys(("head_dim", "ffn_hidden_size", "vocab_size", "max_sequence_length"), POSITIVE_INT),
    **dict.fromkeys(("pre_seq_len", "quantization_group_size"), POSITIVE_INT_OR_NULL),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKEN_ID),
    **dict.fromkeys(("mask_token_id", "gmask_token_id"), TOKEN_ID),
    **dict.fromkeys(("layernorm_epsilon", "rope_ratio"), POSITIVE_NUMBER),
    **dict.fromkeys(("hidden_dropout", "attention_dropout"), FRACTION),
    **dict.fromkeys(("add_qkv_bias", "multi_query_attention", "position_encoding_2d"), BOOLEAN),
    **dict.fromkeys(("prefix_projection", "quantization_embeddings"), BOOLEAN),
    "quantization_bit": one_of(0, 4, 8),
    "dtype": one_of(*DTYPES),
}


@dataclass(frozen=True)
class ConfigSchema:
    """How the configuration files of one architecture spell ours.

    required: keys without which there is no model. defaults: what the original's class takes for keys that
    a file lacks, where ours takes something else. derive: a file's values, after the rules, -> fields that
    stand there in another form.
    """

    title: str
    class_name: str
    rules: Rules
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    derive: Callable[[Mapping[str, Any]], dict[str, Any]]

    @property
    def fields(self) -> dict[str, str]:
        """Our field -> the file's key."""
        return {rule.field: key for key, rule in self.rules.items() if isinstance(rule, Mapped)}


def _strip_framework(dtype: Any) -> Any:
    """transformers writes "float16", its users "torch.float16"."""
    return dtype.removeprefix("torch.").removeprefix("paddle.") if isinstance(dtype, str) else dtype


def _mapped(*names: str, **renamed: str) -> dict[str, Rule]:
    """Keys that are spelled as our fields are, and others (key=field)."""
    return {
        key: Mapped(name, FIELD_TYPES[name]) for key, name in {**{n: n for n in names}, **renamed}.items()
    }


_COMMON_RULES: dict[str, Rule] = {
    **_mapped("num_layers", "hidden_size", "num_attention_heads", "layernorm_epsilon"),
    **_mapped("eos_token_id", "pad_token_id", "pre_seq_len", "prefix_projection"),
    # THUDM's keys of quantised checkpoints, and ours: they have no groups.
    **_mapped("quantization_bit", "quantization_embeddings", "quantization_group_size"),
    "torch_dtype": Mapped("dtype", FIELD_TYPES["dtype"], _strip_framework),
    "dtype": Alias("torch_dtype"),  # its name in newer files; one alone is taken for the other
    "num_hidden_layers": Alias("num_layers"),
    # Weights of other libraries: bitsandbytes, GPTQ, AWQ.
    "quantization_config": Restricted((None, {}), written=False),
    "use_cache": Ignored("says whether keys and values are kept, which is the caller's matter here"),
}

_CHATGLM2 = ConfigSchema(
    title="ChatGLM2 or ChatGLM3",
    class_name="ChatGLMModel",
    rules={
        **_COMMON_RULES,
        **_mapped("ffn_hidden_size", "hidden_dropout", "attention_dropout", "add_qkv_bias"),
        **_mapped("multi_query_attention", "rope_ratio", multi_query_group_num="num_key_value_heads"),
        **_mapped(kv_channels="head_dim", padded_vocab_size="vocab_size", seq_length="max_sequence_length"),
        "rmsnorm": Restricted((True,)),
        "post_layer_norm": Restricted((True,)),
        "add_bias_linear": Restricted((False,)),
        "apply_residual_connection_post_layernorm": Restricted((False,)),
        "fp32_residual_connection": Restricted((False,)),
        "tie_word_embeddings": Restricted((False,)),
        "interleaved_qkv": Restricted((False,), written=False),
        "original_rope": Ignored("handed on by the original, and never read", written=True),
        "apply_query_key_layer_scaling": Ignored("divides scores and multiplies them again"),
        "attention_softmax_in_fp32": Ignored("softmax is float32 here, as with PyTorch 2 there"),
        "bias_dropout_fusion": Ignored("one kernel or two for the same numbers"),
        "classifier_dropout": Ignored("belongs to a classification head, whose weights are refused"),
        "vocab_size": Ignored("the original computes with padded_vocab_size"),
    },
    required=(
        *("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "kv_channels"),
        *("padded_vocab_size", "seq_length", "layernorm_epsilon"),
    ),
    defaults={"add_qkv_bias": False, "multi_query_attention": False, "num_key_value_heads": 1},
    derive=lambda found: (
        {}
        if found["multi_query_attention"]
        # The number of groups that a file names is not read then.
        else {"num_key_value_heads": found["num_attention_heads"]}
    ),
)


def _derive_heads(found: Mapping[str, Any]) -> dict[str, Any]:
    hidden, heads = found["hidden_size"], found["num_attention_heads"]
    if hidden % heads:
        raise InputError(
            f"{CONFIG_FILE} says hidden_size = {hidden}: "
            f"{hidden} is not a multiple of num_attention_heads {heads}"
        )
    return {"num_key_value_heads": heads, "head_dim": hidden // heads}


_CHATGLM = ConfigSchema(
    title="ChatGLM-6B",
    class_name="ChatGLMForConditionalGeneration",
    rules={
        **_COMMON_RULES,
        **_mapped("vocab_size", "max_sequence_length", "position_encoding_2d", "bos_token_id"),
        **_mapped("mask_token_id", "gmask_token_id", inner_hidden_size="ffn_hidden_size"),
        "tie_word_embeddings": Restricted((True,)),
    },
    required=(
        *("num_layers", "hidden_size", "num_attention_heads", "inner_hidden_size", "vocab_size"),
        *("max_sequence_length", "layernorm_epsilon", "position_encoding_2d", "bos_token_id", "eos_token_id"),
    ),
    defaults={},
    derive=_derive_heads,
)
CONFIG_SCHEMAS = {"chatglm": _CHATGLM, "chatglm2": _CHATGLM2, "chatglm3": _CHATGLM2}
