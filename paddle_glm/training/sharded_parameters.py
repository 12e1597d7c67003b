"""ZeRO stage 3 (arXiv:1910.02054): parameters partitioned over data-parallel ranks, besides stages 1 and 2.

A parameter lies on the rank that owns it. The others receive it before the block that computes with it, in
the forward and again in the backward pass, and release it afterwards; meanwhile the next block's parameters
are on their way. Parameters outside of blocks stay from the forward to the end of the backward pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddle_glm.array_types import Array
from paddle_glm.models.base import CausalLM
from paddle_glm.numpy_interop import readonly_array, tensor_nbytes, to_numpy
from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.layers import ParallelWeight
from paddle_glm.training.sharded_optimizer import OptimizerStatePartition, assign_owners

_ROOT = -1  # the unit of what is outside of blocks; blocks are units by their index


def shardable_parameters(model: CausalLM, adapter_names: Iterable[str] = ()) -> dict[str, Tensor]:
    """{name: parameter} without an adapter's, which are few, and without quantised weights.

    Quantised weights may be in the order of native kernels, which they keep in their own memory.
    """
    skipped = set(adapter_names)
    for path, layer in model.named_sublayers():
        if isinstance(layer, ParallelWeight) and layer.bits:
            skipped |= {f"{path}.weight", f"{path}.weight_scale"}
    return {name: one for name, one in model.named_parameters() if name not in skipped}


class ShardedParameters:
    """Gathers and releases a model's parameters by hooks on its blocks.

    Every rank of the group has to run as many forward and backward passes as the others, but within `whole`.
    """

    def __init__(
        self, model: CausalLM, parameters: Sequence[Tensor], state_partition: OptimizerStatePartition
    ) -> None:
        """Releases the parameters that other ranks own. parameters: those to shard, equal on all ranks now.

        state_partition: owners of the trained ones; frozen ones are shared out here.
        """
        self.group: ProcessGroup = state_partition.group
        self._parameters = list(parameters)
        frozen = [one for one in parameters if one.name not in state_partition.owner]
        owners = assign_owners([tensor_nbytes(one) for one in frozen], self.group.degree)
        self._owner: Mapping[str, int] = {
            **{one.name: rank for one, rank in zip(frozen, owners, strict=True)},
            **state_partition.owner,
        }
        blocks = model.blocks()
        self._units = _units(blocks, self._parameters)
        self._arriving: dict[int, list[Callable[[], None]]] = {}  # what waits for a unit on its way
        self._present: set[int] = set()
        self._backward = self._whole = False
        self._release_all()
        model.register_forward_pre_hook(self._before_model)
        model.register_forward_post_hook(self._after_model)
        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(_with_index(self._before_block, index))
            block.register_forward_post_hook(_with_index(self._after_block, index))

    # What the trainer calls.

    def finish_backward(self) -> None:
        """To be called after every backward pass: release what it has gathered."""
        self._backward = False
        self._release_all()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it every rank holds the whole model, and may run it as often as it likes; collective."""
        for unit in self._units:
            self._gather(unit)
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
            self._release_all()

    # Saving: rank 0 of the group asks for one parameter after the other.

    @contextmanager
    def borrowing(self) -> Iterator[Callable[[Tensor], list[Array]]]:
        """For rank 0 of the group: reads a parameter's values, from its owner; the others call `lend`."""
        numbers = {one.name: number for number, one in enumerate(self._parameters)}

        def read(parameter: Tensor) -> list[Array]:
            owner = self._owner.get(parameter.name, self.group.rank)
            if owner == self.group.rank:
                return [readonly_array(parameter)]
            self._agree_on(numbers[parameter.name])
            return [to_numpy(self._broadcast(parameter, sync=True)[0])]

        try:
            yield read
        finally:
            self._agree_on(-1)

    def lend(self) -> None:
        """For all ranks but 0 of the group: send it what it asks for, while it is `borrowing`."""
        while (number := self._agree_on(-1)) >= 0:
            self._broadcast(self._parameters[number], sync=True)

    def _agree_on(self, number: int) -> int:
        """The number that rank 0 of the group gives, on every rank."""
        sent = paddle.to_tensor([number], dtype="int64")
        dist.broadcast(sent, src=self.group.src_rank, group=self.group.handle)
        return int(sent)

    # Gathering and releasing.

    @paddle.no_grad()
    def _broadcast(self, parameter: Tensor, sync: bool = False) -> tuple[Tensor, Any]:
        """The memory that gets the parameter's values from its owner, and the task that fills it."""
        owner = self._owner[parameter.name]
        if owner == self.group.rank:
            values = parameter.detach()
        else:
            values = paddle.empty(parameter.shape, dtype=parameter.dtype)
        source = self.group.handle.ranks[owner]
        return values, dist.broadcast(values, src=source, group=self.group.handle, sync_op=sync)

    def _start_gather(self, unit: int) -> None:
        """Begin to gather a unit, which is used soon; with NCCL beside the computation."""
        if unit in self._present or unit in self._arriving or unit not in self._units:
            return
        self._arriving[unit] = [self._start(parameter) for parameter in self._units[unit]]

    def _start(self, parameter: Tensor) -> Callable[[], None]:
        values, task = self._broadcast(parameter)

        def finish() -> None:
            task.wait()
            if self._owner[parameter.name] != self.group.rank:
                values._share_buffer_to(parameter)

        return finish

    def _gather(self, unit: int) -> None:
        self._start_gather(unit)
        for finish in self._arriving.pop(unit, ()):
            finish()
        self._present.add(unit)

    def _release(self, unit: int) -> None:
        """Give back the memory of a unit's parameters that other ranks own."""
        for finish in self._arriving.pop(unit, ()):
            finish()  # gathered in vain: what arrives needs its memory until it is there
        self._present.discard(unit)
        for parameter in self._units.get(unit, ()):
            if self._owner[parameter.name] != self.group.rank:
                parameter._clear_data()

    def _release_all(self) -> None:
        for unit in self._units:
            self._release(unit)

    # Hooks.

    def _before_model(self, *_: Any) -> Any:
        if not self._whole:
            self._gather(_ROOT)
            self._start_gather(0)

    def _after_model(self, *_: Any) -> Any:
        self._backward = paddle.is_grad_enabled()
        if not (self._backward or self._whole):
            self._release_all()

    def _before_block(self, index: int) -> None:
        if self._whole:
            return
        if self._backward:  # recomputed there
            self._before_backward(index)
            return
        self._gather(index)
        self._start_gather(index + 1)

    def _after_block(self, index: int, output: Tensor) -> None:
        if self._whole or self._backward:
            return
        self._release(index)
        if paddle.is_grad_enabled() and not output.stop_gradient:
            output.register_hook(lambda _: self._before_backward(index))

    def _before_backward(self, index: int) -> None:
        """The next block is done with its weights: its inputs have their gradients."""
        self._release(index + 1)
        self._gather(index)
        self._start_gather(index - 1)


def _with_index(hook: Callable[..., None], index: int) -> Any:
    """A layer's hook that gets the block's index, and its output if there is one."""
    return lambda _layer, _inputs, *output: hook(index, *output)


def _units(blocks: Sequence[nn.Layer], parameters: Sequence[Tensor]) -> dict[int, list[Tensor]]:
    """{unit: its parameters}."""
    unit_of = {one.name: index for index, block in enumerate(blocks) for one in block.parameters()}
    units: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        units.setdefault(unit_of.get(parameter.name, _ROOT), []).append(parameter)
    return units
