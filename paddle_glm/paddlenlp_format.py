"""PaddleNLP's storage format as data: keys of `config.json`, names and layout of weights.

Each family that PaddleNLP supports has one `PaddleNLPFormat` in its folder. `checkpoint.paddlenlp` applies
the part on weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError

# PaddleNLP's key -> the hub's, for all classes; PaddleNLP reads the latter too.
_RENAMED_KEYS = {"num_hidden_layers": "num_layers", "dtype": "torch_dtype"}
# The dtype that PaddleNLP assumes if a file has none.
_KEY_DEFAULTS: dict[str, Any] = {"torch_dtype": "float32"}
# PaddleNLP's keys without a counterpart on the hub.
_PADDLENLP_KEYS = {
    "paddlenlp_version", "tensor_parallel_degree", "tensor_parallel_rank", "tensor_parallel_output",
    "long_sequence_init_args", "long_sequence_strategy_name", "long_sequence_strategy_type",
    "output_predict", "prefix_projection", "architectures", "model_type",
}  # fmt: skip
# Switches that only PaddleNLP's classes have; any other value changes the computation.
_UNSUPPORTED_SWITCHES = {"use_long_sequence_strategies": False, "activation": "gelu", "attention_scale": True}
# The hub's keys that PaddleNLP does not use.
_HUB_KEYS = {"auto_map", "transformers_version", "_name_or_path"}


@dataclass(frozen=True)
class PaddleNLPFormat:
    """Storage format of one of PaddleNLP's model classes.

    Files:
    model_type, model_class: `model_type` and `architectures` of its `config.json`.
    tokenizer_class, hub_tokenizer_class: `tokenizer_class` of `tokenizer_config.json`, PaddleNLP's and the
        hub's.

    Keys of `config.json`:
    own_keys: keys that distinguish its file from those of PaddleNLP's other classes.
    renamed_keys: PaddleNLP's key -> the hub's.
    key_defaults: the hub's key -> the value that the class assumes if it is missing.
    fixed_keys: the hub's keys that the class does not read -> the value that it computes with.

    Weights:
    prefix: what its class for generation prepends to names; its base class writes them without.
    hub_prefix: what the hub prepends to the same names.
    unprefixed_starts: starts of names without `prefix` by which a `.pdparams` file is recognised.
    renamed: names that differ otherwise, PaddleNLP's without `prefix` -> the hub's.
    not_transposed: hub names of matrices stored as on the hub; the others are [in_features, out_features].
    buffers: hub name of a buffer in its state dict -> function of head_dim that computes it.
    legacy_fused: fused linear layer -> the layers that older files have instead, in the order of its rows.
    legacy_alternating: linear layers whose rows alternate between two halves in older files.
    """

    model_type: str
    model_class: str
    tokenizer_class: str
    prefix: str
    hub_prefix: str
    unprefixed_starts: tuple[str, ...]
    not_transposed: frozenset[str]
    own_keys: frozenset[str]
    hub_tokenizer_class: str = "ChatGLMTokenizer"
    renamed_keys: Mapping[str, str] = field(default_factory=dict)
    key_defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed_keys: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    buffers: Mapping[str, Callable[[int], Array]] = field(default_factory=dict)
    legacy_fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    legacy_alternating: tuple[str, ...] = ()

    def hub_config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Convert PaddleNLP's `config.json` to the hub's.

        Raises `InputError` for an unsupported value of a switch.
        """
        renamed = {**_RENAMED_KEYS, **self.renamed_keys}
        config = {renamed.get(key, key): value for key, value in values.items() if key not in _PADDLENLP_KEYS}
        for key, expected in _UNSUPPORTED_SWITCHES.items():
            if (value := config.pop(key, expected)) != expected:
                raise InputError(f"config.json says {key} = {value!r}; only {expected!r} is supported")
        self.check_expressible(config)
        return {**_KEY_DEFAULTS, **self.key_defaults, **self.fixed_keys, **config}

    def paddlenlp_config(self, hub_values: Mapping[str, Any], degree: int) -> dict[str, Any]:
        """Convert the hub's `config.json` to PaddleNLP's, for shards of tensor-parallel degree `degree`."""
        renamed = {hub: own for own, hub in {**_RENAMED_KEYS, **self.renamed_keys}.items()}
        config = {renamed.get(key, key): value for key, value in hub_values.items() if key not in _HUB_KEYS}
        config["architectures"], config["model_type"] = [self.model_class], self.model_type
        config["paddlenlp_version"] = None
        if degree > 1:
            config["tensor_parallel_degree"] = degree
        return config

    def check_expressible(self, hub_values: Mapping[str, Any]) -> None:
        """Raise `InputError` for a hub key with a value that PaddleNLP's class does not support."""
        for key, expected in self.fixed_keys.items():
            if hub_values.get(key, expected) != expected:
                raise InputError(
                    f"config.json says {key} = {hub_values[key]!r}: PaddleNLP's classes do not read it and "
                    f"compute as if it were {expected!r}; use safetensors or bin"
                )

    def hub_name(self, name: str) -> str:
        """The hub's name of PaddleNLP's tensor `name`."""
        bare = name.removeprefix(self.prefix)
        return self.renamed.get(bare, self.hub_prefix + bare)

    def paddlenlp_name(self, hub_name: str) -> str:
        return self.prefix + hub_name.removeprefix(self.hub_prefix)

    def is_transposed(self, hub_name: str, dimensions: int) -> bool:
        """Whether PaddleNLP stores this tensor as [in_features, out_features]."""
        return dimensions == 2 and hub_name not in self.not_transposed


def written_by_paddlenlp(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` has keys that PaddleNLP writes and the hub does not."""
    return "paddlenlp_version" in values or ("num_hidden_layers" in values and "num_layers" not in values)
