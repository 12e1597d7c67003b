"""What opening a model takes of memory, held against what is there before weights are read; dtype "auto"."""

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

# Most that opening a model takes at a time, of what its weights take once it is open.
LOAD_PEAK_FACTOR = 1.15
# An answer needs keys and values: the estimate has room for one conversation of so many tokens.
CACHE_TOKENS = 1024
# Half precision weights are widened on a CPU where float32 takes no more than this share of what is free.
FLOAT32_MEMORY_FRACTION = 0.6
SKIP_VARIABLE = "PADDLE_GLM_SKIP_MEMORY_CHECK"
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


class InsufficientMemoryError(InputError):
    """A model or a cache that does not fit; `shortage` says so without the flags that would help."""

    def __init__(self, shortage: str, suggestion: str) -> None:
        super().__init__(f"{shortage}: {suggestion}; {SKIP_VARIABLE}=1 leaves this check out")
        self.shortage = shortage


@dataclass(frozen=True)
class MemoryBudget:
    """Where weights go.

    device: Paddle's name. free: bytes there. degree: processes that a model is cut for. local_degree:
    processes
    that share the memory and hold a part each. is_leader: whether this process is the one of those that
    speaks.
    """

    device: str
    free: int
    degree: int = 1
    local_degree: int = 1
    is_leader: bool = True

    @property
    def location(self) -> str:
        return "on the CPU" if self.device == "cpu" else f"on {self.device}"


@dataclass(frozen=True)
class LoadRequest:
    """A model to be opened.

    name: what messages call it. stored, dtype: what its folder holds, and in which dtype its floats are.
    config: that of the model in memory, which may be quantised where the folder's is not.
    """

    name: str
    checkpoint_config: ModelConfig
    dtype: str
    config: ModelConfig


def weight_bytes(config: ModelConfig, dtype: str, degree: int = 1) -> int:
    """Bytes of the weights that one of `degree` processes holds; prefixes are float32 in every dtype."""
    total = 0
    for name, spec in family_of(config).parameters(config).items():
        held = "float32" if name.startswith(PREFIX_ENCODER) else spec.dtype or dtype
        total += prod(spec.sharding.local_shape(spec.shape, 0, degree)) * _BYTES[held]
    return total


