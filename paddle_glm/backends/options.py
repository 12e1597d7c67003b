"""What a backend can be told when a folder is opened; the commands make their flags from these classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.hardware import DEVICE_HELP, parse_device


def option(
    default: Any, help: str, type: Callable[[str], Any] = str, choices: Sequence[Any] | None = None
) -> Any:
    """A dataclass field that is also a flag: `--NAME`, with the arguments of `add_argument`."""
    return field(default=default, metadata={"help": help, "type": type, "choices": choices})


def device_argument(text: str) -> str:
    """A device's name, checked for its form; whether the device exists is checked when it is used."""
    parse_device(text)
    return text


@dataclass(frozen=True)
class BackendOptions:
    """What every backend takes: where to compute.

    A backend with options of its own subclasses this. Raises `InputError` for a value that is not one of an
    option's choices.

    device: "auto" (the GPU where there is one that the backend can use), "cpu", "gpu" or "gpu:N".
    device_id: N, where `device` does not say.
    cpu_threads: 0 takes OMP_NUM_THREADS, or all CPUs of this process.
    """

    device: str = option("auto", f"where to compute: {DEVICE_HELP}", device_argument)
    device_id: int | None = option(None, "number of the GPU, the same as --device gpu:N", int)
    cpu_threads: int = option(
        0, "threads to compute with; 0: OMP_NUM_THREADS, or all CPUs of the process", int
    )

    def __post_init__(self) -> None:
        parse_device(self.device, self.device_id)
        if self.cpu_threads < 0:
            raise InputError(f"cpu_threads {self.cpu_threads}: expected 0 or more")
        for one in fields(self):
            value, choices = getattr(self, one.name), one.metadata["choices"]
            if choices is not None and value not in (one.default, *choices):
                raise InputError(f"{one.name} {value!r} is not one of {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class GraphOptions(BackendOptions):
    """What every backend over an exported graph takes. model_prefix: the graph's name; None takes any."""

    model_prefix: str | None = option(None, "name of an exported folder's graph (default: the one in it)")
