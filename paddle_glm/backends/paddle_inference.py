"""An exported graph on Paddle Inference."""

from pathlib import Path
from typing import ClassVar

import paddle
from paddle import inference

from paddle_glm.allocator import keep_freed_memory
from paddle_glm.array_types import Array
from paddle_glm.backends.exported import ExportedBackend
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.backends.options import GraphOptions
from paddle_glm.hardware import num_threads, use_device
from paddle_glm.kv_cache.tensors import PADDLE

_INITIAL_GPU_POOL_MB = 256  # the pool's first size; it grows


class PaddleInferenceBackend(ExportedBackend):
    """Feeds a predictor step by step; the cache goes from its outputs to its inputs."""

    library = PADDLE
    cache_copies = 3  # the predictor's own, too
    loading_peak_factor: ClassVar = {"float32": 1.1}
    keeps_half_weights = True

    def __init__(self, folder: Path, options: GraphOptions) -> None:
        super().__init__(folder, options)
        device = use_device(options.device, options.device_id, num_threads(options.cpu_threads))
        config = _inference_config(folder, self.meta, device, options)
        if self.meta.upcasts_weights(self.config):
            # Constant folding would add upcast copies of all weights at loading: 2 to 8 times their memory.
            config.delete_pass("constant_folding_pass")
            keep_freed_memory()  # upcasting in every step is 3 times faster with the memory kept
        with self.monitored_loading(folder, device):
            self._predictor = inference.create_predictor(config)

    def run_graph(self, steps: list[Array], past: list[paddle.Tensor]) -> tuple[Array, list[paddle.Tensor]]:
        logits, *present = self._predictor.run([paddle.to_tensor(array) for array in steps] + past)
        # The predictor's outputs share its memory, which the next step overwrites.
        return logits.numpy(), [tensor.clone() for tensor in present]


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
