"""`ModelConfig`: sizes and switches of a model, read from and written to `config.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paddle_glm import generation_keys
from paddle_glm.config_keys import CONFIG_FILE, DTYPES, FIELD_TYPES, ConfigSchema
from paddle_glm.errors import InputError
from paddle_glm.key_rules import Alias, default_keys, read_fields
from paddle_glm.models.registry import family_module, family_names
from paddle_glm.paddlenlp_format import PaddleNLPFormat, written_by_paddlenlp

__all__ = ["DTYPES", "FAMILY_KEY", "ModelConfig"]


FAMILY_KEY = "paddle_glm_family"


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a model; `from_pretrained` reads a folder's `config.json`.

    The defaults are those of ChatGLM2-6B.

    head_dim: channels of one attention head.
    multi_query_attention: false means that ChatGLM2's fused projection is laid out head by head.
    rope_ratio: divides rotary positions in ChatGLM2, multiplies the base of their frequencies in ChatGLM3.
    bos_token_id, mask_token_id, gmask_token_id: None if the architecture does not use the token, or its
        `config.json` does not name it (the first releases of ChatGLM-6B).
    dtype: of the weights in the files.
    pre_seq_len: length of a P-Tuning v2 prefix stored with the weights; None for no prefix.
    quantization_bit: 0 for float weights. quantization_group_size: None for one scale per output channel.
    extra_keys: keys of the file without a field (`auto_map`, `architectures`, ...), written back on saving.
    generation_config: the contents of `generation_config.json`; None if there was none.
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
    rope_ratio: float = 1
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
    extra_keys: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    generation_config: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, kind in FIELD_TYPES.items():
            value = getattr(self, name)
            if not (
                kind.accepts(value)
                or (value is None and type(self).__dataclass_fields__[name].default is None)
            ):
                raise InputError(f"{name} is {value!r}: expected {kind.description}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}: check config.json"
            )
        if not self.multi_query_attention and self.num_key_value_heads != self.num_attention_heads:
            raise InputError(
                f"multi_query_attention false: each of {self.num_attention_heads} heads has its own keys, so "
                f"num_key_value_heads cannot be {self.num_key_value_heads}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], family: str | None = None) -> "ModelConfig":
        """The configuration in the contents of a `config.json`, the hub's or PaddleNLP's.

        family: overrides detection. Raises `InputError` for a missing key, a value of the wrong kind, or one
        that is not supported.
        """
        paddlenlp = _paddlenlp_format(values)
        if paddlenlp is not None:
            values = paddlenlp.hub_config(values)
        family = family or _detect_family(values)
        schema = config_schema(family)
        if missing := [key for key in schema.required if values.get(key) is None]:
            raise InputError(f"{CONFIG_FILE} lacks {', '.join(missing)}: is it a {schema.title} checkpoint?")
        if "dtype" in values:
            values = {"torch_dtype": values["dtype"], **values}
        fields = {**schema.defaults, **read_fields(schema.rules, values, CONFIG_FILE)}
        own_keys = (*schema.fields.values(), FAMILY_KEY)
        extra_keys = {key: value for key, value in values.items() if key not in own_keys}
        return cls(family=family, extra_keys=extra_keys, **{**fields, **schema.derive(fields)})

    @classmethod
    def from_pretrained(cls, folder: str | Path, family: str | None = None) -> "ModelConfig":
        """Read `folder/config.json`, and `generation_config.json` if there is one.

        family: overrides what the files say. Raises `InputError` as `from_dict`, and for unreadable files.
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise InputError(
                f"{path} not found: {folder} is not a model folder (a download may be incomplete)"
            )
        values = _read_json(path)
        if family is None and FAMILY_KEY not in values:
            tokenizer = path.with_name("tokenizer_config.json")
            text = tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else ""
            family = _family_of_tokenizer(text.lower())
        config = cls.from_dict(values, family)
        generation_path = path.with_name(generation_keys.GENERATION_CONFIG_FILE)
        if not generation_path.is_file():
            return config
        return replace(config, generation_config=_read_json(generation_path))

    def to_hub_dict(self) -> dict[str, Any]:
        """The contents of the hub's `config.json`, with the keys of the original file that have no field."""
        schema = config_schema(self.family)
        own = {key: getattr(self, name) for name, key in schema.fields.items()}
        out = {
            "architectures": [schema.class_name],
            "model_type": schema.model_type,
            **default_keys(schema.rules),
            **self.extra_keys,
            **{key: value for key, value in own.items() if value is not None},
        }
        aliases = {
            key: out[rule.key] for key, rule in schema.rules.items() if isinstance(rule, Alias) and key in out
        }
        return {**out, **aliases, FAMILY_KEY: self.family}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `folder/config.json`, and `generation_config.json` if the model came with one."""
        _write_json(Path(folder) / "config.json", self.to_hub_dict())
        if self.generation_config is not None:
            _write_json(Path(folder) / generation_keys.GENERATION_CONFIG_FILE, self.generation_config)

    def save_for_paddlenlp(self, folder: str | Path, tensor_parallel_degree: int = 1) -> None:
        """Write `folder/config.json` with PaddleNLP's keys, for shards of the given degree."""
        values = paddlenlp_format(self.family).paddlenlp_config(self.to_hub_dict(), tensor_parallel_degree)
        _write_json(Path(folder) / "config.json", values)


