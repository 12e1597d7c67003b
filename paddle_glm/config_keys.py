"""The schema of `config.json`, and the rules that all families share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from paddle_glm.paddlenlp_format import PaddleNLPFormat

DTYPES = ("float32", "float16", "bfloat16")
CONFIG_FILE = "config.json"

# Values that the fields of `ModelConfig` may have.
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
    """How the `config.json` of one family is recognised, read and written.

    title: the family, for messages. model_type, class_name: `model_type` and `architectures` of its files.
    own_keys: a file with any of these keys may belong to the family.
    tokenizer_marks: text in `tokenizer_config.json` that tells it from families with the same keys.
    rules: by key. required: keys that a file must have.
    derive: fields that `rules` read -> fields computed from them.
    defaults: values of fields whose key a file lacks, where the original's differ from `ModelConfig`'s.
    ambiguous_keys: keys that families with the same `own_keys` read differently -> the value they agree on.
    paddlenlp: PaddleNLP's format of these models; None if it has no class for them.
    released: name on the hub -> `config.json` of each released model.
    """

    title: str
    model_type: str
    class_name: str
    own_keys: frozenset[str]
    rules: Rules
    required: tuple[str, ...]
    derive: Callable[[Mapping[str, Any]], dict[str, Any]]
    tokenizer_marks: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ambiguous_keys: Mapping[str, Any] = field(default_factory=dict)
    paddlenlp: PaddleNLPFormat | None = None
    released: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, str]:
        """Field of `ModelConfig` -> key of the file."""
        return {rule.field: key for key, rule in self.rules.items() if isinstance(rule, Mapped)}


def _strip_framework(dtype: Any) -> Any:
    """ "torch.float16" -> "float16"."""
    return dtype.removeprefix("torch.").removeprefix("paddle.") if isinstance(dtype, str) else dtype


def mapped(*names: str, **renamed: str) -> dict[str, Rule]:
    """Rules that read keys into the fields of the same names, and into others (key="field")."""
    return {
        key: Mapped(name, FIELD_TYPES[name]) for key, name in {**{n: n for n in names}, **renamed}.items()
    }


COMMON_RULES: dict[str, Rule] = {
    **mapped("num_layers", "hidden_size", "num_attention_heads", "layernorm_epsilon"),
    **mapped("eos_token_id", "pad_token_id", "pre_seq_len", "prefix_projection"),
    # THUDM's key of quantised checkpoints, and two of our own.
    **mapped("quantization_bit", "quantization_embeddings", "quantization_group_size"),
    "torch_dtype": Mapped("dtype", FIELD_TYPES["dtype"], _strip_framework),
    "dtype": Alias("torch_dtype"),  # its name in newer files; read if the other is missing
    "num_hidden_layers": Alias("num_layers"),
    # Weights of other libraries: bitsandbytes, GPTQ, AWQ.
    "quantization_config": Restricted((None, {}), save_default=False),
    "use_cache": Ignored("the caller decides whether keys and values are cached"),
}
