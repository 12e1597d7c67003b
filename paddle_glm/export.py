"""A model -> a folder with one static step graph, all that describes it, and the tokenizer.

Prefill and decode are the same graph: the past may have length zero. Batch and lengths are dynamic.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from paddle_glm.backends.meta import FirstCacheMeta, GenerationMeta, TensorMeta, sampling_defaults
from paddle_glm.checkpoint import atomic_folder
from paddle_glm.checkpoint.tensor_file import write_safetensors
from paddle_glm.checkpoint.tensors import as_lazy
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.session import stop_ids
from paddle_glm.models.base import CausalLM
from paddle_glm.precision import compute_dtype
from paddle_glm.tokenizers import Tokenizer

DEFAULT_PREFIX = "chatglm"


def export_model(
    model: CausalLM,
    tokenizer: Tokenizer,
    folder: str | Path,
    prefix: str = DEFAULT_PREFIX,
    sampling: GenerationParams | None = None,
    overwrite: bool = False,
) -> GenerationMeta:
    """Write `PREFIX.json`, `PREFIX.pdiparams`, `generation_meta.json`, `config.json` and the tokenizer.

    Weights are stored in the model's dtype; the caches have the dtype it computes in on this device
    (on CPU, float32 also for half weights). The folder appears whole or not at all.
    Raises `InputError` for a slice of a model, and for a folder that is in use and not to be replaced.
    """
    if model.group.degree > 1:
        raise InputError("export needs the whole model: merge the shards first (paddle-glm merge)")
    model.eval()
    config = replace(model.config, dtype=model.dtype)
    with atomic_folder(folder, overwrite=overwrite) as path:
        inputs, outputs = _tensors(model)
        _save_graph(model, inputs, path / prefix)
        config.save_pretrained(path)
        tokenizer.save_pretrained(path)
        first = _save_first_cache(model, inputs, path / f"{prefix}.first_cache.safetensors")
        names = [f"{prefix}.json", f"{prefix}.pdiparams", tokenizer.vocab_file]
        if first is not None:
            names.append(first.file)
        meta = GenerationMeta(
            family=config.family,
            prefix=prefix,
            stored_dtype=model.dtype,
            num_layers=config.num_layers,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            max_sequence_length=config.max_sequence_length,
            inputs=inputs,
            outputs=outputs,
            positions=model.family.position_rule(config),
            files={name: (path / name).stat().st_size for name in names},
            template=tokenizer.template.to_dict(),
            tokenizer_file=tokenizer.vocab_file,
            spelling=tokenizer.spelling(),
            special_tokens=tokenizer.special_tokens,
            stop_token_ids=stop_ids(tokenizer.template, tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            unk_token_id=tokenizer.unk_token_id,
            first_cache=first,
            sampling=sampling_defaults(sampling or GenerationParams()),
        )
        meta.write(path)
    return meta


@paddle.no_grad()
def _save_first_cache(model: CausalLM, inputs: tuple[TensorMeta, ...], path: Path) -> FirstCacheMeta | None:
    """Write the keys and values of the model's prefix; None where it has none."""
    if model.first_cache is None:
        return None
    tensors = [tensor for pair in model.first_cache.key_values(1) for tensor in pair]
    names = [one.name for one in inputs[len(inputs) - len(tensors) :]]
    arrays = {
        name: as_lazy(tensor.astype("float32").numpy()) for name, tensor in zip(names, tensors, strict=True)
    }
    write_safetensors(path, arrays)
    return FirstCacheMeta(path.name, model.first_cache.length)


class StepGraph(nn.Layer):
    """The layer that is traced: `CausalLM.prefill_step`, left as Python so that tracing follows it."""

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

        @paddle.jit.not_to_static
        def step(*inputs: Any) -> tuple[Tensor, ...]:
            return model.prefill_step(*inputs)

        self.step: Callable[..., tuple[Tensor, ...]] = step

    # The argument must be called `self`, and the list of caches is one argument, for to_static's sake.
    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        return self.step(input_ids, position_ids, attention_mask, past)


def _tensors(model: CausalLM) -> tuple[tuple[TensorMeta, ...], tuple[TensorMeta, ...]]:
    """Inputs and outputs of the step graph, in order."""
    config = model.config
    steps = tuple(
        TensorMeta(name, "int64", shape) for name, shape in model.family.step_shapes(config).items()
    )
    dtype = str(compute_dtype(model.stored_dtype)).removeprefix("paddle.")
    shape = (-1, config.num_key_value_heads, -1, config.head_dim)

    def caches(word: str) -> tuple[TensorMeta, ...]:
        return tuple(
            TensorMeta(f"{word}_{kind}_{layer}", dtype, shape)
            for layer in range(config.num_layers)
            for kind in ("key", "value")
        )

    logits = TensorMeta("logits", "float32", (-1, config.vocab_size))
    return steps + caches("past"), (logits, *caches("present"))


def _save_graph(model: CausalLM, inputs: tuple[TensorMeta, ...], path: Path) -> None:
    specs = [InputSpec(one.shape, getattr(paddle, one.dtype), one.name) for one in inputs]
    count = len(inputs) - 2 * model.config.num_layers
    with paddle.no_grad():
        static = paddle.jit.to_static(
            StepGraph(model), input_spec=[*specs[:count], specs[count:]], full_graph=True
        )
        paddle.jit.save(static, str(path))
