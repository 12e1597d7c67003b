"""Fill a model's parameters from a checkpoint, each weight read once into the memory where it stays."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import paddle
from paddle import Tensor, nn

from paddle_glm.allocator import return_freed_memory
from paddle_glm.array_types import Array
from paddle_glm.checkpoint import Checkpoint
from paddle_glm.checkpoint.quantize_on_load import QuantizingCheckpoint
from paddle_glm.hardware import num_threads
from paddle_glm.numpy_interop import cpu_view, tensor_nbytes, writable_array
from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.kernel_weights import PackedWeight
from paddle_glm.parallel.layers import ParallelWeight
from paddle_glm.progress import Progress, progress_bar

AnyCheckpoint = Checkpoint | QuantizingCheckpoint


def load_parameters(model: nn.Layer, checkpoint: AnyCheckpoint, group: ProcessGroup) -> None:
    """Set all parameters in place from a checkpoint of any degree; reads only this rank's shards.

    Parameters without memory are skipped: another rank holds them.
    """
    parameters = {name: one for name, one in model.named_parameters() if one._is_initialized()}
    with progress_bar(
        f"opening {checkpoint.folder}", sum(map(tensor_nbytes, parameters.values()))
    ) as progress:
        if paddle.get_device() == "cpu":
            _load_in_parallel(_parts(model), checkpoint, group, progress)
            return
        for name, parameter in parameters.items():
            with writable_array(parameter) as values:
                checkpoint.read_into(values, name, group.rank, group.degree)
            progress(tensor_nbytes(parameter))


@dataclass
class _Part:
    """The memory of one layer's parameters, by hub name; `packed`: to be permuted into kernel order."""

    layer: nn.Layer
    arrays: dict[str, Array] = field(default_factory=dict)
    packed: PackedWeight | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def load(self, checkpoint: AnyCheckpoint, group: ProcessGroup) -> None:
        """Uses no Paddle, whose tensors work in the main thread only."""
        for name, values in self.arrays.items():
            checkpoint.read_into(values, name, group.rank, group.degree)
        if self.packed is not None:
            self.packed.pack()


def _parts(model: nn.Layer) -> list[_Part]:
    parts = []
    seen: set[int] = set()
    for path, layer in model.named_sublayers(include_self=True):
        named: list[tuple[str, Tensor]] = list(layer.named_parameters(path, include_sublayers=False))
        held = [(name, one) for name, one in named if id(one) not in seen and one._is_initialized()]
        part = _Part(layer, {name: cpu_view(one) for name, one in held})
        seen |= {id(one) for _, one in named}
        if isinstance(layer, ParallelWeight):
            part.packed = layer.kernel_order_weight()
        if part.arrays:
            parts.append(part)
    return parts


def _load_in_parallel(
    parts: list[_Part], checkpoint: AnyCheckpoint, group: ProcessGroup, progress: Progress
) -> None:
    with ThreadPoolExecutor(num_threads()) as pool:
        futures = {pool.submit(part.load, checkpoint, group): part for part in parts}
        try:
            for future in as_completed(futures):
                future.result()
                part = futures[future]
                if part.packed is not None:
                    part.layer.set_packed_weight(part.packed)
                progress(part.nbytes)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return_freed_memory()  # a thread's allocations stay with it otherwise
