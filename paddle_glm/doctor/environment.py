"""What the machine and the installed packages are."""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import paddle

from paddle_glm.doctor.registry import Context, Finding, NotApplicable, check
from paddle_glm.hardware import free_memory, gpu_count, num_threads
from paddle_glm.kernels.library import isa, kernel_library
from paddle_glm.system import usable_cpus
from paddle_glm.version import __version__

# Version that the tests run with; packages that only some commands need.
_TESTED_PADDLE = "3.3.1"
_PACKAGES = {
    "numpy": "everything",
    "sentencepiece": "everything",
    "ml_dtypes": "everything",
    "paddlenlp": "finetune",
    "rouge-chinese": "evaluate",
    "nltk": "evaluate",
    "jieba": "evaluate",
    "fastapi": "serve",
    "gradio": "web",
    "paddle2onnx": "export --format onnx",
    "onnxruntime": "infer on ONNX graphs",
    "openvino": "infer on ONNX graphs",
}
_GIB = 2**30


@check("environment", "versions")
def versions(context: Context) -> Finding:
    found = Finding()
    installed = {name: _version_of(name) for name in _PACKAGES}
    cuda = paddle.is_compiled_with_cuda()
    found.facts = {
        "paddle_glm": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "paddle": f"{paddle.version.full_version} ({paddle.version.commit[:10]})",
        "paddle is built for": f"CUDA {paddle.version.cuda()}" if cuda else "CPUs only",
        "cuDNN": paddle.version.cudnn() if cuda else None,
        "NCCL": paddle.version.nccl() if cuda else None,
        **installed,
        "missing, and who needs it": {
            name: user for name, user in _PACKAGES.items() if installed[name] is None
        },
    }
    if paddle.version.full_version != _TESTED_PADDLE:
        found.facts["note"] = f"this package is tested with Paddle {_TESTED_PADDLE}"
    return found


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@check("environment", "machine")
def machine(context: Context) -> Finding:
    found = Finding()
    found.facts = {
        "processor": _processor(),
        "CPUs of this process": usable_cpus(),
        "threads": num_threads(),
        "free memory, GiB": round(free_memory() / _GIB, 1),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("FLAGS_", "PADDLE_GLM_", "NCCL_", "CUDA_VISIBLE", "OMP_NUM", "NVIDIA_TF32"))
        },
    }
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    match = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


@check("environment", "native CPU kernels", devices=("cpu",))
def native_kernels(context: Context) -> Finding:
    if kernel_library() is None:
        raise NotApplicable(
            "they cannot be built here: paddle-glm kernels says why; Paddle's operators serve"
        )
    return Finding(facts={"instruction set": isa()})


@check("environment", "GPUs", devices=("gpu",))
def gpus(context: Context) -> Finding:
    """Fails where a card is not seen, or does not multiply."""
    found = Finding()
    found.measure("cards that Paddle sees", gpu_count(), 1, at_least=True)
    for index in range(gpu_count()):
        found.facts[f"gpu:{index}"] = _gpu_facts(index)
        free = found.facts[f"gpu:{index}"]["free memory, GiB"]
        paddle.set_device(f"gpu:{index}")
        ones = paddle.ones([256, 256])
        found.measure(f"gpu:{index}: 256 x 256 ones squared", float((ones @ ones).max()), 256)
        found.measure(f"gpu:{index}: free memory", free, 1, "GiB", at_least=True)
    paddle.set_device("gpu:0")
    found.facts["TF32 in float32 products by default"] = paddle.base.core.get_cublas_switch()
    found.facts["nvidia-smi"] = _nvidia_smi()
    return found


def _gpu_facts(index: int) -> dict[str, Any]:
    properties = paddle.device.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory, GiB": round(properties.total_memory / _GIB, 1),
        "free memory, GiB": round(free_memory(f"gpu:{index}") / _GIB, 1),
    }


def _nvidia_smi() -> list[str] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    fields = "index,name,driver_version,memory.total,power.limit,clocks.max.sm,pcie.link.gen.current"
    done = subprocess.run(
        [program, f"--query-gpu={fields}", "--format=csv"], capture_output=True, text=True, timeout=30
    )
    return done.stdout.splitlines()