def cache_bytes(
    config: ModelConfig, dtype: str, budget: MemoryBudget, tokens: int = CACHE_TOKENS, rows: int = 1
) -> int:
    """Keys and values of `tokens` tokens in each of `rows` rows, in one of the processes.

    dtype: of the weights.
    """
    width = 4 if budget.device == "cpu" else _BYTES[dtype]  # CPUs compute in float32
    heads = max(1, config.num_key_value_heads // budget.degree)
    return 2 * config.num_layers * heads * config.head_dim * tokens * rows * width


def upcast_bytes(config: ModelConfig) -> int:
    """What a step of a graph takes that makes float32 of each weight where it uses it.

    Up to the largest weight three times, since what is freed comes back late on a busy machine: 3.2 GB with
    ChatGLM2-6B's sizes, where 1.5 to 3.4 GB were measured.
    """
    largest = max(prod(spec.shape) for spec in family_of(config).float_parameters(config).values())
    return 3 * _BYTES["float32"] * largest


def needed_bytes(config: ModelConfig, dtype: str, budget: MemoryBudget) -> int:
    """Most that opening takes, of all processes in this budget, and a cache of `CACHE_TOKENS`."""
    weights = int(LOAD_PEAK_FACTOR * weight_bytes(config, dtype, budget.degree))
    return budget.local_degree * (weights + cache_bytes(config, dtype, budget))


def resolve_dtype(wanted: str, own: str, config: ModelConfig, budget: MemoryBudget) -> str:
    """What weights are held in.

    wanted: a dtype, or "auto": the folder's `own`, or float32 on a CPU, where every step would widen half
    precision weights, if that leaves memory to others (`FLOAT32_MEMORY_FRACTION`). Raises `InputError` for
    anything else.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise InputError(f"dtype {wanted!r} is not one of auto, {', '.join(DTYPES)}")
        return wanted
    if (
        budget.device == "cpu"
        and needed_bytes(config, "float32", budget) <= FLOAT32_MEMORY_FRACTION * budget.free
    ):
        return "float32"
    return own


def select_dtype(request: LoadRequest, wanted: str, budget: MemoryBudget) -> str:
    """`resolve_dtype` of the opening; says at level INFO what is opened.

    Raises `InsufficientMemoryError` where there is too little memory, with the flags of those ways that would
    fit.
    """
    config = request.config
    dtype = resolve_dtype(wanted, request.dtype, config, budget)
    kind = f"int{config.quantization_bit} and {dtype}" if config.quantization_bit else dtype
    needed = needed_bytes(config, dtype, budget)
    check_memory_budget(
        f"{request.name} with {kind} weights", needed, budget, lambda: _suggest_flags(request, wanted, budget)
    )
    share = f" in each of {budget.degree} processes" if budget.degree > 1 else ""
    size = format_bytes(weight_bytes(config, dtype, budget.degree))
    if budget.is_leader:
        logger.info(
            f"{request.name}: {kind} weights, {size}{share}, {budget.location} "
            f"({format_bytes(budget.free)} free)"
        )
    return dtype


def check_memory_budget(what: str, needed: int, budget: MemoryBudget, suggestion: Callable[[], str]) -> None:
    """Raise `InsufficientMemoryError` where `needed` exceeds the free memory; `suggestion` ends its text."""
    if needed > budget.free and os.environ.get(SKIP_VARIABLE) != "1":
        there = f"{budget.location}, {format_bytes(budget.free)} are free"
        raise InsufficientMemoryError(f"{what} needs {format_bytes(needed)} of memory {there}", suggestion())


def _suggest_flags(request: LoadRequest, wanted: str, budget: MemoryBudget) -> str:
    """The flags with which the model fits, no more of them than are needed; else the least that it takes."""
    ways = [
        (flags, needed_bytes(config, dtype, budget))
        for flags, config, dtype in _smaller_options(request, wanted)
    ]
    fitting = [(flags, needed) for flags, needed in ways if needed <= budget.free]
    fewest = min((len(flags) for flags, _ in fitting), default=0)
    shown = [
        f"{' '.join(flags)} ({format_bytes(needed)})" for flags, needed in fitting if len(flags) == fewest
    ]
    if shown:
        return f"{' or '.join(shown)} fits"
    more = "more memory is needed, or processes on other machines or GPUs that share the model"
    if not ways:
        return more
    flags, needed = min(ways, key=lambda way: way[1])
    return f"{more}; the least is {format_bytes(needed)}, with {' '.join(flags)}"


def _smaller_options(request: LoadRequest, wanted: str) -> Iterator[tuple[tuple[str, ...], ModelConfig, str]]:
    """(flags, configuration, dtype) of what takes less memory than the opening, the best answers first."""
    held = request.dtype if wanted == "auto" else wanted
    half = request.dtype if request.dtype != "float32" else "float16"
    lower_bits = [] if request.checkpoint_config.quantization_bit else sorted(BITS, reverse=True)
    lower_bits = [bits for bits in lower_bits if bits < (request.config.quantization_bit or 16)]
    for dtype in dict.fromkeys((held, half)):
        flags: tuple[str, ...] = () if dtype == held else (f"--dtype {dtype}",)
        if flags and held == "float32":
            yield flags, request.config, dtype
        for bits in lower_bits:
            with suppress(InputError):  # sizes that cannot be kept in so many bits
                config = family_of(request.checkpoint_config).quantized_config(
                    request.checkpoint_config, bits
                )
                yield (f"--quantization_bit {bits}", *flags), config, dtype


def format_bytes(size: int) -> str:
    """ "12.5 GB", in MB below 50 of these."""
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
