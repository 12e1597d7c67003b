"""The architecture of one model, and the only place that reads foreign configuration keys."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle_glm import paddlenlp_config
from paddle_glm.errors import InputError

DTYPES = ("float32", "float16", "bfloat16")
FAMILY_KEY = "paddle_glm_family"
# THUDM's keys of quantised checkpoints, and ours: they have no groups.
_QUANTIZATION = ("quantization_bit", "quantization_embeddings", "quantization_group_size")


@dataclass(frozen=True)
class _Architecture:
    """How the configuration files of one architecture spell ours.

    keys: our field -> the file's key. fixed: keys of which every released checkpoint says the same;
    another value is another architecture. optional: our fields whose key may be missing. derive: a
    file's values -> fields that stand there in another form; express: the inverse.
    """

    title: str
    class_name: str
    keys: Mapping[str, str]
    fixed: Mapping[str, Any]
    optional: frozenset[str]
    derive: Callable[[Mapping[str, Any]], dict[str, Any]]
    express: "Callable[[ModelConfig], dict[str, Any]]"


def _same(*names: str) -> dict[str, str]:
    """Keys that are spelled as our fields are."""
    return {name: name for name in names}


def _groups(values: Mapping[str, Any]) -> dict[str, Any]:
    # What the original class assumes of keys that a file lacks.
    shared = values.get("multi_query_attention", False)
    groups = values.get("multi_query_group_num", 1) if shared else values["num_attention_heads"]
    return {"multi_query_attention": shared, "num_key_value_heads": groups}


def _heads(values: Mapping[str, Any]) -> dict[str, Any]:
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if not (isinstance(hidden, int) and isinstance(heads, int) and heads > 0):
        return {}  # ModelConfig names which of them is wrong
    if hidden % heads:
        raise InputError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    return {"num_key_value_heads": heads, "head_dim": hidden // heads}


_GROUPED = _Architecture(
    title="ChatGLM2 or ChatGLM3",
    class_name="ChatGLMModel",
    keys={
        **_same("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "layernorm_epsilon"),
        **_same("add_qkv_bias", "hidden_dropout", "attention_dropout", "eos_token_id", "pad_token_id"),
        **_same("pre_seq_len", "prefix_projection", *_QUANTIZATION),
        "head_dim": "kv_channels",
        "vocab_size": "padded_vocab_size",
        "max_sequence_length": "seq_length",
        "dtype": "torch_dtype",
    },
    fixed={
        "rmsnorm": True,
        "post_layer_norm": True,
        "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False,
        "fp32_residual_connection": False,
        "original_rope": True,
        "tie_word_embeddings": False,
        "rope_ratio": 1,
    },
    optional=frozenset(
        (
            "add_qkv_bias",
            "hidden_dropout",
            "attention_dropout",
            "eos_token_id",
            "pad_token_id",
            "dtype",
            "pre_seq_len",
            "prefix_projection",
            *_QUANTIZATION,
        )
    ),
    derive=_groups,
    express=lambda config: {
        "multi_query_attention": config.multi_query_attention,
        "multi_query_group_num": config.num_key_value_heads,
    },
)
_TWO_ROWS = _Architecture(
    title="ChatGLM-6B",
    class_name="ChatGLMForConditionalGeneration",
    keys={
        **_same("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length"),
        **_same("layernorm_epsilon", "position_encoding_2d", "bos_token_id", "eos_token_id", "pad_token_id"),
        **_same("mask_token_id", "gmask_token_id", "pre_seq_len", "prefix_projection", *_QUANTIZATION),
        "ffn_hidden_size": "inner_hidden_size",
        "dtype": "torch_dtype",
    },
    fixed={"tie_word_embeddings": True},
    optional=frozenset(
        (
            "mask_token_id",
            "gmask_token_id",
            "pad_token_id",
            "dtype",
            "pre_seq_len",
            "prefix_projection",
            *_QUANTIZATION,
        )
    ),
    derive=_heads,
    express=lambda config: {},
)
_ARCHITECTURES = {"chatglm": _TWO_ROWS, "chatglm2": _GROUPED, "chatglm3": _GROUPED}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a model; `from_pretrained` reads a folder's `config.json`.

    The defaults are those of ChatGLM2-6B. Ids of special tokens are None where the architecture has no
    use for them, or its files do not name them (the first releases of ChatGLM-6B). `pre_seq_len` is the
    length of a trained prefix that stands beside the weights, None where there is none. Without
    `multi_query_attention` ChatGLM2's fused projection is laid out head by head. `quantization_bit`
    is 0 for float weights; `quantization_group_size` None means one scale per output channel. `hub` keeps the
    keys of the original file which the architecture does not need (`auto_map`, `architectures`, ...), so
    that saving gives them back.
    """

    family: str = "chatglm2"
    num_layers: int = 28
    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_key_value_heads: int = 2
    multi_query_attention: bool = True
    head_dim: int = 128
    ffn_hidden_size: int = 13696
    vocab_size: int = 65024
    max_sequence_length: int = 32768
    layernorm_epsilon: float = 1e-5
    add_qkv_bias: bool = True
    position_encoding_2d: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int = 2
    pad_token_id: int = 0
    mask_token_id: int | None = None
    gmask_token_id: int | None = None
    dtype: str = "float32"
    pre_seq_len: int | None = None
    prefix_projection: bool = False
    quantization_bit: int = 0
    quantization_group_size: int | None = None
    quantization_embeddings: bool = False
    hub: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                     "ffn_hidden_size", "vocab_size", "max_sequence_length"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, not {value!r}: check config.json")
        if self.pre_seq_len is not None and not (isinstance(self.pre_seq_len, int) and self.pre_seq_len > 0):
            raise InputError(f"pre_seq_len must be a positive integer or null, not {self.pre_seq_len!r}")
        if self.quantization_bit not in (0, 4, 8):
            raise InputError(f"quantization_bit {self.quantization_bit!r}: expected 0 (float), 4 or 8")
        size = self.quantization_group_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise InputError(f"quantization_group_size must be a positive integer or null, not {size!r}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: check config.json"
            )
        if not self.multi_query_attention and self.num_key_value_heads != self.num_attention_heads:
            raise InputError(
                f"multi_query_attention false: each of {self.num_attention_heads} heads has keys of its own, "
                f"so that num_key_value_heads cannot be {self.num_key_value_heads}"
            )
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], family: str | None = None) -> "ModelConfig":
        """Read a `config.json` of the hub or of PaddleNLP given as a mapping.

        Raises `InputError` for a missing key, or for a switch that names another architecture.
        """
        if paddlenlp_config.is_paddlenlp(values):
            values = paddlenlp_config.to_hub(values)
        family = family or _family_of(values)
        known = _architecture(family)
        missing = [
            key for name, key in known.keys.items() if name not in known.optional and key not in values
        ]
        if missing:
            raise InputError(f"config.json lacks {', '.join(missing)}: is it a {known.title} checkpoint?")
        for key, expected in known.fixed.items():
            if values.get(key, expected) not in (expected, None):
                raise InputError(f"config.json says {key} = {values[key]!r}; only {expected!r} is supported")
        read = {name: values[key] for name, key in known.keys.items() if values.get(key) is not None}
        rest = {
            key: value
            for key, value in values.items()
            if key not in known.keys.values() and key != FAMILY_KEY
        }
        return cls(family=family, hub=rest, **read, **known.derive(values))

    @classmethod
    def from_pretrained(cls, folder: str | Path, family: str | None = None) -> "ModelConfig":
        """Read `folder/config.json`; `family` overrides what the files say."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise InputError(
                f"{path} not found: {folder} is not a model folder (a download may be incomplete)"
            )
        values = _read_json(path)
        if family is None and FAMILY_KEY not in values:
            tokenizer = path.with_name("tokenizer_config.json")
            text = tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else ""
            # ChatGLM2 and ChatGLM3 share config keys; their tokenizer files tell them apart.
            if "chatglm3" in text.lower() or "<|user|>" in text:
                family = "chatglm3"
        return cls.from_dict(values, family)

    def to_hub_dict(self) -> dict[str, Any]:
        """The keys of THUDM's `config.json`, with the original's other keys given back."""
        known = _architecture(self.family)
        out = {"architectures": [known.class_name], "model_type": "chatglm", **known.fixed, **self.hub}
        own = {key: getattr(self, name) for name, key in known.keys.items()}
        out.update({key: value for key, value in own.items() if value is not None})
        return {**out, **known.express(self), FAMILY_KEY: self.family}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `folder/config.json`."""
        _write_json(Path(folder) / "config.json", self.to_hub_dict())

    def save_for_paddlenlp(self, folder: str | Path, tensor_parallel_degree: int = 1) -> None:
        """Write `folder/config.json` with PaddleNLP's keys, beside shards of the given degree."""
        values = paddlenlp_config.from_hub(self.to_hub_dict(), tensor_parallel_degree)
        _write_json(Path(folder) / "config.json", values)


def _architecture(family: str) -> _Architecture:
    if family not in _ARCHITECTURES:
        raise InputError(f"unknown model family {family!r}: expected one of {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[family]


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _family_of(values: Mapping[str, Any]) -> str:
    if FAMILY_KEY in values:
        return str(values[FAMILY_KEY])
    if "inner_hidden_size" in values or "position_encoding_2d" in values:
        return "chatglm"
    if "chatglm3" in str(values.get("_name_or_path", "")).lower():
        return "chatglm3"
    return "chatglm2"
