"""An exported ONNX graph on OpenVINO (https://docs.openvino.ai), on a CPU."""

from pathlib import Path
from typing import ClassVar

from paddle_glm.array_types import Array
from paddle_glm.backends.exported import OnnxBackend, graph_load_error, require_package
from paddle_glm.backends.options import GraphOptions
from paddle_glm.errors import InputError
from paddle_glm.hardware import choose_device, num_threads
from paddle_glm.kernels.library import asked_arithmetic

# Activations that share a scale when they are rounded to 8 bits: OpenVINO's own default.
_ACTIVATION_GROUP_SIZE = 32
INSTALL_HINT = 'pip install -c constraints.txt -e ".[openvino]"'


class OpenVinoBackend(OnnxBackend):
    loading_peak_factor: ClassVar = {"float32": 2.2, "float16": 2.7}
    keeps_integer_weights = False
    # A second copy of integers, half precision weights in float32; 1.5 with a 6B in int4, 2.1 in int8.
    target_peak_factor = 2.2

    def __init__(self, folder: Path, options: GraphOptions) -> None:
        super().__init__(folder, options)
        if choose_device(options.device, options.device_id, has_gpu=False)[0] != "cpu":
            raise InputError(f"device {options.device}: the backend openvino computes on CPUs; leave it out")
        openvino = require_package("openvino", INSTALL_HINT)
        settings = {
            # Processors with bfloat16 or float16 units would compute in those by default.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": num_threads(options.cpu_threads),
            "PERFORMANCE_HINT": "LATENCY",
            # Kernels are compiled per cache length and 5000 are kept by default, about 0.7 MiB each.
            "CPU_RUNTIME_CACHE_CAPACITY": 64,
            # Where products read integers, activations would be rounded to 8 bits by default.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        if self.meta.target != "portable":
            settings.update(_arithmetic_settings())
        path = self.graph_path(folder)
        try:
            with self.monitored_loading(folder, "cpu"):
                self._request = openvino.compile_model(str(path), "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise graph_load_error(path, error) from error

    def infer(self, inputs: dict[str, Array]) -> list[Array]:
        results = self._request.infer(inputs, share_inputs=True)
        return [results[index] for index in range(len(results))]


def _arithmetic_settings() -> dict[str, str | int]:
    """What products with integer weights are computed in, as the native kernels are told."""
    asked = asked_arithmetic()
    if asked == "bfloat16":
        return {"INFERENCE_PRECISION_HINT": "bf16"}
    return {} if asked == "float32" else {"DYNAMIC_QUANTIZATION_GROUP_SIZE": _ACTIVATION_GROUP_SIZE}
