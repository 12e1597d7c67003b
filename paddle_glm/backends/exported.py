"""Shared by backends that compute over an exported folder."""

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.backends.options import GraphOptions
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.hardware import free_memory
from paddle_glm.kv_cache import NUMPY, ArrayLibrary, KVCache
from paddle_glm.load_memory import (
    LOAD_PEAK_FACTOR,
    MemoryBudget,
    cache_bytes,
    check_memory_budget,
    format_bytes,
    needed_bytes,
    upcast_bytes,
    weight_bytes,
)
from paddle_glm.progress import polled_progress
from paddle_glm.quantization import BITS
from paddle_glm.system import resident_bytes

logger = logging.getLogger(__name__)


class ExportedBackend(KVCacheBackend):
    """A folder of `paddle-glm export`, with the initial cache that it needs.

    supports_empty_past: whether the engine takes a past of length 0. Where it does not, and there is no
    prefix, the cache begins with one column of zeros that the mask hides, so that results do not change.
    """

    cache_copies = 2  # what a graph takes and what it gives
    library: ClassVar[ArrayLibrary]  # of the cache's tensors
    supports_empty_past: ClassVar[bool] = True
    # Peak memory of loading / size of the float32 weights, by the dtype of the files; measured with 300 MB.
    loading_peak_factor: ClassVar[Mapping[str, float]]
    # Whether quantised and half precision weights stay so on a CPU, or become float32 at loading.
    keeps_integer_weights: bool = True
    keeps_half_weights: ClassVar[bool] = False
    # Peak memory of loading / size of the files, for graphs whose target is not "portable".
    target_peak_factor: float = LOAD_PEAK_FACTOR

    def __init__(self, folder: Path, options: GraphOptions) -> None:
        self.meta = GenerationMeta.read(folder, options.model_prefix)
        super().__init__(ModelConfig.from_pretrained(folder, self.meta.family))
        self.prefix_cache = self._read_prefix_cache(folder)
        self.stored_dtype = self.meta.stored_dtype
        self._device = "gpu"  # until it is known

    @property
    def prefix_lengths(self) -> dict[str | None, int]:
        return {None: len(self.prefix_mask)}

    def new_cache(self, batch: int, adapter: str | None = None) -> KVCache:
        rows = np.zeros(batch, dtype=np.int64)
        tensors = [
            self.library.take(self.library.asarray(array, one.dtype), rows)
            for array, one in zip(self.prefix_cache, self.meta.cache_inputs, strict=True)
        ]
        return self.cache_of(tensors)

    def run(self, inputs: dict[str, IntArray]) -> FloatArray:
        logits, present = self.run_graph(self.step_arrays(inputs), self._cache.tensors)
        self._cache = self.cache_of(present)
        return logits

    def step_arrays(self, inputs: dict[str, IntArray]) -> list[IntArray]:
        """A step's inputs in the order of the graph's."""
        # To the graph, a prefix is columns like the rows' own: here they get their part of the mask.
        prefix = np.broadcast_to(self.prefix_mask, (len(self._mask), len(self.prefix_mask)))
        inputs = {**inputs, "attention_mask": np.concatenate([prefix, inputs["attention_mask"]], axis=1)}
        return [inputs[one.name] for one in self.meta.step_inputs]

    def memory_budget(self) -> MemoryBudget | None:
        return None if self._device == "gpu" else MemoryBudget(self._device, free_memory(self._device))

    @abstractmethod
    def run_graph(self, steps: list[IntArray], past: list[Any]) -> tuple[FloatArray, list[Any]]:
        """Logits float32 [batch, vocab] and the longer cache, in the order of the graph's inputs.

        steps: the inputs that are not the cache. past, and what is returned: tensors of `library`, key and
        value of each layer in turn; the latter belong to the caller.
        """

    @property
    def prefix_mask(self) -> IntArray:
        """int64 [columns that the cache begins with], 0 for those that no token may attend to."""
        seen = self.meta.first_cache is not None
        return np.full(self.prefix_cache[0].shape[2], int(seen), dtype=np.int64)

    def cache_of(self, tensors: Sequence[Any], adapter: str | None = None) -> KVCache:
        return KVCache.of(tensors, self.library, len(self.prefix_mask))

    @contextmanager
    def monitored_loading(self, folder: Path, device: str) -> Iterator[None]:
        """Wraps the engine's loading of the graph: logs what is loaded and shows progress.

        Raises `InputError` as `check_memory` does, before anything is loaded.
        """
        self.check_memory(folder, device)
        before = resident_bytes()
        with polled_progress(
            f"opening {folder}", sum(self.meta.files.values()), lambda: resident_bytes() - before
        ):
            yield

    def check_memory(self, folder: Path, device: str) -> None:
        """Log what is loaded; raise `InputError` where it needs more memory than the device has free.

        device: "cpu", or a GPU by Paddle's name; the memory of another engine's "gpu" is unknown.
        """
        self._device = device
        config, stored = self.config, self.meta.stored_dtype
        kind = f"int{config.quantization_bit} and {stored}" if config.quantization_bit else stored
        size = sum(self.meta.files.values())
        if device == "gpu":
            logger.info(f"{folder.name}: graph with {kind} weights, {format_bytes(size)}, on the GPU")
            return
        budget = MemoryBudget(device, free_memory(device))
        needed = self._needed_bytes(budget) + cache_bytes(config, stored, budget)
        what = f"{folder.name}, a graph with {kind} weights,"
        check_memory_budget(what, needed, budget, lambda: self._memory_advice(budget))
        free = format_bytes(budget.free)
        logger.info(
            f"{folder.name}: graph with {kind} weights, {format_bytes(size)}, {budget.location} ({free} free)"
        )

    def _needed_bytes(self, budget: MemoryBudget) -> int:
        """Peak memory of loading the graph, and of a step that upcasts weights which are kept as stored."""
        config, stored = self.config, self.meta.stored_dtype
        if self.meta.target != "portable":
            return int(self.target_peak_factor * sum(self.meta.files.values()))
        kept = int(LOAD_PEAK_FACTOR * weight_bytes(config, stored))
        if budget.device != "cpu":
            return kept
        if (
            self.keeps_integer_weights
            if config.quantization_bit
            else self.keeps_half_weights and stored != "float32"
        ):
            return kept + self._upcast_bytes(config)
        floats = replace(
            config, quantization_bit=0, quantization_group_size=None, quantization_embeddings=False
        )
        return int(self.loading_peak_factor[stored] * weight_bytes(floats, "float32"))

    def _upcast_bytes(self, config: ModelConfig) -> int:
        """Memory for upcasting weights in a step, which native operators do not."""
        return 0 if self.meta.operators else upcast_bytes(config)

    def _memory_advice(self, budget: MemoryBudget) -> str:
        """How the model would fit, if it can."""
        if self.meta.target != "portable":
            return "more memory is needed"
        backend = (
            "" if self.keeps_integer_weights else " and answer by --backend onnxruntime, which keeps integers"
        )
        if self.config.quantization_bit:
            return f"more memory is needed{backend.replace(' and answer by', ', or')}"
        fitting = []
        for bits in sorted(BITS, reverse=True):
            with suppress(InputError):  # sizes that cannot be quantised to so many bits
                config = self.family.quantized_config(self.config, bits)
                needed = needed_bytes(config, self.meta.stored_dtype, budget)
                if needed + self._upcast_bytes(config) <= budget.free:
                    fitting.append(f"--quantization_bit {bits}")
        if not fitting:
            return "more memory is needed"
        return f"export it with {' or '.join(fitting)}{backend}"

    def _read_prefix_cache(self, folder: Path) -> list[Array]:
        """float32 [1, heads, length, head_dim] of every cache input, in their order."""
        if self.meta.first_cache is not None:
            stored = open_safetensors(folder / self.meta.first_cache.file)
            return [stored[one.name] for one in self.meta.cache_inputs]
        length = 0 if self.supports_empty_past else 1
        return [
            np.zeros((1, one.shape[1], length, one.shape[3]), np.float32) for one in self.meta.cache_inputs
        ]


