"""An exported graph on Paddle Inference."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import paddle
from paddle import Tensor, inference

from paddle_glm.allocator import keep_freed_memory
from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.exported import ExportedBackend
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.backends.options import GraphOptions
from paddle_glm.errors import InputError
from paddle_glm.hardware import num_threads, parse_device, use_device
from paddle_glm.kernels.library import huge_pages, operators_version
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.tensors import PADDLE, BufferLayer
from paddle_glm.numpy_interop import step_tensor

_INITIAL_GPU_POOL_MB = 256  # the pool's first size; it grows
# A thread of Paddle's frees tensors of a step, so many GB at a time; waking it for each of them takes longer
# than small operators do.
FREED_AT_ONCE_GB = 1 / 64


class PaddleInferenceBackend(ExportedBackend):
    """Feeds a predictor step by step.

    Native operators write to the cache, which is given to the predictor without a copy. Without them it goes
    from the predictor's outputs to its inputs.
    """

    library = PADDLE
    loading_peak_factor: ClassVar = {"float32": 1.1}
    keeps_half_weights = True

    def __init__(self, folder: Path, options: GraphOptions) -> None:
        super().__init__(folder, options)
        threads = num_threads(options.cpu_threads)
        name = _device_name(folder, self.meta, options)
        device = use_device(name, options.device_id, threads)
        # With operators, buffers and those they replace; else the graph's inputs, outputs and their clones.
        self.cache_copies = 2 if self.meta.operators else 3
        config = _inference_config(folder, self.meta, device, options)
        paddle.set_flags({"FLAGS_eager_delete_tensor_gb": FREED_AT_ONCE_GB})
        if self.meta.upcasts_weights(self.config):
            # Constant folding would add upcast copies of all weights at loading: 2 to 8 times their memory.
            config.delete_pass("constant_folding_pass")
        weights = sum(self.meta.files.values()) if self.meta.operators else 0
        with self.monitored_loading(folder, device), huge_pages(weights) if weights else nullcontext():
            self._predictor = inference.create_predictor(config)
        keep_freed_memory()

    def run(self, inputs: dict[str, IntArray]) -> FloatArray:
        if not self.meta.operators:
            return super().run(inputs)
        steps = [step_tensor(array) for array in self.step_arrays(inputs)]
        layers: Any = self._cache.layers
        reserved = [self._reserve(layer, *steps[0].shape) for layer in layers]
        buffers = [buffer for key, value, _ in reserved for buffer in (key, value)]
        (logits,) = self._predictor.run([*steps, reserved[0][2], *buffers])
        result: FloatArray = logits.numpy()
        return result

    def _reserve(self, layer: BufferLayer, batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        return layer.reserve(batch, self.meta.num_key_value_heads, tokens, self.meta.head_dim)

    def run_graph(self, steps: list[Array], past: list[paddle.Tensor]) -> tuple[Array, list[paddle.Tensor]]:
        logits, *present = self._predictor.run([step_tensor(array) for array in steps] + past)
        # The predictor's outputs share its memory, which the next step overwrites.
        return logits.numpy(), [tensor.clone() for tensor in present]

    def cache_of(self, tensors: Sequence[paddle.Tensor], adapter: str | None = None) -> KVCache:
        if not self.meta.operators:
            return super().cache_of(tensors)
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return KVCache([BufferLayer(*pair) for pair in pairs], len(self.prefix_mask))


def _device_name(folder: Path, meta: GenerationMeta, options: GraphOptions) -> str:
    """The device to compute on; for a graph with native operators, which must be there, the CPU."""
    if not meta.operators:
        return options.device
    again = "export the model again with --portable"
    if parse_device(options.device, options.device_id)[0] == "gpu":
        raise InputError(f"{folder} was exported for CPUs: take --device cpu, or {again}")
    found = operators_version()
    if not found:
        raise InputError(
            f"{folder} needs the native CPU kernels, which `paddle-glm kernels` builds (it says what is "
            f"missing), or {again}"
        )
    if found != meta.operators:
        raise InputError(
            f"{folder} needs version {meta.operators} of the native CPU kernels, this program has {found}: "
            "export the model again with this version"
        )
    return "cpu"


def _inference_config(
    folder: Path, meta: GenerationMeta, device: str, options: GraphOptions
) -> inference.Config:
    config = inference.Config(*(str(folder / name) for name in meta.graph_files))
    config.disable_glog_info()
    if device != "cpu":
        config.enable_use_gpu(_INITIAL_GPU_POOL_MB, int(device.partition(":")[2]))
    else:
        config.disable_gpu()
        # oneDNN compiles new kernels for every cache length: 3 to 5 times slower.
        config.disable_mkldnn()
        config.set_cpu_math_library_num_threads(num_threads(options.cpu_threads))
    return config
