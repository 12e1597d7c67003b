"""An exported ONNX graph on the Runtime of FastDeploy 1.x (https://github.com/PaddlePaddle/FastDeploy).

The Runtime aborts the process on some invalid inputs, so inputs are checked here: arrays are contiguous,
int64 or float32, and no dimension is 0.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from paddle_glm.array_types import Array
from paddle_glm.backends.exported import OnnxBackend, graph_load_error, require_package
from paddle_glm.backends.generation_meta import GenerationMeta, TensorMeta
from paddle_glm.backends.openvino import OpenVinoBackend
from paddle_glm.backends.options import GraphOptions, option
from paddle_glm.errors import InputError
from paddle_glm.hardware import choose_device, num_threads
from paddle_glm.kernels.library import asked_arithmetic
from paddle_glm.load_memory import LOAD_PEAK_FACTOR
from paddle_glm.mkl import CPUINFO

INSTALL_HINT = (
    "PyPI does not have it: pip install fastdeploy-python (fastdeploy-gpu-python for a GPU) -f "
    "https://www.paddlepaddle.org.cn/whl/fastdeploy.html, or bash tools/build_fastdeploy.sh with the sources "
    "of release/1.1.0 of PaddlePaddle/FastDeploy"
)
# As PaddleNLP's scripts for FastDeploy name them, with the targets of the graphs that each runs.
ENGINES = {
    "onnx_runtime": ("portable", "onnxruntime"),
    "openvino": ("portable", "onnxruntime", "openvino"),
    "tensorrt": ("portable",),
    "paddle": (),
    "paddle_tensorrt": (),
}
_ORT_DISABLE_ALL = 0  # GraphOptimizationLevel of ONNX Runtime's C API
_REQUIRED_NAMES = ("RuntimeOption", "Runtime", "ModelFormat")
# Largest batch and length of TensorRT's optimisation profile; beyond them it rebuilds its engine, slowly.
_TENSORRT_BATCH = 8
_TENSORRT_LENGTH = 2048
_MAPS = Path("/proc/self/maps")
# OpenVINO computes in bfloat16 where the processor can, and FastDeploy has no option that tells it not to:
# oneDNN below it is kept from those instructions, which it looks up once in a process.
_NO_BFLOAT16 = ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")


@dataclass(frozen=True)
class FastDeployOptions(GraphOptions):
    """fastdeploy_engine: what computes below FastDeploy, one of `ENGINES`; "auto": by the graph's target."""

    fastdeploy_engine: str = option(
        "auto",
        "the engine that --backend fastdeploy runs (default: openvino for exports with --target openvino, "
        "else onnx_runtime)",
        choices=("auto", *ENGINES),
    )


class FastDeployBackend(OnnxBackend):
    supports_empty_past = False
    # OpenVINO's, which may be the engine below.
    loading_peak_factor: ClassVar = OpenVinoBackend.loading_peak_factor

    def __init__(self, folder: Path, options: FastDeployOptions) -> None:
        super().__init__(folder, options)
        engine = self._choose_engine(folder, options.fastdeploy_engine)
        self.keeps_integer_weights = engine == "onnx_runtime"
        self.target_peak_factor = (
            OpenVinoBackend.target_peak_factor if engine == "openvino" else LOAD_PEAK_FACTOR
        )
        module = _import_fastdeploy()
        can_use_gpu = engine == "tensorrt" or (engine != "openvino" and module.is_built_with_gpu())
        device, number = choose_device(options.device, options.device_id, has_gpu=can_use_gpu)
        _check_engine(module, self.meta, engine, device)
        option = _runtime_option(module, self.graph_path(folder), self.meta, engine)
        if engine == "onnx_runtime" and self.dequantizes:
            # Constant folding would dequantise the weights when the graph is loaded.
            option.ort_option.graph_optimization_level = _ORT_DISABLE_ALL
        if device == "gpu":
            option.use_gpu(number or 0)
        else:
            option.use_cpu()
            option.set_cpu_thread_num(num_threads(options.cpu_threads))
        if engine == "openvino":
            self._check_arithmetic()
            _keep_from_bfloat16()
        try:
            with self.monitored_loading(folder, device), _working_directory(folder):
                self._runtime = module.Runtime(option)
        except (AssertionError, RuntimeError) as error:
            raise graph_load_error(self.graph_path(folder), error) from error

    def _choose_engine(self, folder: Path, asked: str) -> str:
        """Raises `InputError` where the graph was exported for other engines than the one asked for."""
        target = self.meta.target
        if asked == "auto":
            return next(name for name, targets in ENGINES.items() if target in targets)
        if ENGINES[asked] and target not in ENGINES[asked]:
            fitting = [name for name, targets in ENGINES.items() if target in targets]
            raise InputError(
                f"{folder} was exported with --target {target}, which fastdeploy_engine {asked} cannot run: "
                f"take {' or '.join(fitting)}, or export the model again with --target "
                f"{' or '.join(ENGINES[asked])}"
            )
        return asked

    def _check_arithmetic(self) -> None:
        """FastDeploy passes OpenVINO no arithmetic; by itself it rounds activations beside integers to int8.

        Raises `InputError` where another one is asked for.
        """
        asked, target = asked_arithmetic(), self.meta.target
        if self.config.quantization_bit and target != "portable" and asked in ("bfloat16", "float32"):
            raise InputError(
                f"PADDLE_GLM_ARITHMETIC={asked}: FastDeploy cannot tell OpenVINO, which computes --target "
                f"{target} in int8: unset it, or take --backend openvino"
            )

    def infer(self, inputs: dict[str, Array]) -> list[Array]:
        batch = len(inputs[self.meta.inputs[0].name])
        try:
            outputs = self._runtime.infer(inputs)
        except RuntimeError as error:  # OpenVINO's
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"FastDeploy could not compute a step: {reason}") from error
        # A failed step of ONNX Runtime is only logged, and every output is empty.
        if len(outputs) != len(self.meta.outputs) or outputs[0].shape != (batch, self.meta.vocab_size):
            raise InputError(
                f"FastDeploy gave {len(outputs)} outputs, the first of shape "
                f"{outputs[0].shape if outputs else None}: its log says why the step failed"
            )
        return list(outputs)


