"""What distinguishes one family of models from another, as data: no framework is imported here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from paddle_glm.chat import Template
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.sharding import Sharding


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a hub checkpoint: its full shape and how tensor parallelism cuts it."""

    shape: tuple[int, ...]
    sharding: Sharding


StepInputs = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    parameters: every parameter by its hub name, for a configuration.
    step_inputs: `(input_ids [batch, query_length], attention_mask [batch, total_length])`, int64, to the
        named arrays that one prefill or decode step takes: the only home of positions.
    ignored: regular expressions of names that a checkpoint may hold and the model does not need.
    model, tokenizer: "module:class", imported when they are needed.
    half_precision_positions: the rotary table of a half precision model is computed in half precision.
    """

    name: str
    title: str
    parameters: Callable[[ModelConfig], dict[str, ParameterSpec]]
    step_inputs: StepInputs
    template: Template
    model: str
    tokenizer: str
    ignored: tuple[str, ...] = ()
    half_precision_positions: bool = False

    def model_class(self) -> Any:
        return _load(self.model)

    def tokenizer_class(self) -> Any:
        return _load(self.tokenizer)


# Name -> module below this package; ChatGLM3 is ChatGLM2 with another template.
_MODULES = {"chatglm2": "chatglm2", "chatglm3": "chatglm2"}


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
