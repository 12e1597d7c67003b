"""A model -> a folder with one static step graph, all that describes it, and the tokenizer.

Prefill and decode are the same graph: the past may have length zero. Batch and lengths are dynamic.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import paddle

from paddle_glm.backends.generation_defaults import default_generation_params
from paddle_glm.backends.generation_meta import (
    GRAPH_SUFFIXES,
    GenerationMeta,
    PrefixCacheMeta,
    TensorMeta,
    sampling_defaults,
)
from paddle_glm.checkpoint import atomic_folder
from paddle_glm.checkpoint.lazy_tensor import LazyTensor, as_lazy
from paddle_glm.checkpoint.safetensors_file import write_safetensors
from paddle_glm.errors import InputError
from paddle_glm.export.onnx_export import check_onnx_dtype, check_target, save_onnx
from paddle_glm.export.step_graph import graph_signature, save_operator_graph, save_paddle_graph
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.session import template_stop_token_ids
from paddle_glm.kernels.library import kernel_library, operators_version
from paddle_glm.models.base import CausalLM, lazy_tensors
from paddle_glm.precision import compute_dtype
from paddle_glm.tokenizers import Tokenizer

DEFAULT_GRAPH_NAME = "chatglm"


def export_model(
    model: CausalLM,
    tokenizer: Tokenizer,
    folder: str | Path,
    prefix: str = DEFAULT_GRAPH_NAME,
    sampling: GenerationParams | None = None,
    overwrite: bool = False,
    format: str = "paddle",
    portable: bool = False,
    weights: Mapping[str, LazyTensor] | None = None,
    target: str = "portable",
    arithmetic: str = "int8",
) -> GenerationMeta:
    """Write the graph, `generation_meta.json`, `config.json` and the tokenizer.

    format: of the graph, a key of `GRAPH_SUFFIXES`. Weights are stored in the model's dtype; the caches have
    the dtype it computes in on this device (on CPU, float32 also for half weights). The folder appears
    whole or not at all. portable: use Paddle's operators only. Else a Paddle graph of quantised or half
    precision weights for a CPU uses the native operators (`kernels`) where they can be built, and whatever
    opens it needs them. weights: for format onnx, the values of a model whose parameters have no memory
    (`unloaded`); None: the model's own. target: how an ONNX graph multiplies with quantised weights, an item
    of `TARGETS`; arithmetic: for onnxruntime, "int8" (activations are rounded) or "float32".
    Raises `InputError` for a slice of a model, for one that the format cannot hold, and for a folder that
    is in use and not to be replaced.
    """
    if model.group.degree > 1:
        raise InputError("export needs the whole model: merge the shards first (paddle-glm merge)")
    if format not in GRAPH_SUFFIXES:
        raise InputError(f"format {format!r} is unknown: expected one of {', '.join(GRAPH_SUFFIXES)}")
    check_target(target, arithmetic, model.config.quantization_bit)
    if target != "portable" and format != "onnx":
        raise InputError(f"target {target}: only the format onnx has targets; give --format onnx")
    if format == "onnx":
        check_onnx_dtype(model.dtype)
        if compute_dtype(model.weight_dtype) != paddle.float32:
            raise InputError("format onnx: call paddle.set_device('cpu') first, its graphs compute float32")
    model.eval()
    config = replace(model.config, dtype=model.dtype)
    params = sampling or default_generation_params(config)
    with atomic_folder(folder, overwrite=overwrite) as path:
        native = format == "paddle" and not portable and _has_operators(model)
        inputs, outputs = graph_signature(model, native)
        if native:
            save_operator_graph(model, inputs, path / prefix)
        elif format == "onnx":
            values = dict(lazy_tensors(model.named_parameters())) if weights is None else weights
            save_onnx(model, values, inputs, outputs, path / prefix, target, arithmetic)
        else:
            save_paddle_graph(model, inputs, path / prefix)
        config.save_pretrained(path)
        tokenizer.save_pretrained(path)
        first = _save_prefix_cache(model, inputs, path / f"{prefix}.first_cache.safetensors")
        names = [*(prefix + suffix for suffix in GRAPH_SUFFIXES[format]), tokenizer.vocab_file]
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
            spelling=tokenizer.tokenizer_spec(),
            special_tokens=tokenizer.special_tokens,
            stop_token_ids=params.eos_token_ids or template_stop_token_ids(tokenizer.template, tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            unk_token_id=tokenizer.unk_token_id,
            first_cache=first,
            sampling=sampling_defaults(params),
            format=format,
            operators=operators_version() if native else 0,
            target=target,
        )
        meta.write(path)
    return meta


def _has_operators(model: CausalLM) -> bool:
    """Whether the native operators compute with the model's weights on this device."""
    small = bool(model.config.quantization_bit) or model.dtype != "float32"
    return small and bool(paddle.get_device() == "cpu") and kernel_library() is not None


@paddle.no_grad()
def _save_prefix_cache(model: CausalLM, inputs: tuple[TensorMeta, ...], path: Path) -> PrefixCacheMeta | None:
    """Write the keys and values of the model's prefix; None where it has none."""
    if model.prefix_cache is None:
        return None
    tensors = [tensor for pair in model.prefix_cache.key_values(1) for tensor in pair]
    names = [one.name for one in inputs[len(inputs) - len(tensors) :]]
    arrays = {
        name: as_lazy(tensor.astype("float32").numpy()) for name, tensor in zip(names, tensors, strict=True)
    }
    write_safetensors(path, arrays)
    return PrefixCacheMeta(path.name, model.prefix_cache.length)
