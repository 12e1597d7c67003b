"""The graph of one step: what it takes and gives, and how it is traced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn, pir
from paddle.static import InputSpec
from paddle.static.pir_io import normalize_pir_program

from paddle_glm.backends.generation_meta import GRAPH_SUFFIXES, PAST_LENGTH, TensorMeta
from paddle_glm.export.kernel_order import kernel_order
from paddle_glm.kernels.usage import operator_graph
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.graph import GraphLayer
from paddle_glm.kv_cache.tensors import PADDLE
from paddle_glm.models.base import CausalLM
from paddle_glm.numpy_interop import tensor_nbytes
from paddle_glm.precision import compute_dtype
from paddle_glm.progress import polled_progress


class OperatorGraph(nn.Layer):
    """The layer that is traced for native operators: they write the cache in place.

    It takes the number of columns in use, int64 [1], and a list of key and value of each layer in turn,
    float32 [batch, key_value_heads, capacity, head_dim]; it gives the logits.
    """

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

        @paddle.jit.not_to_static
        def step(*inputs: Any) -> Tensor:
            input_ids, position_ids, attention_mask, past, buffers = inputs
            pairs = zip(buffers[::2], buffers[1::2], strict=True)
            cache = KVCache([GraphLayer(key, value, past) for key, value in pairs])
            return model.forward_with_cache(input_ids, position_ids, attention_mask, cache)

        self.step: Callable[..., Tensor] = step

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        past: Tensor,
        buffers: list[Tensor],
    ) -> Tensor:
        return self.step(input_ids, position_ids, attention_mask, past, buffers)


class StepGraph(nn.Layer):
    """The layer that is traced: `CausalLM.forward_with_cache`, left as Python so that tracing follows it.

    Its cache is a list: key and value of each layer in turn, [batch, key_value_heads, past, head_dim] (past
    may be 0). It gives the logits, then the longer list. In it, columns of a prefix are as all others.
    """

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

        @paddle.jit.not_to_static
        def step(*inputs: Any) -> tuple[Tensor, ...]:
            input_ids, position_ids, attention_mask, past = inputs
            cache = KVCache.of(past, PADDLE)
            logits = model.forward_with_cache(input_ids, position_ids, attention_mask, cache)
            return (logits, *cache.tensors)

        self.step: Callable[..., tuple[Tensor, ...]] = step

    # The argument must be called `self`, and the list of caches is one argument, for to_static's sake.
    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        return self.step(input_ids, position_ids, attention_mask, past)


def graph_signature(
    model: CausalLM, native: bool = False
) -> tuple[tuple[TensorMeta, ...], tuple[TensorMeta, ...]]:
    """Inputs and outputs of the step graph, in order. native: with native operators."""
    config = model.config
    steps = tuple(
        TensorMeta(name, "int64", shape) for name, shape in model.family.step_input_shapes(config).items()
    )
    dtype = str(compute_dtype(model.weight_dtype)).removeprefix("paddle.")
    shape = (-1, config.num_key_value_heads, -1, config.head_dim)

    def caches(word: str) -> tuple[TensorMeta, ...]:
        return tuple(
            TensorMeta(f"{word}_{kind}_{layer}", dtype, shape)
            for layer in range(config.num_layers)
            for kind in ("key", "value")
        )

    logits = TensorMeta("logits", "float32", (-1, config.vocab_size))
    if native:
        return (*steps, TensorMeta(PAST_LENGTH, "int64", (1,)), *caches("past")), (logits,)
    return steps + caches("past"), (logits, *caches("present"))


def save_operator_graph(model: CausalLM, inputs: tuple[TensorMeta, ...], path: Path) -> None:
    """As `save_paddle_graph`, with native operators and weights in kernel order."""
    with kernel_order(model), operator_graph():
        _save(OperatorGraph(model), inputs, path)


def save_paddle_graph(model: CausalLM, inputs: tuple[TensorMeta, ...], path: Path) -> None:
    """Write `path`.json and `path`.pdiparams, what Paddle Inference reads."""
    _save(StepGraph(model), inputs, path)


def save_bare_graph(model: CausalLM, inputs: tuple[TensorMeta, ...], path: Path) -> None:
    """Write the portable graph without its weights, which it names after the parameters' own `name`.

    The parameters need no memory (`paddle.LazyGuard`). path: of the only file.
    """
    with paddle.no_grad():
        static = _static(StepGraph(model), inputs)  # the graph refers to it, and does not keep it
        traced = static.forward.concrete_program
        feed, fetch = (
            [value for value in paddle.utils.flatten(side) if isinstance(value, pir.Value)]
            for side in (traced.inputs, traced.outputs)
        )
        with paddle.pir_utils.IrGuard():
            program = normalize_pir_program(traced.main_program, feed, fetch)
            overwrite, readable, trainable = True, False, True
            paddle.core.serialize_pir_program(program, str(path), overwrite, readable, trainable)


def _save(graph: OperatorGraph | StepGraph, inputs: tuple[TensorMeta, ...], path: Path) -> None:
    with paddle.no_grad():
        static = _static(graph, inputs)
        weights = Path(f"{path}{GRAPH_SUFFIXES['paddle'][1]}")
        total = sum(tensor_nbytes(parameter) for parameter in graph.parameters())
        with polled_progress(
            f"writing {weights}", total, lambda: weights.stat().st_size if weights.exists() else 0
        ):
            paddle.jit.save(static, str(path))


def _static(graph: OperatorGraph | StepGraph, inputs: tuple[TensorMeta, ...]) -> Any:
    """The layer, to be traced with `inputs`."""
    specs = [InputSpec(one.shape, getattr(paddle, one.dtype), one.name) for one in inputs]
    count = len(inputs) - 2 * graph.model.config.num_layers
    return paddle.jit.to_static(graph, input_spec=[*specs[:count], specs[count:]], full_graph=True)