def config_schema(family: str) -> ConfigSchema:
    """The schema of a family's `config.json`; raises `InputError` listing the known families."""
    schema: ConfigSchema = family_module(family, "config").SCHEMA
    return schema


def paddlenlp_format(family: str) -> PaddleNLPFormat:
    """How PaddleNLP stores models of a family; raises `InputError` if it does not support the family."""
    schema = config_schema(family)
    if schema.paddlenlp is None:
        raise InputError(f"PaddleNLP has no class for {family}: use safetensors or bin")
    return schema.paddlenlp


def paddlenlp_formats() -> list[PaddleNLPFormat]:
    """The PaddleNLP formats of all families."""
    formats = (config_schema(family).paddlenlp for family in family_names())
    return [layout for layout in formats if layout is not None]


def released_configs() -> dict[str, Mapping[str, Any]]:
    """{name on the hub: `config.json`} of every released model."""
    schemas = map(config_schema, family_names())
    return {name: values for schema in schemas for name, values in schema.released.items()}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} contains a {type(values).__name__}, expected an object")
    return values


def _paddlenlp_format(values: Mapping[str, Any]) -> PaddleNLPFormat | None:
    """The format of a `config.json` written by PaddleNLP; None for the hub's."""
    formats = paddlenlp_formats()
    hub_types = {config_schema(family).model_type for family in family_names()}
    for layout in formats:
        if layout.model_type == values.get("model_type") and layout.model_type not in hub_types:
            return layout
    if not written_by_paddlenlp(values):
        return None
    return next((layout for layout in formats if layout.own_keys & values.keys()), None)


def _family_of_tokenizer(text: str) -> str | None:
    """The family named in `tokenizer_config.json`, given as lower-case text; None if it names none."""
    for family in reversed(family_names()):
        if any(mark in text for mark in config_schema(family).tokenizer_marks):
            return family
    return None


def _detect_family(values: Mapping[str, Any]) -> str:
    """The family of the hub's `config.json`, by `FAMILY_KEY`, by its keys, and then by `_name_or_path`.

    Raises `InputError` if no family has these keys, or several that read one of them differently.
    """
    if FAMILY_KEY in values:
        return str(values[FAMILY_KEY])
    schemas = {family: config_schema(family) for family in family_names()}
    matching = [family for family, schema in schemas.items() if schema.own_keys & values.keys()]
    if not matching:
        titles = " or ".join(schema.title for schema in schemas.values())
        raise InputError(f"{CONFIG_FILE} has no key of a known model: expected a checkpoint of {titles}")
    name = str(values.get("_name_or_path", "")).lower()
    named = [family for family in matching if any(mark in name for mark in schemas[family].tokenizer_marks)]
    if named:
        return named[-1]
    titles = " and ".join(schemas[family].title for family in matching)
    for key, neutral in schemas[matching[0]].ambiguous_keys.items():
        if len(matching) > 1 and values.get(key) not in (neutral, None):
            raise InputError(
                f"{CONFIG_FILE} says {key} = {values[key]!r}, which {titles} read differently, "
                f"and no file says which of them this is: give --family {' or '.join(matching)}"
            )
    return matching[0]
