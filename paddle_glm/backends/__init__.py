"""What runs a model's steps, by name; a backend is imported when it is asked for."""

from importlib import import_module
from pathlib import Path

from paddle_glm.backends.base import Backend, EngineOptions
from paddle_glm.errors import InputError

__all__ = ["BACKENDS", "BACKENDS_BY_FORMAT", "Backend", "EngineOptions", "open_backend"]

# Name -> "module:class". "dygraph" opens model folders, the others exported ones.
BACKENDS = {
    "dygraph": "paddle_glm.models.dygraph:DygraphBackend",
    "paddle": "paddle_glm.backends.paddle_inference:PaddleInferenceBackend",
    "onnxruntime": "paddle_glm.backends.onnx_runtime:OnnxRuntimeBackend",
    "openvino": "paddle_glm.backends.openvino:OpenVinoBackend",
    "fastdeploy": "paddle_glm.backends.fastdeploy:FastDeployBackend",
}
# Format of an exported graph -> the backends that read it, the one that is taken by default first.
BACKENDS_BY_FORMAT = {"paddle": ("paddle",), "onnx": ("onnxruntime", "openvino", "fastdeploy")}


def open_backend(name: str, folder: str | Path, options: EngineOptions | None = None) -> Backend:
    """The backend called `name` over a folder; raises `InputError` for a name that is not known."""
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is unknown: expected one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute).open(Path(folder), options or EngineOptions())
