"""Every key that the originals' code reads of `config.json`, and what is made of it here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.file_keys import (
    ABOVE_ZERO,
    FLAG,
    POSITIVE,
    POSITIVE_OR_NULL,
    SHARE,
    TOKEN,
    Honoured,
    Ignored,
    Kind,
    Only,
    Rule,
    Rules,
    SameAs,
    one_of,
)

DTYPES = ("float32", "float16", "bfloat16")
SOURCE = "config.json"

# What our fields may hold, read from a file or not.
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("num_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"), POSITIVE),
    **dict.fromkeys(("head_dim", "ffn_hidden_size", "vocab_size", "max_sequence_length"), POSITIVE),
    **dict.fromkeys(("pre_seq_len", "quantization_group_size"), POSITIVE_OR_NULL),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKEN),
    **dict.fromkeys(("mask_token_id", "gmask_token_id"), TOKEN),
    **dict.fromkeys(("layernorm_epsilon", "rope_ratio"), ABOVE_ZERO),
    **dict.fromkeys(("hidden_dropout", "attention_dropout"), SHARE),
    **dict.fromkeys(("add_qkv_bias", "multi_query_attention", "position_encoding_2d"), FLAG),
    **dict.fromkeys(("prefix_projection", "quantization_embeddings"), FLAG),
    "quantization_bit": one_of(0, 4, 8),
    "dtype": one_of(*DTYPES),
}


@dataclass(frozen=True)
class Architecture:
    """How the configuration files of one architecture spell ours.

    required: keys without which there is no model. assumed: what the original's class takes for keys that
    a file lacks, where ours takes something else. derive: a file's values, after the rules, -> fields that
    stand there in another form.
    """

    title: str
    class_name: str
    rules: Rules
    required: tuple[str, ...]
    assumed: Mapping[str, Any]
    derive: Callable[[Mapping[str, Any]], dict[str, Any]]

    @property
    def fields(self) -> dict[str, str]:
        """Our field -> the file's key."""
        return {rule.field: key for key, rule in self.rules.items() if isinstance(rule, Honoured)}


def _bare(dtype: Any) -> Any:
    """transformers writes "float16", its users "torch.float16"."""
    return dtype.removeprefix("torch.").removeprefix("paddle.") if isinstance(dtype, str) else dtype


def _honoured(*names: str, **renamed: str) -> dict[str, Rule]:
    """Keys that are spelled as our fields are, and others (key=field)."""
    return {key: Honoured(name, KINDS[name]) for key, name in {**{n: n for n in names}, **renamed}.items()}


_SHARED: dict[str, Rule] = {
    **_honoured("num_layers", "hidden_size", "num_attention_heads", "layernorm_epsilon"),
    **_honoured("eos_token_id", "pad_token_id", "pre_seq_len", "prefix_projection"),
    # THUDM's keys of quantised checkpoints, and ours: they have no groups.
    **_honoured("quantization_bit", "quantization_embeddings", "quantization_group_size"),
    "torch_dtype": Honoured("dtype", KINDS["dtype"], _bare),
    "dtype": SameAs("torch_dtype"),  # its name in newer files; one alone is taken for the other
    "num_hidden_layers": SameAs("num_layers"),
    # Weights of other libraries: bitsandbytes, GPTQ, AWQ.
    "quantization_config": Only((None, {}), written=False),
    "use_cache": Ignored("says whether keys and values are kept, which is the caller's matter here"),
}

_GROUPED = Architecture(
    title="ChatGLM2 or ChatGLM3",
    class_name="ChatGLMModel",
    rules={
        **_SHARED,
        **_honoured("ffn_hidden_size", "hidden_dropout", "attention_dropout", "add_qkv_bias"),
        **_honoured("multi_query_attention", "rope_ratio", multi_query_group_num="num_key_value_heads"),
        **_honoured(kv_channels="head_dim", padded_vocab_size="vocab_size", seq_length="max_sequence_length"),
        "rmsnorm": Only((True,)),
        "post_layer_norm": Only((True,)),
        "add_bias_linear": Only((False,)),
        "apply_residual_connection_post_layernorm": Only((False,)),
        "fp32_residual_connection": Only((False,)),
        "tie_word_embeddings": Only((False,)),
        "interleaved_qkv": Only((False,), written=False),
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
    assumed={"add_qkv_bias": False, "multi_query_attention": False, "num_key_value_heads": 1},
    derive=lambda found: (
        {}
        if found["multi_query_attention"]
        # The number of groups that a file names is not read then.
        else {"num_key_value_heads": found["num_attention_heads"]}
    ),
)


def _heads(found: Mapping[str, Any]) -> dict[str, Any]:
    hidden, heads = found["hidden_size"], found["num_attention_heads"]
    if hidden % heads:
        raise InputError(
            f"{SOURCE} says hidden_size = {hidden}: {hidden} is not a multiple of num_attention_heads {heads}"
        )
    return {"num_key_value_heads": heads, "head_dim": hidden // heads}


_TWO_ROWS = Architecture(
    title="ChatGLM-6B",
    class_name="ChatGLMForConditionalGeneration",
    rules={
        **_SHARED,
        **_honoured("vocab_size", "max_sequence_length", "position_encoding_2d", "bos_token_id"),
        **_honoured("mask_token_id", "gmask_token_id", inner_hidden_size="ffn_hidden_size"),
        "tie_word_embeddings": Only((True,)),
    },
    required=(
        *("num_layers", "hidden_size", "num_attention_heads", "inner_hidden_size", "vocab_size"),
        *("max_sequence_length", "layernorm_epsilon", "position_encoding_2d", "bos_token_id", "eos_token_id"),
    ),
    assumed={},
    derive=_heads,
)
ARCHITECTURES = {"chatglm": _TWO_ROWS, "chatglm2": _GROUPED, "chatglm3": _GROUPED}
