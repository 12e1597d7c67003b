"""The architecture of one model, and the only place that reads foreign configuration keys."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from paddle_glm.errors import InputError

DTYPES = ("float32", "float16", "bfloat16")

# Our field -> the key that THUDM's config.json uses, for the multi-query families (ChatGLM2, ChatGLM3).
_HUB_KEYS = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "head_dim": "kv_channels",
    "ffn_hidden_size": "ffn_hidden_size",
    "vocab_size": "padded_vocab_size",
    "max_sequence_length": "seq_length",
    "layernorm_epsilon": "layernorm_epsilon",
    "add_qkv_bias": "add_qkv_bias",
    "hidden_dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
    "dtype": "torch_dtype",
}
# What every released ChatGLM2 and ChatGLM3 checkpoint says; another value is another architecture.
_FIXED = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "original_rope": True,
    "tie_word_embeddings": False,
    "quantization_bit": 0,
    "pre_seq_len": None,
    "rope_ratio": 1,
}
FAMILY_KEY = "paddle_glm_family"


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a model; `from_pretrained` reads a folder's `config.json`.

    The defaults are those of ChatGLM2-6B. `hub` keeps the keys of the original file which the
    architecture does not need (`auto_map`, `architectures`, ...), so that saving gives them back.
    """

    family: str = "chatglm2"
    num_layers: int = 28
    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_key_value_heads: int = 2
    head_dim: int = 128
    ffn_hidden_size: int = 13696
    vocab_size: int = 65024
    max_sequence_length: int = 32768
    layernorm_epsilon: float = 1e-5
    add_qkv_bias: bool = True
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    eos_token_id: int = 2
    pad_token_id: int = 0
    dtype: str = "float32"
    hub: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                     "ffn_hidden_size", "vocab_size", "max_sequence_length"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, not {value!r}: check config.json")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: check config.json"
            )
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], family: str | None = None) -> "ModelConfig":
        """Read a hub `config.json` given as a mapping.

        Raises `InputError` for a missing key, or for a switch that names another architecture.
        """
        if family is None:
            family = _family_of(values)
        missing = [key for key in _HUB_KEYS.values() if key not in values and key not in _OPTIONAL]
        if missing:
            raise InputError(
                f"config.json lacks {', '.join(missing)}: is it a ChatGLM2 or ChatGLM3 checkpoint?"
            )
        for key, expected in _FIXED.items():
            if values.get(key, expected) not in (expected, None):
                raise InputError(f"config.json says {key} = {values[key]!r}; only {expected!r} is supported")
        known = {name: values[key] for name, key in _HUB_KEYS.items() if values.get(key) is not None}
        groups = values.get("multi_query_group_num", 1)
        known["num_key_value_heads"] = (
            groups if values.get("multi_query_attention", True) else known["num_attention_heads"]
        )
        rest = {
            key: value for key, value in values.items() if key not in _HUB_KEYS.values() and key != FAMILY_KEY
        }
        return cls(family=family, hub=rest, **known)

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
        out = {"architectures": ["ChatGLMModel"], "model_type": "chatglm", **_FIXED, **self.hub}
        out.update({key: getattr(self, name) for name, key in _HUB_KEYS.items()})
        out["multi_query_attention"] = True
        out["multi_query_group_num"] = self.num_key_value_heads
        out[FAMILY_KEY] = self.family
        return out

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `folder/config.json`."""
        text = json.dumps(self.to_hub_dict(), ensure_ascii=False, indent=2)
        (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")


_OPTIONAL = {
    "hidden_dropout",
    "attention_dropout",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "add_qkv_bias",
}
assert {f.name for f in fields(ModelConfig)} >= set(_HUB_KEYS)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
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
