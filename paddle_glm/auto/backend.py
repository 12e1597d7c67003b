"""The backends by name; each is imported when it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import Any

from paddle_glm.backends.base import Backend, EngineOptions
from paddle_glm.errors import InputError

# Name -> "module:callable", which takes a folder and options and returns a `Backend`.
# "dygraph" opens model folders, the others exported ones.
BACKENDS = {
    "dygraph": "paddle_glm.auto.dygraph:open_dygraph",
    "paddle": "paddle_glm.backends.paddle_inference:PaddleInferenceBackend",
    "onnxruntime": "paddle_glm.backends.onnx_runtime:OnnxRuntimeBackend",
    "openvino": "paddle_glm.backends.openvino:OpenVinoBackend",
    "fastdeploy": "paddle_glm.backends.fastdeploy:FastDeployBackend",
}


def open_backend(name: str, folder: str | Path, options: EngineOptions | None = None) -> Backend:
    """The backend called `name` over a folder; raises `InputError` for an unknown name."""
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is unknown: expected one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    open_folder: Any = getattr(import_module(module), attribute)
    backend: Backend = open_folder(Path(folder), options or EngineOptions())
    return backend