class OnnxBackend(ExportedBackend):
    """An ONNX graph on an engine that takes and gives numpy arrays."""

    library = NUMPY

    @property
    def dequantizes(self) -> bool:
        """Whether the graph widens quantised weights where it uses them."""
        return bool(self.config.quantization_bit) and self.meta.target == "portable"

    def check_target(self, folder: Path, targets: Sequence[str], engine: str) -> None:
        """Raise `InputError` where the graph was exported for a target that is none of an engine's."""
        if self.meta.target not in targets:
            raise InputError(
                f"{folder} was exported for another engine than {engine}: take --backend {self.meta.target}, "
                f"or export the model again with --target {' or '.join(targets)}"
            )

    def run_graph(self, steps: list[IntArray], past: list[Array]) -> tuple[FloatArray, list[Array]]:
        arrays = [np.ascontiguousarray(array) for array in steps + past]
        logits, *present = self.infer(
            {one.name: array for one, array in zip(self.meta.inputs, arrays, strict=True)}
        )
        return logits, present

    @abstractmethod
    def infer(self, inputs: dict[str, Array]) -> list[Array]:
        """The graph's outputs, in its order, for its inputs by name. The caller owns the arrays."""

    def graph_path(self, folder: Path) -> Path:
        return folder / self.meta.graph_files[0]


def require_package(name: str, command: str) -> ModuleType:
    """The module `name`; raises `InputError` with the command that installs it where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"the package {name} cannot be imported ({error}): {command}") from error


def graph_load_error(path: Path, error: Exception) -> InputError:
    """An `InputError` with the first line of the engine's message and the remedy."""
    reason = str(error).strip().partition("\n")[0]
    return InputError(f"{path} cannot be loaded ({reason}): copy or export the folder again")
