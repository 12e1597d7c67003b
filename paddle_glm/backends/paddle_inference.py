"""An exported graph on Paddle Inference."""

from pathlib import Path

import numpy as np
import paddle
from paddle import inference

from paddle_glm.backends.base import EngineOptions
from paddle_glm.backends.device import set_device
from paddle_glm.backends.meta import GenerationMeta
from paddle_glm.backends.tensor_cache import TensorCacheBackend
from paddle_glm.checkpoint.tensor_file import open_safetensors
from paddle_glm.config import ModelConfig

_GPU_MEMORY_MB = 256  # the pool's first size; it grows


class PaddleInferenceBackend(TensorCacheBackend):
    """Feeds a predictor step by step; the cache goes from its outputs to its inputs."""

    def __init__(self, folder: Path, options: EngineOptions) -> None:
        self.meta = GenerationMeta.read(folder, options.prefix)
        super().__init__(ModelConfig.from_pretrained(folder, self.meta.family))
        set_device(options)
        self._predictor = inference.create_predictor(_configure(folder, self.meta, options))
        self._past: list[paddle.Tensor] = []
        self._first = self._first_cache(folder)

    @classmethod
    def open(cls, folder: Path, options: EngineOptions) -> "PaddleInferenceBackend":
        return cls(folder, options)

    @property
    def first_length(self) -> int:
        return self.meta.first_cache.length if self.meta.first_cache is not None else 0

    def reset(self, batch: int) -> None:
        self._past = [tensor.expand([batch, -1, -1, -1]).contiguous() for tensor in self._first]

    def _first_cache(self, folder: Path) -> list[paddle.Tensor]:
        """What the cache of one row holds before its prompt."""
        if self.meta.first_cache is None:
            shapes = ([1, one.shape[1], 0, one.shape[3]] for one in self.meta.cache)
            arrays = [np.zeros(shape, np.float32) for shape in shapes]
        else:
            stored = open_safetensors(folder / self.meta.first_cache.file)
            arrays = [stored[one.name] for one in self.meta.cache]
        return [
            paddle.to_tensor(array).astype(getattr(paddle, one.dtype))
            for array, one in zip(arrays, self.meta.cache, strict=True)
        ]

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        steps = self.meta.inputs[: len(self.meta.inputs) - len(self._past)]
        tensors = [paddle.to_tensor(inputs[one.name]) for one in steps]
        logits, *past = self._predictor.run(tensors + self._past)
        # The predictor's outputs share its memory, which the next step overwrites.
        self._past = [tensor.clone() for tensor in past]
        return logits.numpy()


def _configure(folder: Path, meta: GenerationMeta, options: EngineOptions) -> inference.Config:
    config = inference.Config(str(folder / f"{meta.prefix}.json"), str(folder / f"{meta.prefix}.pdiparams"))
    config.disable_glog_info()
    if options.device == "gpu":
        config.enable_use_gpu(_GPU_MEMORY_MB, options.device_id)
    else:
        config.disable_gpu()
        # oneDNN compiles its kernels anew for each length of the cache: 3-5 times slower.
        config.disable_mkldnn()
        config.set_cpu_math_library_num_threads(options.usable_threads())
    return config
