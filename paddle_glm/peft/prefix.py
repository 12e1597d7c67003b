"""P-Tuning v2 (arXiv:2110.07602): trained keys and values prepended in every layer.

Reproduces `PrefixEncoder` and `get_prompt` of THUDM's modeling_chatglm.py; parameters have its names.
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.array_types import Array
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.kv_cache.tensors import PrefixCache
from paddle_glm.models.base import CausalLM
from paddle_glm.models.family import family_of
from paddle_glm.models.prefix_encoder import PREFIX_ENCODER
from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.collectives import copy_to_group
from paddle_glm.parallel.layers import linear, new_parameter
from paddle_glm.peft.adapter import Adapter
from paddle_glm.precision import autocast_disabled, compute_dtype
from paddle_glm.sharding import ParameterSpec, Segment, column_parallel

PREFIX_WEIGHTS_FILE, PREFIX_CONFIG_FILE = "prefix_model.safetensors", "prefix_config.json"
PREFIX_DROPOUT = 0.1  # of the prefix's keys and values in training, as in the original


class _Float32Parameters(nn.Layer):
    """Float32 parameters {name: shape}."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, new_parameter(self, shape, "float32"))


class PrefixEncoder(nn.Layer):
    """An embedding of keys and values, optionally followed by a two-layer MLP (prefix_projection).

    Its parameters are float32 and replicated; each rank uses the keys and values of its heads.
    """

    def __init__(self, config: ModelConfig, group: ProcessGroup, dtype: paddle.dtype, dropout: float) -> None:
        """dtype: of the model's weights; the output has the model's compute dtype."""
        super().__init__()
        shapes = {
            name.removeprefix(f"{PREFIX_ENCODER}."): spec.shape
            for name, spec in _prefix_specs(config).items()
        }
        self.config, self.group, self.dropout = config, group, dropout
        self.weight_dtype = dtype
        self.embedding = _Float32Parameters(weight=shapes["embedding.weight"])
        self.trans: nn.Sequential | None = None
        if config.prefix_projection:
            first, second = (
                _Float32Parameters(weight=shapes[f"trans.{index}.weight"], bias=shapes[f"trans.{index}.bias"])
                for index in (0, 2)
            )
            self.trans = nn.Sequential(first, nn.Tanh(), second)
        heads = column_parallel(Segment(config.num_key_value_heads, config.num_key_value_heads))
        ((self.head_start, self.head_stop),) = heads.local_ranges(group.rank, group.degree)

    def forward(self, batch: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """(key, value) of each layer, [batch, local key/value heads, pre_seq_len, head_dim] each."""
        config, rows = self.config, self.embedding.weight
        with autocast_disabled():
            if self.trans is not None:
                first, tanh, second = self.trans
                rows = linear(tanh(linear(rows, first.weight, first.bias)), second.weight, second.bias)
            # Each rank uses other heads, so gradients of the replicated parameters are summed.
            rows = copy_to_group(rows, self.group)
            shape = [config.pre_seq_len, 2 * config.num_layers, config.num_key_value_heads, config.head_dim]
            # (length, 2 layers, heads, head_dim) -> (2 layers, batch, heads, length, head_dim)
            pairs = rows.reshape(shape).transpose([1, 2, 0, 3]).unsqueeze(1)
            pairs = pairs.expand([-1, batch, -1, -1, -1])
            if self.training and self.dropout:
                pairs = F.dropout(pairs, self.dropout)  # before sharding: the same mask on all ranks
            pairs = pairs[:, :, self.head_start : self.head_stop].astype(compute_dtype(self.weight_dtype))
        tensors = pairs.unbind(axis=0)
        return tuple(zip(tensors[::2], tensors[1::2], strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, *_: Any) -> None:
        """Set the parameters from arrays or tensors of any library, by their names within the encoder.

        Raises `InputError` for a wrong shape and, if strict, for missing or unknown names.
        """
        parameters = dict(self.named_parameters())
        if strict and (mismatched := parameters.keys() ^ state_dict.keys()):
            raise InputError(
                f"the prefix encoder has {', '.join(parameters)}: check {', '.join(sorted(mismatched))} "
                f"(names without {PREFIX_ENCODER}.; only prefix_projection has trans.*)"
            )
        arrays = {name: _float_array(state_dict[name]) for name in parameters.keys() & state_dict.keys()}
        for name, array in arrays.items():
            if array.shape != tuple(parameters[name].shape):
                raise InputError(
                    f"{name} is {list(array.shape)}, the model's {list(parameters[name].shape)}: give the "
                    "pre_seq_len and prefix_projection that it was trained with"
                )
        for name, array in arrays.items():
            parameters[name].set_value(array)


def _float_array(tensor: Any) -> Array:
    """A float32 numpy array of an array or a tensor of any library."""
    if isinstance(tensor, Tensor):
        tensor = tensor.astype("float32")
    elif hasattr(tensor, "detach"):  # PyTorch's: numpy has no bfloat16
        tensor = tensor.detach().cpu().float()
    return np.asarray(tensor).astype(np.float32)


def attach_prefix(
    model: CausalLM, length: int, projection: bool, dropout: float = PREFIX_DROPOUT, seed: int = 0
) -> Adapter:
    """Attach an untrained prefix of `length` tokens; a prefix that the model already has is kept.

    Initial values are distributed as in the original and depend only on `seed` and names. Raises `InputError`
    if the model has a prefix of another length or projection.
    """
    config = model.config
    if config.pre_seq_len is not None:
        if (config.pre_seq_len, config.prefix_projection) != (length, projection):
            raise InputError(
                f"the model has a prefix of pre_seq_len {config.pre_seq_len}, prefix_projection "
                f"{config.prefix_projection}, but {length} and {projection} were requested: give the same"
            )
        model.transformer.prefix_encoder.dropout = dropout
        return _prefix_adapter(model)
    model.config = replace(config, pre_seq_len=length, prefix_projection=projection)
    attach_prefix_encoder(model, dropout)
    adapter = _prefix_adapter(model)
    adapter.load_arrays({name: _initial_value(name, adapter.specs, seed) for name in adapter.specs})
    return adapter


def attach_prefix_encoder(model: CausalLM, dropout: float = PREFIX_DROPOUT) -> None:
    """Attach the prefix encoder of the model's configuration, its parameters zero until loaded."""
    encoder = PrefixEncoder(model.config, model.group, model.weight_dtype, dropout)
    if not model.training:
        encoder.eval()
    model.transformer.add_sublayer("prefix_encoder", encoder)
    assert model.config.pre_seq_len is not None
    model.prefix_cache = PrefixCache(model.config.pre_seq_len, encoder)


def load_prefix(model: CausalLM, folder: str | Path) -> Adapter:
    """Attach the prefix in a folder: ours, or a THUDM checkpoint that contains it, alone or with the model.

    Raises what `read_fitting_prefix` does, and `InputError` if the model has a prefix of another length or
    projection.
    """
    config, arrays = read_fitting_prefix(folder, model.config)
    assert config.pre_seq_len is not None
    adapter = attach_prefix(model, config.pre_seq_len, config.prefix_projection)
    adapter.load_arrays(arrays)
    return adapter


@paddle.no_grad()
def open_prefix(model: CausalLM, folder: str | Path) -> PrefixCache:
    """Keys and values of the prefix in a folder, as for `load_prefix`; the model's own stays as it is."""
    config, arrays = read_fitting_prefix(folder, model.config)
    encoder = PrefixEncoder(config, model.group, model.weight_dtype, dropout=0.0)
    encoder.load_state_dict({name.removeprefix(f"{PREFIX_ENCODER}."): one for name, one in arrays.items()})
    computed = [(key.contiguous(), value.contiguous()) for key, value in encoder(1)]

    def key_values(batch: int) -> tuple[tuple[Tensor, Tensor], ...]:
        shape = [batch, -1, -1, -1]
        return tuple((key.expand(shape), value.expand(shape)) for key, value in computed)

    assert config.pre_seq_len is not None
    return PrefixCache(config.pre_seq_len, key_values)


def read_fitting_prefix(folder: str | Path, config: ModelConfig) -> tuple[ModelConfig, dict[str, Array]]:
    """A model's configuration with the prefix in a folder, and the prefix's tensors by hub name.

    Raises `InputError` if the folder has no prefix, or one of a model with other sizes.
    """
    arrays = read_prefix(Path(folder))
    embedding = arrays.get(f"{PREFIX_ENCODER}.embedding.weight")
    if embedding is None or embedding.ndim != 2:
        raise _no_prefix_error(folder)
    projection = f"{PREFIX_ENCODER}.trans.0.weight" in arrays
    config = replace(config, pre_seq_len=len(embedding), prefix_projection=projection)
    expected = {name: spec.shape for name, spec in _prefix_specs(config).items()}
    actual = {name: array.shape for name, array in arrays.items()}
    if actual != expected:
        differences = ", ".join(
            f"{name} {actual.get(name)}, expected {expected.get(name)}"
            for name in sorted(actual.keys() | expected.keys())
            if actual.get(name) != expected.get(name)
        )
        raise InputError(f"{folder}: the prefix does not fit the model ({config.family}): {differences}")
    return config, arrays


def read_prefix(folder: Path) -> dict[str, Array]:
    """{hub name: array} of the prefix encoder's tensors in a folder; empty if it has none."""
    if (folder / PREFIX_WEIGHTS_FILE).is_file():
        return open_safetensors(folder / PREFIX_WEIGHTS_FILE)
    checkpoint = open_checkpoint(folder)
    names = [name for name in checkpoint.names() if name.startswith(f"{PREFIX_ENCODER}.")]
    return {name: checkpoint.read(name) for name in names}


def check_prefix_folder(folder: str | Path, length: int | None, projection: bool = False) -> None:
    """Raise `InputError` if the folder's prefix has another length than `length`, or lacks a projection.

    length: the value of --pre_seq_len; None: any. projection: the prefix must have one.
    """
    if length is None and not projection:
        return
    arrays = read_prefix(Path(folder))
    embedding = arrays.get(f"{PREFIX_ENCODER}.embedding.weight")
    if embedding is None:
        raise _no_prefix_error(folder)
    if length is not None and len(embedding) != length:
        raise InputError(
            f"{folder} has a prefix of {len(embedding)} tokens, not {length}: give --pre_seq_len "
            f"{len(embedding)}, or leave it out"
        )
    if projection and f"{PREFIX_ENCODER}.trans.0.weight" not in arrays:
        raise InputError(f"--prefix_projection: {folder} has a prefix without projection; leave it out")


def _no_prefix_error(folder: str | Path) -> InputError:
    return InputError(f"{folder} has no prefix: expected tensors {PREFIX_ENCODER}.*, as P-Tuning saves")


def _prefix_adapter(model: CausalLM) -> Adapter:
    config, specs = model.config, _prefix_specs(model.config)
    config_values = {
        "family": config.family,
        "pre_seq_len": config.pre_seq_len,
        "prefix_projection": config.prefix_projection,
    }
    tensors = {name: value for name, value in model.named_parameters() if name in specs}
    return Adapter(
        model,
        tensors,
        specs,
        {name: name for name in specs},
        PREFIX_WEIGHTS_FILE,
        PREFIX_CONFIG_FILE,
        config_values,
    )


def _prefix_specs(config: ModelConfig) -> dict[str, ParameterSpec]:
    specs = family_of(config).parameters(config)
    return {name: spec for name, spec in specs.items() if name.startswith(f"{PREFIX_ENCODER}.")}


def _initial_value(name: str, specs: Mapping[str, ParameterSpec], seed: int) -> Array:
    """PyTorch's defaults, as in the original: normal(0, 1) for embeddings, uniform(-1/sqrt(in), 1/sqrt(in))
    for linear layers.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shape = specs[name].shape
    if ".embedding." in name:
        return generator.standard_normal(shape, np.float32)
    inputs = specs[name.rpartition(".")[0] + ".weight"].shape[1]
    return generator.uniform(-(inputs**-0.5), inputs**-0.5, shape).astype(np.float32)
