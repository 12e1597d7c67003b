"""Memory needed to load a model, checked before weights are read; the dtype of "auto"."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod

from paddle_glm.config import DTYPES, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from paddle_glm.models.prefix_encoder import PREFIX_ENCODER
from paddle_glm.quantization import BITS

logger = logging.getLogger(__name__)

# Peak memory while loading, relative to the weights.
LOAD_PEAK_FACTOR = 1.15
# The estimate includes a key/value cache for one conversation of this many tokens.
CACHE_TOKENS = 1024
# Without native kernels dtype "auto" selects float32 on a CPU if that needs at most this fraction of the free
# memory.
FLOAT32_MEMORY_FRACTION = 0.6
SKIP_VARIABLE = "PADDLE_GLM_SKIP_MEMORY_CHECK"
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


class InsufficientMemoryError(InputError):
    """A model or a cache does not fit into memory; `shortage` is the message without suggested flags."""

    def __init__(self, shortage: str, suggestion: str) -> None:
        super().__init__(f"{shortage}: {suggestion}; {SKIP_VARIABLE}=1 skips this check")
        self.shortage = shortage


@dataclass(frozen=True)
class MemoryBudget:
    """The memory that weights are loaded into.

    device: Paddle's name. free: bytes. degree: tensor-parallel degree. local_degree: number of ranks that use
    this memory. is_leader: whether this rank logs. multiplies_half: half precision weights are multiplied as
    they are, as fast as float32 ones.
    """

    device: str
    free: int
    degree: int = 1
    local_degree: int = 1
    is_leader: bool = True
    multiplies_half: bool = False

    @property
    def location(self) -> str:
        return "on the CPU" if self.device == "cpu" else f"on {self.device}"


@dataclass(frozen=True)
class LoadRequest:
    """A model to load.

    name: the model's name in messages. checkpoint_config, dtype: configuration and float dtype of its folder.
    config: configuration of the loaded model, which may be quantised on load.
    """

    name: str
    checkpoint_config: ModelConfig
    dtype: str
    config: ModelConfig


def weight_bytes(config: ModelConfig, dtype: str, degree: int = 1) -> int:
    """Bytes of the weights of one of `degree` ranks; prefix encoders are always float32."""
    total = 0
    for name, spec in family_of(config).parameters(config).items():
        parameter_dtype = "float32" if name.startswith(PREFIX_ENCODER) else spec.dtype or dtype
        total += prod(spec.sharding.local_shape(spec.shape, 0, degree)) * _BYTES[parameter_dtype]
    return total


def cache_bytes(
    config: ModelConfig, dtype: str, budget: MemoryBudget, tokens: int = CACHE_TOKENS, rows: int = 1
) -> int:
    """Bytes of the keys and values of `rows` rows of `tokens` tokens on one rank; dtype: of the weights."""
    width = 4 if budget.device == "cpu" else _BYTES[dtype]  # CPUs compute in float32
    heads = max(1, config.num_key_value_heads // budget.degree)
    return 2 * config.num_layers * heads * config.head_dim * tokens * rows * width


def upcast_bytes(config: ModelConfig) -> int:
    """Bytes that a step of a graph needs to upcast each weight to float32 where it is used.

    Three times the largest weight, since memory is freed late on a busy machine: 3.2 GB for ChatGLM2-6B,
    measured 1.5 to 3.4 GB.
    """
    largest = max(prod(spec.shape) for spec in family_of(config).float_parameters(config).values())
    return 3 * _BYTES["float32"] * largest


def needed_bytes(config: ModelConfig, dtype: str, budget: MemoryBudget) -> int:
    """Peak bytes of loading plus a cache of `CACHE_TOKENS`, for all ranks that use the memory."""
    weights = int(LOAD_PEAK_FACTOR * weight_bytes(config, dtype, budget.degree))
    return budget.local_degree * (weights + cache_bytes(config, dtype, budget))


def resolve_dtype(requested: str, default: str, config: ModelConfig, budget: MemoryBudget) -> str:
    """The dtype of float weights.

    requested: a dtype, or "auto": the folder's dtype `default`, but float32 on a CPU without native kernels,
    where every step would upcast half precision weights, if it fits within `FLOAT32_MEMORY_FRACTION`. Raises
    `InputError` for anything else.
    """
    if requested != "auto":
        if requested not in DTYPES:
            raise InputError(f"dtype {requested!r} is not one of auto, {', '.join(DTYPES)}")
        return requested
    if (
        budget.device == "cpu"
        and not budget.multiplies_half
        and needed_bytes(config, "float32", budget) <= FLOAT32_MEMORY_FRACTION * budget.free
    ):
        return "float32"
    return default


def select_dtype(request: LoadRequest, requested: str, budget: MemoryBudget) -> str:
    """`resolve_dtype`, a check of the memory, and a log line (level INFO) on what is loaded.

    Raises `InsufficientMemoryError` if the model does not fit, with flags that would make it fit.
    """
    config = request.config
    dtype = resolve_dtype(requested, request.dtype, config, budget)
    kind = f"int{config.quantization_bit} and {dtype}" if config.quantization_bit else dtype
    needed = needed_bytes(config, dtype, budget)
    check_memory_budget(
        f"{request.name} with {kind} weights",
        needed,
        budget,
        lambda: _suggest_flags(request, requested, budget),
    )
    per_rank = f" in each of {budget.degree} processes" if budget.degree > 1 else ""
    size = format_bytes(weight_bytes(config, dtype, budget.degree))
    if budget.is_leader:
        logger.info(
            f"{request.name}: {kind} weights, {size}{per_rank}, {budget.location} "
            f"({format_bytes(budget.free)} free)"
        )
    return dtype


def check_memory_budget(
    subject: str, needed: int, budget: MemoryBudget, suggestion: Callable[[], str]
) -> None:
    """Raise `InsufficientMemoryError` if `needed` exceeds the free memory; `suggestion` ends its message."""
    if needed > budget.free and os.environ.get(SKIP_VARIABLE) != "1":
        free = f"{budget.location}, {format_bytes(budget.free)} are free"
        raise InsufficientMemoryError(
            f"{subject} needs {format_bytes(needed)} of memory {free}", suggestion()
        )


def _suggest_flags(request: LoadRequest, requested: str, budget: MemoryBudget) -> str:
    """The fewest flags with which the model fits; if none do, those that need the least memory."""
    options = [
        (flags, needed_bytes(config, dtype, budget))
        for flags, config, dtype in _smaller_options(request, requested)
    ]
    fitting = [(flags, needed) for flags, needed in options if needed <= budget.free]
    fewest = min((len(flags) for flags, _ in fitting), default=0)
    suggestions = [
        f"{' '.join(flags)} ({format_bytes(needed)})" for flags, needed in fitting if len(flags) == fewest
    ]
    if suggestions:
        return f"{' or '.join(suggestions)} fits"
    more = "more memory is needed, or more machines or GPUs to shard the model over"
    if not options:
        return more
    flags, needed = min(options, key=lambda option: option[1])
    return f"{more}; the least is {format_bytes(needed)}, with {' '.join(flags)}"


def _smaller_options(
    request: LoadRequest, requested: str
) -> Iterator[tuple[tuple[str, ...], ModelConfig, str]]:
    """(flags, configuration, dtype) that need less memory than the request, best quality first."""
    current = request.dtype if requested == "auto" else requested
    half = request.dtype if request.dtype != "float32" else "float16"
    lower_bits = [] if request.checkpoint_config.quantization_bit else sorted(BITS, reverse=True)
    lower_bits = [bits for bits in lower_bits if bits < (request.config.quantization_bit or 16)]
    for dtype in dict.fromkeys((current, half)):
        flags: tuple[str, ...] = () if dtype == current else (f"--dtype {dtype}",)
        if flags and current == "float32":
            yield flags, request.config, dtype
        for bits in lower_bits:
            with suppress(InputError):  # shapes that cannot be quantised to this number of bits
                config = family_of(request.checkpoint_config).quantized_config(
                    request.checkpoint_config, bits
                )
                yield (f"--quantization_bit {bits}", *flags), config, dtype


def format_bytes(size: int) -> str:
    """ "12.5 GB", or "12.5 MB" below 50 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
