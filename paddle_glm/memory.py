"""What opening a model takes of memory, held against what is there before weights are read; dtype "auto"."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod

from paddle_glm.config import DTYPES, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import family_of
from paddle_glm.families.prefix import PREFIX_ENCODER
from paddle_glm.quantization import BITS

logger = logging.getLogger(__name__)

# Most that opening a model takes at a time, of what its weights take once it is open.
OPENING_PEAK = 1.15
# An answer needs keys and values: the estimate has room for one conversation of so many tokens.
CACHE_TOKENS = 1024
# Half precision weights are widened on a CPU where float32 takes no more than this share of what is free.
COMFORTABLE = 0.6
SKIP_VARIABLE = "PADDLE_GLM_SKIP_MEMORY_CHECK"
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


class MemoryShortage(InputError):
    """A model that does not fit; `shortage` says so without the flags that would help."""

    def __init__(self, shortage: str, help: str) -> None:
        super().__init__(f"{shortage}: {help}; {SKIP_VARIABLE}=1 leaves this check out")
        self.shortage = shortage


@dataclass(frozen=True)
class Room:
    """Where weights go.

    device: Paddle's name. free: bytes there. degree: processes that a model is cut for. sharing: processes
    that share the memory and hold a part each. says: whether this process is the one of those that speaks.
    """

    device: str
    free: int
    degree: int = 1
    sharing: int = 1
    says: bool = True

    @property
    def where(self) -> str:
        return "on the CPU" if self.device == "cpu" else f"on {self.device}"


@dataclass(frozen=True)
class Opening:
    """A model to be opened.

    name: what messages call it. stored, dtype: what its folder holds, and in which dtype its floats are.
    config: that of the model in memory, which may be quantised where the folder's is not.
    """

    name: str
    stored: ModelConfig
    dtype: str
    config: ModelConfig


def weight_bytes(config: ModelConfig, dtype: str, degree: int = 1) -> int:
    """Bytes of the weights that one of `degree` processes holds; prefixes are float32 in every dtype."""
    total = 0
    for name, spec in family_of(config).parameters(config).items():
        held = "float32" if name.startswith(PREFIX_ENCODER) else spec.dtype or dtype
        total += prod(spec.sharding.local_shape(spec.shape, 0, degree)) * _BYTES[held]
    return total


def cache_bytes(config: ModelConfig, dtype: str, room: Room) -> int:
    """Keys and values of `CACHE_TOKENS` tokens in one of the processes."""
    width = 4 if room.device == "cpu" else _BYTES[dtype]  # CPUs compute in float32
    heads = max(1, config.num_key_value_heads // room.degree)
    return 2 * config.num_layers * heads * config.head_dim * CACHE_TOKENS * width


def widening_bytes(config: ModelConfig) -> int:
    """What a step of a graph takes that makes float32 of each weight where it uses it.

    Up to the largest weight three times, since what is freed comes back late on a busy machine: 3.2 GB with
    ChatGLM2-6B's sizes, where 1.5 to 3.4 GB were measured.
    """
    largest = max(prod(spec.shape) for spec in family_of(config).float_parameters(config).values())
    return 3 * _BYTES["float32"] * largest


def needed_bytes(config: ModelConfig, dtype: str, room: Room) -> int:
    """Most that opening takes, of all processes in this room, and a cache of `CACHE_TOKENS`."""
    weights = int(OPENING_PEAK * weight_bytes(config, dtype, room.degree))
    return room.sharing * (weights + cache_bytes(config, dtype, room))


def resolve_dtype(wanted: str, own: str, config: ModelConfig, room: Room) -> str:
    """What weights are held in.

    wanted: a dtype, or "auto": the folder's `own`, or float32 on a CPU, where every step would widen half
    precision weights, if that leaves memory to others (`COMFORTABLE`). Raises `InputError` for anything else.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise InputError(f"dtype {wanted!r} is not one of auto, {', '.join(DTYPES)}")
        return wanted
    if room.device == "cpu" and needed_bytes(config, "float32", room) <= COMFORTABLE * room.free:
        return "float32"
    return own


def choose_dtype(opening: Opening, wanted: str, room: Room) -> str:
    """`resolve_dtype` of the opening; says at level INFO what is opened.

    Raises `MemoryShortage` where there is too little memory, with the flags of those ways that would fit.
    """
    config = opening.config
    dtype = resolve_dtype(wanted, opening.dtype, config, room)
    kind = f"int{config.quantization_bit} and {dtype}" if config.quantization_bit else dtype
    needed = needed_bytes(config, dtype, room)
    check_room(
        f"{opening.name} with {kind} weights", needed, room, lambda: _what_helps(opening, wanted, room)
    )
    share = f" in each of {room.degree} processes" if room.degree > 1 else ""
    size = gigabytes(weight_bytes(config, dtype, room.degree))
    if room.says:
        logger.info(
            f"{opening.name}: {kind} weights, {size}{share}, {room.where} ({gigabytes(room.free)} free)"
        )
    return dtype


def check_room(what: str, needed: int, room: Room, help: Callable[[], str]) -> None:
    """Raise `MemoryShortage` where `needed` bytes are more than are free; `help` ends its sentence."""
    if needed > room.free and os.environ.get(SKIP_VARIABLE) != "1":
        there = f"{room.where}, {gigabytes(room.free)} are free"
        raise MemoryShortage(f"{what} needs {gigabytes(needed)} of memory {there}", help())


def _what_helps(opening: Opening, wanted: str, room: Room) -> str:
    """The flags with which the model fits, no more of them than are needed; else the least that it takes."""
    ways = [(flags, needed_bytes(config, dtype, room)) for flags, config, dtype in _ways(opening, wanted)]
    fitting = [(flags, needed) for flags, needed in ways if needed <= room.free]
    fewest = min((len(flags) for flags, _ in fitting), default=0)
    shown = [f"{' '.join(flags)} ({gigabytes(needed)})" for flags, needed in fitting if len(flags) == fewest]
    if shown:
        return f"{' or '.join(shown)} fits"
    more = "more memory is needed, or processes on other machines or GPUs that share the model"
    if not ways:
        return more
    flags, needed = min(ways, key=lambda way: way[1])
    return f"{more}; the least is {gigabytes(needed)}, with {' '.join(flags)}"


def _ways(opening: Opening, wanted: str) -> Iterator[tuple[tuple[str, ...], ModelConfig, str]]:
    """(flags, configuration, dtype) of what takes less memory than the opening, the best answers first."""
    held = opening.dtype if wanted == "auto" else wanted
    half = opening.dtype if opening.dtype != "float32" else "float16"
    fewer = [] if opening.stored.quantization_bit else sorted(BITS, reverse=True)
    fewer = [bits for bits in fewer if bits < (opening.config.quantization_bit or 16)]
    for dtype in dict.fromkeys((held, half)):
        flags: tuple[str, ...] = () if dtype == held else (f"--dtype {dtype}",)
        if flags and held == "float32":
            yield flags, opening.config, dtype
        for bits in fewer:
            with suppress(InputError):  # sizes that cannot be kept in so many bits
                config = family_of(opening.stored).quantized_config(opening.stored, bits)
                yield (f"--quantization_bit {bits}", *flags), config, dtype


def gigabytes(size: int) -> str:
    """ "12.5 GB", in MB below 50 of these."""
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
