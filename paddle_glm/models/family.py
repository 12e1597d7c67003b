"""What distinguishes one family of models from another, as data: no framework is imported here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from paddle_glm.array_types import IntArray
from paddle_glm.chat_template import ChatTemplate
from paddle_glm.config import ModelConfig
from paddle_glm.models.registry import family_module
from paddle_glm.quantization import quantization_of, quantized_specs, with_quantization
from paddle_glm.sharding import ParameterSpec

PositionFunction = Callable[[ModelConfig, IntArray, IntArray], IntArray]


def _scalar_position_shape(config: ModelConfig) -> tuple[int, ...]:
    return ()


def _count_rule(config: ModelConfig) -> dict[str, Any]:
    return {"rule": "count"}


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    float_parameters: every parameter of the float model by its hub name, for a configuration.
    positions: `(config, input_ids [batch, total], attention_mask [batch, total])`, int64, to the position of
        every token, int64 [batch, *position_shape, total]: the only home of positions.
    position_shape: how many positions a token has; () for a single one.
    position_rule: what `positions` does, as a JSON value for programs in other languages; "count" gives
        each token the number of real tokens before it, and padding 0.
    keys_to_ignore: regular expressions of names that a checkpoint may hold and the model does not need.
    model, tokenizer: "module:class", imported when they are needed.
    half_precision_rotary: the rotary table of a half precision model is computed in half precision.
    rope_ratio_scales_base: `rope_ratio` multiplies the base of the rotary frequencies; otherwise it divides
        positions.
    chat_generation_defaults: what the original's `chat` passes otherwise than ChatGLM2's, by names of
        `GenerationParams`.
    """

    name: str
    title: str
    float_parameters: Callable[[ModelConfig], dict[str, ParameterSpec]]
    positions: PositionFunction
    template: ChatTemplate
    model: str
    tokenizer: str
    position_shape: Callable[[ModelConfig], tuple[int, ...]] = _scalar_position_shape
    position_rule: Callable[[ModelConfig], dict[str, Any]] = _count_rule
    keys_to_ignore: tuple[str, ...] = ()
    half_precision_rotary: bool = False
    rope_ratio_scales_base: bool = False
    chat_generation_defaults: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self, config: ModelConfig) -> dict[str, ParameterSpec]:
        """Every parameter by its name, quantised where the configuration says so."""
        return quantized_specs(self.float_parameters(config), quantization_of(config))

    def quantized_config(
        self, config: ModelConfig, bits: int, group_size: int | None = None, embeddings: bool = False
    ) -> ModelConfig:
        """The configuration of the quantised model; see `with_quantization`."""
        return with_quantization(config, self.float_parameters(config), bits, group_size, embeddings)

    def step_inputs(
        self, config: ModelConfig, input_ids: IntArray, attention_mask: IntArray, tokens: int
    ) -> dict[str, IntArray]:
        """The named int64 arrays that a prefill or decode step over the last `tokens` tokens takes.

        input_ids, attention_mask: [batch, total], of all tokens so far, 1 for real ones.
        """
        positions = self.positions(config, input_ids, attention_mask)
        arrays = (input_ids[:, -tokens:], positions[..., -tokens:], attention_mask)
        return {
            name: array.astype(np.int64)
            for name, array in zip(self.step_input_shapes(config), arrays, strict=True)
        }

    def step_input_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The shapes of `step_inputs`; -1 is a size that each step chooses."""
        return {
            "input_ids": (-1, -1),
            "position_ids": (-1, *self.position_shape(config), -1),
            "attention_mask": (-1, -1),
        }

    def model_class(self) -> Any:
        return _import_attribute(self.model)

    def tokenizer_class(self) -> Any:
        return _import_attribute(self.tokenizer)


def get_family(name: str) -> Family:
    """The family called `name`; raises `InputError` listing the known ones."""
    family: Family = family_module(name).FAMILY
    return family


def family_of(config: ModelConfig) -> Family:
    return get_family(config.family)


def _import_attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
