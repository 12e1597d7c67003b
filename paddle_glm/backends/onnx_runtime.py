"""An exported ONNX graph on ONNX Runtime (https://onnxruntime.ai)."""

from pathlib import Path
from typing import Any, ClassVar

from paddle_glm.allocator import keep_freed_memory
from paddle_glm.array_types import Array
from paddle_glm.backends.exported import OnnxBackend, graph_load_error, require_package
from paddle_glm.backends.options import GraphOptions
from paddle_glm.errors import InputError
from paddle_glm.hardware import choose_device, num_threads

INSTALL_HINT = 'pip install -c constraints.txt -e ".[onnx]"'
_LOG_SEVERITY_ERROR = 3
_CUDA = "CUDAExecutionProvider"


class OnnxRuntimeBackend(OnnxBackend):
    loading_peak_factor: ClassVar = {"float32": 1.6, "float16": 2.4}

    def __init__(self, folder: Path, options: GraphOptions) -> None:
        super().__init__(folder, options)
        self.check_target(folder, ("portable", "onnxruntime"), "ONNX Runtime")
        runtime = require_package("onnxruntime", INSTALL_HINT)
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = num_threads(options.cpu_threads)
        settings.log_severity_level = _LOG_SEVERITY_ERROR
        path = self.graph_path(folder)
        device, providers = _device_and_providers(runtime.get_available_providers(), options)
        disabled_optimizers = []
        if self.dequantizes:
            # Constant folding would dequantise the weights when the graph is loaded: 4 to 8 times the memory.
            # Without it, version 1.23 aborts in the other optimiser of half precision weights.
            disabled_optimizers = ["ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer"]
            # The arena would keep a buffer for the dequantised copy of every weight.
            settings.enable_cpu_mem_arena = False
            keep_freed_memory()
        with self.monitored_loading(folder, device):
            try:
                self._session = runtime.InferenceSession(
                    str(path), settings, providers=providers, disabled_optimizers=disabled_optimizers
                )
            except Exception as error:  # one class per error code of the library
                raise graph_load_error(path, error) from error
        if options.device != "auto" and device == "gpu" and _CUDA not in self._session.get_providers():
            raise InputError(f"device {options.device}: onnxruntime cannot use a GPU here; give --device cpu")

    def infer(self, inputs: dict[str, Array]) -> list[Array]:
        outputs: list[Array] = self._session.run(None, inputs)
        return outputs


def _device_and_providers(available: list[str], options: GraphOptions) -> tuple[str, list[Any]]:
    """The device, and the execution providers in order of preference."""
    device, number = choose_device(options.device, options.device_id, has_gpu=_CUDA in available)
    if device == "cpu":
        return device, ["CPUExecutionProvider"]
    if _CUDA not in available:
        raise InputError(
            f"device {options.device}: this onnxruntime computes on CPUs only; pip install onnxruntime-gpu "
            "in its place, or give --device cpu"
        )
    return device, [(_CUDA, {"device_id": number or 0}), "CPUExecutionProvider"]