def _import_fastdeploy() -> ModuleType:
    """FastDeploy 1.x; PyPI has unrelated projects of this name, and FastDeploy 2 is a server."""
    module = require_package("fastdeploy", f"the backend is FastDeploy 1.x, and {INSTALL_HINT}")
    missing = [name for name in _REQUIRED_NAMES if not hasattr(module, name)]
    if missing:
        raise InputError(
            f"the package fastdeploy in {getattr(module, '__file__', None)} has no {', '.join(missing)}: "
            f"this is not FastDeploy 1.x. pip uninstall it; {INSTALL_HINT}"
        )
    return module


def _runtime_option(module: Any, graph: Path, meta: GenerationMeta, engine: str) -> Any:
    option = module.RuntimeOption()
    option.set_model_path(str(graph.resolve()), "", module.ModelFormat.ONNX)
    if engine == "onnx_runtime":
        option.use_ort_backend()
    elif engine == "openvino":
        option.use_openvino_backend()
    else:
        option.use_trt_backend()
        for one in meta.inputs:
            option.trt_option.set_shape(one.name, *_trt_profile_shapes(one, meta))
    return option


@contextmanager
def _working_directory(folder: Path) -> Iterator[None]:
    """ONNX Runtime is given the graph as bytes, and looks for other files in the working directory.

    That is the process's: other threads see the change.
    """
    previous = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(previous)


def _keep_from_bfloat16() -> None:
    """Raise `InputError` where it is too late, as OpenVINO computes in this process already."""
    name, value = _NO_BFLOAT16
    has_bfloat16 = CPUINFO.is_file() and "_bf16" in CPUINFO.read_text()
    is_loaded = _MAPS.is_file() and "libopenvino_intel_cpu_plugin" in _MAPS.read_text()
    if name not in os.environ and has_bfloat16 and is_loaded:
        raise InputError(
            "fastdeploy_engine openvino: OpenVINO is in use in this process already, and would compute in "
            f"bfloat16 below FastDeploy: set {name}={value} before Python starts, or use another process"
        )
    os.environ.setdefault(name, value)


def _check_engine(module: Any, meta: GenerationMeta, engine: str, device: str) -> None:
    """Raise `InputError` where FastDeploy would abort the process or fall back to another device."""
    if engine.startswith("paddle"):
        raise InputError(
            f"fastdeploy_engine {engine} reads .pdmodel files, which Paddle 3 cannot write for these models: "
            "expected onnx_runtime, openvino or tensorrt"
        )
    needed = {"openvino": "cpu", "tensorrt": "gpu"}.get(engine, device)
    if device != needed:
        raise InputError(f"fastdeploy_engine {engine} computes on the {needed}: give --device {needed}")
    if device == "gpu" and not module.is_built_with_gpu():
        raise InputError("device gpu: this FastDeploy computes on CPUs only; install fastdeploy-gpu-python")
    if wrong := {one.dtype for one in meta.inputs} - {"int64", "float32"}:
        raise InputError(f"the graph takes {', '.join(sorted(wrong))}, FastDeploy is given int64 and float32")


def _trt_profile_shapes(tensor: TensorMeta, meta: GenerationMeta) -> tuple[list[int], list[int], list[int]]:
    """The smallest, usual and largest shape of an input; dimension 0 is the batch, other -1s are lengths."""
    length = min(meta.max_sequence_length, _TENSORRT_LENGTH)
    batches, lengths = (1, 1, _TENSORRT_BATCH), (1, length // 2, length)

    def shape_at(which: int) -> list[int]:
        tail = [lengths[which] if size == -1 else size for size in tensor.shape[1:]]
        return [batches[which], *tail]

    return shape_at(0), shape_at(1), shape_at(2)
