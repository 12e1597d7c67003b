"""LoRA configuration and adapter files in PEFT's format; imports no framework."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from paddle_glm.array_types import Array
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.checkpoint.torch_file import open_torch
from paddle_glm.errors import InputError
from paddle_glm.key_rules import read_fields
from paddle_glm.peft.lora_keys import DEFAULT_TARGET_MODULES, RULES
from paddle_glm.sharding import REPLICATED, ParameterSpec

_Number = TypeVar("_Number", int, float)
ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
_ADAPTER_TORCH_FILE = "adapter_model.bin"
# PEFT's prefix of module names; some tools append the adapter's name to lora_A and lora_B.
_PEFT_MODULE_PREFIX = "base_model.model."
_TENSOR_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
# A target that is a suffix of module names, not a regular expression.
_NAME_SUFFIX = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class LoraConfig:
    """y = W x + scale * B(A(dropout(x))), A [rank, in] and B [out, rank] (arXiv:2106.09685).

    alpha: LoRA scaling numerator, see `scaling_of`. target_modules: suffixes of module names, or regular
    expressions of full names. rank_pattern, alpha_pattern: suffix or regular expression -> rank or alpha of
    these modules; the first match counts, as in PEFT. Raises `InputError` for invalid numbers.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = DEFAULT_TARGET_MODULES
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rank in (self.rank, *self.rank_pattern.values()):
            for alpha in (self.alpha, *self.alpha_pattern.values()):
                if rank < 1 or not alpha > 0 or not 0 <= self.dropout < 1:
                    raise InputError(
                        f"lora_rank {rank}, lora_alpha {alpha:g}, lora_dropout {self.dropout:g}: expected "
                        "a rank of at least 1, an alpha above 0 and a dropout from 0 to below 1"
                    )

    def lora_rank_of(self, module: str) -> int:
        return _first_match(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """The LoRA scaling: alpha / rank, or alpha / sqrt(rank) if rank-stabilised (arXiv:2312.03732)."""
        rank, alpha = self.lora_rank_of(module), _first_match(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def matches(self, module: str) -> bool:
        return any(
            module == target or module.endswith(f".{target}") or _fullmatch(target, module)
            for target in self.target_modules
        )

    def to_peft(self) -> dict[str, Any]:
        """The contents of `adapter_config.json`."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": None,
            "r": self.rank,
            "lora_alpha": _int_if_integral(self.alpha),
            "lora_dropout": self.dropout,
            "target_modules": self._target_modules(),
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": {key: _int_if_integral(value) for key, value in self.alpha_pattern.items()},
            "use_rslora": self.use_rslora,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        }

    def _target_modules(self) -> list[str] | str:
        """PEFT expects a list of suffixes, or one regular expression of full names."""
        if all(map(_NAME_SUFFIX.fullmatch, self.target_modules)):
            return list(self.target_modules)
        if len(self.target_modules) == 1:
            return self.target_modules[0]
        patterns = (
            rf"(.*\.)?{target}" if _NAME_SUFFIX.fullmatch(target) else target
            for target in self.target_modules
        )
        return "|".join(f"({pattern})" for pattern in patterns)

    @classmethod
    def from_peft(cls, values: Mapping[str, Any], source: Path) -> "LoraConfig":
        """Parse `adapter_config.json`; raises `InputError` for settings that `lora_keys` does not support."""
        if missing := [key for key in ("r", "lora_alpha") if values.get(key) is None]:
            raise InputError(f"{source} lacks {', '.join(missing)}: not the settings of a LoRA adapter")
        return cls(**read_fields(RULES, values, str(source)))


@dataclass(frozen=True)
class LoraWeights:
    """An adapter read from a folder. matrices: {module: (A [rank, in], B [out, rank])}."""

    config: LoraConfig
    matrices: Mapping[str, tuple[Array, Array]]


def read_lora_config(folder: str | Path) -> LoraConfig:
    """Read the config of an adapter folder, ours or PEFT's; raises `InputError` for another folder."""
    path = Path(folder) / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"{path} not found: expected a folder with {ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} contains a {type(values).__name__}, expected an object")
    return LoraConfig.from_peft(values, path)


def read_lora_weights(folder: str | Path) -> LoraWeights:
    """Read an adapter folder, ours or PEFT's; raises `InputError` for another folder or invalid tensors."""
    config = read_lora_config(folder)
    folder = Path(folder)
    if (folder / ADAPTER_WEIGHTS_FILE).is_file():
        tensors = open_safetensors(folder / ADAPTER_WEIGHTS_FILE)
    elif (folder / _ADAPTER_TORCH_FILE).is_file():
        tensors = open_torch(folder / _ADAPTER_TORCH_FILE)
    else:
        raise InputError(f"{folder} has no weights: expected {ADAPTER_WEIGHTS_FILE} or {_ADAPTER_TORCH_FILE}")
    matrices: dict[str, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise InputError(f"{folder}: tensor {name!r} is not one of a LoRA adapter")
        matrices.setdefault(match[1], {})[match[2]] = tensor
    return LoraWeights(
        config, {module: _validated_pair(folder, module, pair, config) for module, pair in matrices.items()}
    )


def lora_specs(
    module: str, base: Mapping[str, ParameterSpec], rank: int
) -> tuple[ParameterSpec, ParameterSpec]:
    """Shapes and shardings of A and B, from those of the base weight.

    For a column-parallel weight B is sharded and A replicated, for a row-parallel one the reverse. Raises
    `InputError` if the model has no such linear layer.
    """
    spec = base.get(f"{module}.weight")
    if spec is None or len(spec.shape) != 2:
        raise InputError(f"the model has no linear layer {module!r}: is the adapter of another model?")
    outputs, inputs = spec.shape
    is_column = spec.sharding.axis == 0
    return (
        ParameterSpec((rank, inputs), REPLICATED if is_column else spec.sharding),
        ParameterSpec((outputs, rank), spec.sharding if is_column else REPLICATED),
    )


def check_adapter_shapes(weights: LoraWeights, base: Mapping[str, ParameterSpec], source: str | Path) -> None:
    """Raise `InputError`, with the first difference, if an adapter does not match the model."""
    for module, matrices in weights.matrices.items():
        specs = lora_specs(module, base, weights.config.lora_rank_of(module))
        for letter, spec, array in zip("AB", specs, matrices, strict=True):
            if array.shape != spec.shape:
                raise InputError(
                    f"{source}: {module}.lora_{letter} has shape {array.shape}, the model needs {spec.shape}"
                )


def tensor_file_name(module: str, matrix: str) -> str:
    """PEFT's tensor name of matrix "A" or "B" of a module."""
    return f"{_PEFT_MODULE_PREFIX}{module}.lora_{matrix}.weight"


def _validated_pair(
    folder: Path, module: str, pair: Mapping[str, Array], config: LoraConfig
) -> tuple[Array, Array]:
    shapes: Sequence[tuple[int, ...]] = [pair[letter].shape for letter in ("A", "B") if letter in pair]
    rank = config.lora_rank_of(module)
    if len(shapes) < 2 or len(shapes[0]) != 2 or shapes[0][0] != rank or shapes[1][1:] != (rank,):
        raise InputError(f"{folder}: {module} has lora_A and lora_B of shapes {shapes}, r is {rank}")
    return pair["A"], pair["B"]


def _first_match(patterns: Mapping[str, _Number], module: str, default: _Number) -> _Number:
    """The value of the first pattern that matches a suffix of a module's name, else the default."""
    values = (value for pattern, value in patterns.items() if _fullmatch(rf"(.*\.)?({pattern})", module))
    return next(values, default)


def _int_if_integral(value: float) -> float:
    """16 instead of 16.0, as PEFT writes it in JSON."""
    return int(value) if value == int(value) else value


def _fullmatch(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:
        return False
