"""What distinguishes one family of models from another, as data: no framework is imported here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from paddle_glm.chat import Template
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.quantization import quantization_of, quantized_table, with_quantization
from paddle_glm.sharding import ParameterSpec

__all__ = ["Family", "ParameterSpec", "family_names", "family_of", "get_family"]

Positions = Callable[[ModelConfig, np.ndarray, np.ndarray], np.ndarray]


def _one_row(config: ModelConfig) -> tuple[int, ...]:
    return ()


def _counting(config: ModelConfig) -> dict[str, Any]:
    return {"rule": "count"}


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    float_parameters: every parameter of the float model by its hub name, for a configuration.
    positions: `(config, input_ids [batch, total], attention_mask [batch, total])`, int64, to the position of
        every token, int64 [batch, *position_rows, total]: the only home of positions.
    position_rows: how many positions a token has; () for a single one.
    position_rule: what `positions` does, as a JSON value for programs in other languages; "count" gives
        each token the number of real tokens before it, and padding 0.
    ignored: regular expressions of names that a checkpoint may hold and the model does not need.
    model, tokenizer: "module:class", imported when they are needed.
    half_precision_positions: the rotary table of a half precision model is computed in half precision.
    rope_ratio_scales_base: `rope_ratio` multiplies the base of the rotary frequencies; otherwise it divides
        positions.
    chat_sampling: what the original's `chat` passes otherwise than ChatGLM2's, by names of
        `GenerationParams`.
    """

    name: str
    title: str
    float_parameters: Callable[[ModelConfig], dict[str, ParameterSpec]]
    positions: Positions
    template: Template
    model: str
    tokenizer: str
    position_rows: Callable[[ModelConfig], tuple[int, ...]] = _one_row
    position_rule: Callable[[ModelConfig], dict[str, Any]] = _counting
    ignored: tuple[str, ...] = ()
    half_precision_positions: bool = False
    rope_ratio_scales_base: bool = False
    chat_sampling: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self, config: ModelConfig) -> dict[str, ParameterSpec]:
        """Every parameter by its name, quantised where the configuration says so."""
        return quantized_table(self.float_parameters(config), quantization_of(config))

    def quantized_config(
        self, config: ModelConfig, bits: int, group_size: int | None = None, embeddings: bool = False
    ) -> ModelConfig:
        """The configuration of the quantised model; see `with_quantization`."""
        return with_quantization(config, self.float_parameters(config), bits, group_size, embeddings)

    def step_inputs(
        self, config: ModelConfig, input_ids: np.ndarray, attention_mask: np.ndarray, tokens: int
    ) -> dict[str, np.ndarray]:
        """The named int64 arrays that a prefill or decode step over the last `tokens` tokens takes.

        input_ids, attention_mask: [batch, total], of all tokens so far, 1 for real ones.
        """
        positions = self.positions(config, input_ids, attention_mask)
        arrays = (input_ids[:, -tokens:], positions[..., -tokens:], attention_mask)
        return {
            name: array.astype(np.int64) for name, array in zip(self.step_shapes(config), arrays, strict=True)
        }

    def step_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The shapes of `step_inputs`; -1 is a size that each step chooses."""
        return {
            "input_ids": (-1, -1),
            "position_ids": (-1, *self.position_rows(config), -1),
            "attention_mask": (-1, -1),
        }

    def model_class(self) -> Any:
        return _load(self.model)

    def tokenizer_class(self) -> Any:
        return _load(self.tokenizer)


# Name -> module below this package; ChatGLM3 is ChatGLM2 with another template.
_MODULES = {"chatglm": "chatglm", "chatglm2": "chatglm2", "chatglm3": "chatglm2"}


def family_names() -> tuple[str, ...]:
    return tuple(_MODULES)


def get_family(name: str) -> Family:
    """The family called `name`; raises `InputError` listing the known ones."""
    if name not in _MODULES:
        raise InputError(f"unknown model family {name!r}: expected one of {', '.join(_MODULES)}")
    return import_module(f"{__name__}.{_MODULES[name]}").FAMILIES[name]


def family_of(config: ModelConfig) -> Family:
    return get_family(config.family)


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
