"""What runs a model's steps: the contract, and a module for each inference engine."""

from paddle_glm.backends.base import Backend, EngineOptions

__all__ = ["BACKENDS_BY_FORMAT", "Backend", "EngineOptions"]

# Format of an exported graph -> names of the backends that read it, the default first.
BACKENDS_BY_FORMAT = {"paddle": ("paddle",), "onnx": ("onnxruntime", "openvino", "fastdeploy")}
