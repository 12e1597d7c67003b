"""P-Tuning v2 (arXiv:2110.07602): trained keys and values in front of every layer's own.

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
PREFIX_DROPOUT = 0.1  # the original's, of keys and values in training


class _Float32Parameters(nn.Layer):
    """Float32 parameters of the shapes given, by the names given."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, new_parameter(self, shape, "float32"))


class PrefixEncoder(nn.Layer):
    """An embedding of keys and values, with a projection of two layers behind it where one is configured.

    Its parameters are float32 and whole on every process of the group, which uses those of its heads.
    """

    def __init__(self, config: ModelConfig, group: ProcessGroup, dtype: paddle.dtype, dropout: float) -> None:
        """dtype: what the model's weights are stored in; the results are in what it computes in."""
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
        """For each layer key and value, [batch, local key/value heads, pre_seq_len, head_dim]."""
        config, rows = self.config, self.embedding.weight
        with autocast_disabled():
            if self.trans is not None:
                first, tanh, second = self.trans
                rows = linear(tanh(linear(rows, first.weight, first.bias)), second.weight, second.bias)
            # Heads are used by other processes too: their gradients come together here.
            rows = copy_to_group(rows, self.group)
            shape = [config.pre_seq_len, 2 * config.num_layers, config.num_key_value_heads, config.head_dim]
            # (length, 2 layers, heads, head_dim) -> (2 layers, batch, heads, length, head_dim)
            pairs = rows.reshape(shape).transpose([1, 2, 0, 3]).unsqueeze(1)
            pairs = pairs.expand([-1, batch, -1, -1, -1])
            if self.training and self.dropout:
                pairs = F.dropout(pairs, self.dropout)  # before the cut, so that all processes drop alike
            pairs = pairs[:, :, self.head_start : self.head_stop].astype(compute_dtype(self.weight_dtype))
        tensors = pairs.unbind(axis=0)
        return tuple(zip(tensors[::2], tensors[1::2], strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, *_: Any) -> None:
        """Set the parameters from arrays or tensors of any library, by their names below the encoder.

        strict: raise `InputError` for names that are missing or unknown; other shapes are always one.
        """
        held = dict(self.named_parameters())
        wrong = held.keys() ^ state_dict.keys() if strict else set()
        if wrong:
            raise InputError(
                f"the prefix encoder holds {', '.join(held)}: check {', '.join(sorted(wrong))} (names begin "
                f"behind {PREFIX_ENCODER}., and prefix_projection decides about trans.*)"
            )
        arrays = {name: _float_array(state_dict[name]) for name in held.keys() & state_dict.keys()}
        for name, array in arrays.items():
            if array.shape != tuple(held[name].shape):
                raise InputError(
                    f"{name} is {list(array.shape)}, the model's {list(held[name].shape)}: give the "
                    "pre_seq_len and prefix_projection that it was trained with"
                )
        for name, array in arrays.items():
            held[name].set_value(array)


def _float_array(tensor: Any) -> Array:
    """float32 numpy array of an array, or of a tensor of any library."""
    if isinstance(tensor, Tensor):
        tensor = tensor.astype("float32")
    elif hasattr(tensor, "detach"):  # PyTorch's: numpy has no bfloat16
        tensor = tensor.detach().cpu().float()
    return np.asarray(tensor).astype(np.float32)


def attach_prefix(
    model: CausalLM, length: int, projection: bool, dropout: float = PREFIX_DROPOUT, seed: int = 0
) -> Adapter:
    """Put an untrained prefix in front of the model's rows; training the adapter trains it alone.

    The numbers it starts from are distributed as the original's and depend on `seed` and names alone.
    Raises `InputError` where the model has a prefix of another kind.
    """
    held = model.config
    if held.pre_seq_len is not None:
        if (held.pre_seq_len, held.prefix_projection) != (length, projection):
            raise InputError(
                f"the model has a prefix of pre_seq_len {held.pre_seq_len}, prefix_projection "
                f"{held.prefix_projection}, but {length} and {projection} are wanted: give the same"
            )
        model.transformer.prefix_encoder.dropout = dropout
        return _prefix_adapter(model)
    model.config = replace(held, pre_seq_len=length, prefix_projection=projection)
    attach_prefix_encoder(model, dropout)
    adapter = _prefix_adapter(model)
    adapter.load_arrays({name: _initial_value(name, adapter.specs, seed) for name in adapter.specs})
    return adapter


def attach_prefix_encoder(model: CausalLM, dropout: float = PREFIX_DROPOUT) -> None:
    """The encoder that the model's configuration names, with parameters still to be filled."""
    encoder = PrefixEncoder(model.config, model.group, model.weight_dtype, dropout)
    if not model.training:
        encoder.eval()
    model.transformer.add_sublayer("prefix_encoder", encoder)
    assert model.config.pre_seq_len is not None
    model.prefix_cache = PrefixCache(model.config.pre_seq_len, encoder)


def load_prefix(model: CausalLM, folder: str | Path) -> Adapter:
    """Give the model the prefix in a folder: ours, or a checkpoint of THUDM's that holds it (alone or not).

    Raises `InputError` where the folder holds none, or one of a model with other sizes.
    """
    arrays = read_prefix(Path(folder))
    first = f"{PREFIX_ENCODER}.embedding.weight"
    if first not in arrays or arrays[first].ndim != 2:
        raise _no_prefix_error(folder)
    adapter = attach_prefix(model, len(arrays[first]), f"{PREFIX_ENCODER}.trans.0.weight" in arrays)
    expected = {name: spec.shape for name, spec in adapter.specs.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        odd = ", ".join(
            f"{name} {found.get(name)}, expected {expected.get(name)}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        )
        raise InputError(f"{folder}: the prefix does not fit the model ({model.config.family}): {odd}")
    adapter.load_arrays(arrays)
    return adapter


def read_prefix(folder: Path) -> dict[str, Array]:
    """The prefix encoder's tensors in a folder, by hub name."""
    if (folder / PREFIX_WEIGHTS_FILE).is_file():
        return open_safetensors(folder / PREFIX_WEIGHTS_FILE)
    checkpoint = open_checkpoint(folder)
    names = [name for name in checkpoint.names() if name.startswith(f"{PREFIX_ENCODER}.")]
    return {name: checkpoint.read(name) for name in names}


def check_prefix_folder(folder: str | Path, length: int | None, projection: bool = False) -> None:
    """Raise `InputError` where the folder's prefix has another length than a flag says (None: it says
    nothing), or no network where `projection` asks for one.
    """
    if length is None and not projection:
        return
    arrays = read_prefix(Path(folder))
    first = arrays.get(f"{PREFIX_ENCODER}.embedding.weight")
    if first is None:
        raise _no_prefix_error(folder)
    if length is not None and len(first) != length:
        raise InputError(
            f"{folder} holds a prefix of {len(first)} tokens, not {length}: give --pre_seq_len {len(first)}, "
            "or leave it out"
        )
    if projection and f"{PREFIX_ENCODER}.trans.0.weight" not in arrays:
        raise InputError(f"--prefix_projection: {folder} holds a prefix without projection; leave it out")


def _no_prefix_error(folder: str | Path) -> InputError:
    return InputError(f"{folder} holds no prefix: expected tensors {PREFIX_ENCODER}.*, as P-Tuning saves")


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
    table = family_of(config).parameters(config)
    return {name: spec for name, spec in table.items() if name.startswith(f"{PREFIX_ENCODER}.")}


def _initial_value(name: str, specs: Mapping[str, ParameterSpec], seed: int) -> Array:
    """Torch's defaults, which the original starts from: normal(0, 1), and for linear layers
    uniform(-1/sqrt(inputs), 1/sqrt(inputs)).
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shape = specs[name].shape
    if ".embedding." in name:
        return generator.standard_normal(shape, np.float32)
    inputs = specs[name.rpartition(".")[0] + ".weight"].shape[1]
    return generator.uniform(-(inputs**-0.5), inputs**-0.5, shape).astype(np.float32)
