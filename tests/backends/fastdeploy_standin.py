"""A module in the place of FastDeploy 1.x, whose wheel is on no index that tests can reach.

Names, signatures and refusals are those of its python/fastdeploy/runtime.py and of what lies below it
(pybind/runtime.cc, runtime/backends), as a build of tools/build_fastdeploy.sh behaves: where the real one
ends the process (FDASSERT), this one raises `Aborted`. It computes with ONNX Runtime, so that tokens are real
ones, reads the graph as bytes, so that weights in other files are looked for in the working directory, and
records what it was told.
"""

import os
import sys
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

# A real build, of tools/build_fastdeploy.sh; empty: none.
REAL = os.environ.get("FASTDEPLOY_INSTALL_DIR", "")


class Aborted(BaseException):
    """The real FastDeploy calls std::abort here; no `except Exception` may hide it."""


class ModelFormat(Enum):
    PADDLE = 1
    ONNX = 2
    TORCHSCRIPT = 3


class TrtOption:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[list[int], ...]] = {}

    def set_shape(self, tensor_name: str, min: list[int], opt: list[int], max: list[int]) -> None:
        if not len(min) == len(opt) == len(max):
            raise Aborted("The rank of min/opt/max shape should be same")
        if any(low > usual or usual > high for low, usual, high in zip(min, opt, max, strict=True)):
            raise Aborted("min <= opt <= max")
        self.shapes[tensor_name] = min, opt, max


class OrtOption:
    graph_optimization_level = -1  # ONNX Runtime's default


class RuntimeOption:
    def __init__(self) -> None:
        self.model: tuple[str, str, ModelFormat] | None = None
        self.device, self.device_id, self.threads, self.engine = "cpu", 0, -1, ""
        self.trt_option, self.ort_option = TrtOption(), OrtOption()

    def set_model_path(
        self, model_path: str, params_path: str = "", model_format: ModelFormat = ModelFormat.PADDLE
    ) -> None:
        if not (isinstance(model_path, str) and isinstance(params_path, str)):
            raise TypeError("set_model_path(): incompatible function arguments")
        self.model = model_path, params_path, model_format

    def use_gpu(self, device_id: int = 0) -> None:
        self.device, self.device_id = "gpu", device_id

    def use_cpu(self) -> None:
        self.device = "cpu"

    def set_cpu_thread_num(self, thread_num: int = -1) -> None:
        self.threads = thread_num

    def use_paddle_backend(self) -> None:
        self.engine = "PDINFER"

    def use_paddle_infer_backend(self) -> None:
        self.use_paddle_backend()

    def use_ort_backend(self) -> None:
        self.engine = "ORT"

    def use_trt_backend(self) -> None:
        self.engine = "TRT"

    def use_openvino_backend(self) -> None:
        self.engine = "OPENVINO"


class Runtime:
    """`built` counts the instances, newest last, for tests to look at what they were told."""

    built: list["Runtime"]

    def __init__(self, runtime_option: RuntimeOption) -> None:
        option = self.runtime_option = runtime_option
        assert option.model is not None, "Initialize Runtime Failed!"
        path, _, kind = option.model
        if option.engine == "OPENVINO" and option.device != "cpu":
            raise Aborted("Backend::OPENVINO only supports Device::CPU")
        if option.engine == "PDINFER" and kind is not ModelFormat.PADDLE:
            raise Aborted("Backend::PDINFER only supports model format of ModelFormat::PADDLE.")
        assert option.engine != "TRT" or option.device == "gpu", "Initialize Runtime Failed!"
        if not Path(path).is_file():
            raise Aborted(f"Failed to read model file {path}.")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = max(option.threads, 0)
        settings.log_severity_level = 3
        if option.ort_option.graph_optimization_level == 0:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            Path(path).read_bytes(), settings, providers=["CPUExecutionProvider"]
        )
        self.steps: list[dict[str, tuple[int, ...]]] = []
        self.built.append(self)

    def infer(self, data: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert isinstance(data, dict | list), "The input data should be type of dict or list."
        known = {one.name: one.type for one in self._session.get_inputs()}
        self.steps.append({name: array.shape for name, array in data.items()})
        for name, array in data.items():
            _check(name, array, known)
        if len(data) != len(known):  # written to its log; the outputs are what they were made as
            return [np.zeros(0, np.int8)] * len(self._session.get_outputs())
        return self._session.run(None, data)


def _check(name: str, array: Any, known: dict[str, str]) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError("infer(): incompatible function arguments")
    if not array.flags.c_contiguous:  # early releases read `nbytes` from the first number on
        raise Aborted(f"{name} is not contiguous")
    # The dtype is told by its identity, `np_dtype.is(pybind11::dtype::of<int64_t>())`.
    if not any(array.dtype is np.dtype(kind) for kind in (np.int64, np.float32)):
        raise Aborted(f"{name}: NumpyDataTypeToFDDataType() only support int64/float32, not {array.dtype}")
    if name not in known:
        raise RuntimeError(f"Failed to find input name in the mapping: {name}")
    if known[name] != {"int64": "tensor(int64)", "float32": "tensor(float)"}[str(array.dtype)]:
        raise Aborted(f"{name} is {array.dtype}, the graph takes {known[name]}")
    if 0 in array.shape:  # ONNX Runtime and OpenVINO take it, TensorRT's profile begins at 1
        raise Aborted(f"{name} has shape {array.shape}")


def make_module(gpu: bool = False) -> ModuleType:
    """The module to put into `sys.modules` as fastdeploy; gpu: whether it says it was built for them."""
    made = ModuleType("fastdeploy")
    runtime = type("Runtime", (Runtime,), {"built": []})
    values = {"RuntimeOption": RuntimeOption, "Runtime": runtime, "ModelFormat": ModelFormat}
    made.__dict__.update(values, is_built_with_gpu=lambda: gpu)
    return made


def install(patch: pytest.MonkeyPatch, module: ModuleType | None = None) -> ModuleType:
    """What `import fastdeploy` finds from now on: `module`, or else a new stand-in."""
    # Other tests compute with OpenVINO in this process before, which a real FastDeploy may share.
    patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    found = module or make_module()
    patch.setitem(sys.modules, "fastdeploy", found)
    return found


def real_module() -> ModuleType | None:
    """FastDeploy itself, where `REAL` is set."""
    if not REAL:
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(REAL) / "python"))
        return import_module("fastdeploy")
