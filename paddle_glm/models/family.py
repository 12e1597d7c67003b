"""What a family of models is: everything in which one differs from another, as data and small functions.

A family is a package that `models.registry` names; its `FAMILY` is an instance of `Family`. It loads without
Paddle and SentencePiece: models and tokenizers are named, and imported when asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.chat_template import ChatTemplate
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.registry import family_module, family_names
from paddle_glm.quantization import quantization_of, quantized_specs, with_quantization
from paddle_glm.sharding import ParameterSpec


def _one_position(config: ModelConfig) -> tuple[int, ...]:
    return ()


def _count_rule(config: ModelConfig) -> dict[str, Any]:
    return {"rule": "count"}


def _accept_prompt(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> None:
    """Positions that count tokens need nothing of a prompt."""


@dataclass(frozen=True)
class BlockActivations:
    """What a transformer block keeps for its backward pass; `training.activation_memory` has the formula.

    blocks: name of the list of blocks in the model.
    linear_modules: a block's four linear layers, ordered by their inputs: hidden states, attention output,
        hidden states, MLP activation.
    ffn_inputs: tensors of `ffn_hidden_size` that the activation function takes: 1, or 2 for a gated one.
    norm_statistics: float32 numbers per token that a norm keeps beside its input: RMSNorm 1, LayerNorm 2.
    """

    blocks: str
    linear_modules: tuple[str, str, str, str]
    ffn_inputs: int
    norm_statistics: int


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    name: as in the registry. title: for users.
    float_parameters: name on the hub -> shape and sharding of every parameter of the float model.
    positions: `(config, input_ids [batch, total], attention_mask [batch, total])`, int64, 0 for padding ->
        the position of every token, int64 [batch, *position_shape, total]. Training samples, generation and
        the tokenizer's `position_ids` all come from it.
    template: the prompt.
    model, tokenizer: classes, as "module:class". vocab_file: the SentencePiece model in a folder.
    rotary_dim: channels of a head that one position rotates.
    block_activations: what a block keeps in training.
    position_shape: positions per token; () is one.
    position_rule: what `positions` does, as a JSON value for programs in other languages. "count" is the
        number of real tokens before a token, 0 for padding; it depends on `attention_mask` alone.
    check_prompt: takes what `positions` does; raises `InputError` for a prompt the model cannot answer.
    keys_to_ignore: regular expressions of tensors that checkpoints hold and the model does not need.
    is_causal: no token attends to a later one, so that a prompt's beginning can be read before its end.
    chat_generation_defaults: fields of `GenerationParams` in which the original's `chat` differs from ours.
    """

    name: str
    title: str
    float_parameters: Callable[[ModelConfig], dict[str, ParameterSpec]]
    positions: Callable[[ModelConfig, IntArray, IntArray], Array]
    template: ChatTemplate
    model: str
    tokenizer: str
    vocab_file: str
    rotary_dim: Callable[[ModelConfig], int]
    block_activations: BlockActivations
    position_shape: Callable[[ModelConfig], tuple[int, ...]] = _one_position
    position_rule: Callable[[ModelConfig], dict[str, Any]] = _count_rule
    check_prompt: Callable[[ModelConfig, IntArray, IntArray], None] = _accept_prompt
    keys_to_ignore: tuple[str, ...] = ()
    is_causal: bool = True
    chat_generation_defaults: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self, config: ModelConfig) -> dict[str, ParameterSpec]:
        """Every parameter by its name on the hub, quantised where the configuration says so."""
        return quantized_specs(self.float_parameters(config), quantization_of(config))

    def quantized_config(
        self, config: ModelConfig, bits: int, group_size: int | None = None, embeddings: bool = False
    ) -> ModelConfig:
        """The configuration of the quantised model; see `with_quantization`."""
        return with_quantization(config, self.float_parameters(config), bits, group_size, embeddings)

    def step_inputs(
        self, config: ModelConfig, input_ids: IntArray, attention_mask: IntArray, tokens: int
    ) -> dict[str, IntArray]:
        """Inputs of a prefill or decode step over the last `tokens` tokens, by name, int64.

        input_ids, attention_mask: [batch, total], of all tokens so far; the mask is 0 for padding.
        Raises `InputError` for a prompt that the model cannot answer.
        """
        self.check_prompt(config, input_ids, attention_mask)
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

    def default_positions(
        self, config: ModelConfig, input_ids: IntArray, attention_mask: IntArray
    ) -> IntArray:
        """Positions of `input_ids` [batch, tokens], the last tokens of `attention_mask` [batch, total].

        Raises `InputError` where positions depend on the ids of cached tokens, and as `step_inputs` does.
        """
        tokens = input_ids.shape[1]
        cached = attention_mask.shape[1] - tokens
        if cached and self.position_rule(config) != _count_rule(config):
            raise InputError("position_ids are needed behind cached tokens: family.step_inputs gives them")
        all_ids = np.pad(input_ids, ((0, 0), (cached, 0)))
        return self.step_inputs(config, all_ids, attention_mask, tokens)["position_ids"]

    def rotated_channels(self, config: ModelConfig) -> int:
        """Channels of a head that all positions of a token rotate together."""
        return self.rotary_dim(config) * prod(self.position_shape(config))

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


def vocab_files() -> tuple[str, ...]:
    """File names of the SentencePiece models of all families, each once."""
    files = (get_family(name).vocab_file for name in family_names())
    return tuple(dict.fromkeys(files))


def _import_attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
