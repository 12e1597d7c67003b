"""The table of backends, and opening one by name. A backend is imported when it is opened."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from paddle_glm.auto.dygraph import DygraphOptions
from paddle_glm.backends.base import Backend
from paddle_glm.backends.fastdeploy import FastDeployOptions
from paddle_glm.backends.generation_meta import META_FILE_NAME, GenerationMeta
from paddle_glm.backends.options import BackendOptions, GraphOptions
from paddle_glm.errors import InputError
from paddle_glm.parallel import world_size


@dataclass(frozen=True)
class BackendEntry:
    """How to open a backend.

    opener: "module:callable", (folder, options) -> `Backend`. options: the class of its options.
    format: the exported graphs that it reads, a key of `GRAPH_SUFFIXES`; None: it opens model folders.
    """

    opener: str
    options: type[BackendOptions]
    format: str | None


# By name; of those that read one format, the first is the default.
BACKENDS = {
    "dygraph": BackendEntry("paddle_glm.auto.dygraph:open_dygraph", DygraphOptions, None),
    "paddle": BackendEntry(
        "paddle_glm.backends.paddle_inference:PaddleInferenceBackend", GraphOptions, "paddle"
    ),
    "onnxruntime": BackendEntry("paddle_glm.backends.onnx_runtime:OnnxRuntimeBackend", GraphOptions, "onnx"),
    "openvino": BackendEntry("paddle_glm.backends.openvino:OpenVinoBackend", GraphOptions, "onnx"),
    "fastdeploy": BackendEntry("paddle_glm.backends.fastdeploy:FastDeployBackend", FastDeployOptions, "onnx"),
}


def backends_for(graph_format: str | None) -> list[str]:
    """Names of the backends for an exported graph of this format, or for model folders (None)."""
    return [name for name, entry in BACKENDS.items() if entry.format == graph_format]


def graph_backends() -> list[str]:
    """Names of the backends that open exported folders."""
    return [name for name, entry in BACKENDS.items() if entry.format is not None]


def option_names(backends: Iterable[str]) -> list[str]:
    """Names of the options that at least one of the backends takes."""
    return list(dict.fromkeys(one.name for name in backends for one in fields(BACKENDS[name].options)))


def make_options(name: str, **given: Any) -> Any:
    """The options of the backend called `name`.

    Raises `InputError` for an unknown backend or value, and for an option that the backend does not take,
    naming those that do.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is unknown: expected one of {', '.join(BACKENDS)}")
    entry = BACKENDS[name]
    for unknown in sorted(given.keys() - set(option_names([name]))):
        takers = [other for other in BACKENDS if unknown in option_names([other])]
        if not takers:
            raise InputError(
                f"{unknown} is no option of any backend: expected {', '.join(option_names([name]))}"
            )
        hint = ""
        if entry.format is not None and takers == backends_for(None):
            hint = ": give it to `paddle-glm export`"
        raise InputError(
            f"--{unknown} {given[unknown]}: the backend {name} does not take it, only "
            f"{' and '.join(takers)} {'does' if len(takers) == 1 else 'do'}{hint}"
        )
    return entry.options(**given)


def is_exported(folder: str | Path) -> bool:
    """Whether `paddle-glm export` wrote the folder."""
    return (Path(folder) / META_FILE_NAME).is_file()


def open_backend(name: str, folder: str | Path, **options: Any) -> Backend:
    """Open a folder with the backend called `name`; options: those of its class in `BACKENDS`.

    Raises `InputError` for a folder that the backend cannot read, and as `make_options` does.
    """
    path, chosen = Path(folder), make_options(name, **options)
    entry = BACKENDS[name]
    if entry.format is None and is_exported(path):
        raise InputError(f"{path} is an exported folder: backend {name!r} opens the model it was made from")
    if entry.format is not None and world_size() > 1:
        raise InputError(
            f"{path} runs in one process, but the launcher started {world_size()}: give the model folder "
            "that it was exported from, or start without paddle.distributed.launch"
        )
    if entry.format is not None:
        if path.is_dir() and not is_exported(path):
            raise InputError(
                f"{path} is no exported folder: backend {name!r} opens what `paddle-glm export` wrote"
            )
        meta = GenerationMeta.read(path, chosen.model_prefix)
        if meta.format != entry.format:
            raise InputError(
                f"{path} holds a graph in the format {meta.format}, which --backend "
                f"{' or '.join(backends_for(meta.format))} reads; this one needs "
                f"`paddle-glm export --format {entry.format}`"
            )
    module, _, attribute = entry.opener.partition(":")
    backend: Backend = getattr(import_module(module), attribute)(path, chosen)
    return backend
