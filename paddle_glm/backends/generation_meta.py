"""`generation_meta.json`: everything a program needs to generate with an exported graph.

The exporter writes it; Python and C++ read it, so prompts, ids and shapes are defined once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from paddle_glm.chat_template import ChatTemplate, template_from_dict
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams

META_FILE_NAME = "generation_meta.json"
FORMAT_VERSION = 2
# Format of the graph -> suffixes of its files, after the model prefix.
GRAPH_SUFFIXES = {"paddle": (".json", ".pdiparams"), "onnx": (".onnx", ".onnx.data")}
# What the products of an ONNX graph with quantised weights are written for: any engine, which widens the
# integers, or one that multiplies them as they are.
TARGETS = ("portable", "onnxruntime", "openvino")
# What ONNX Runtime multiplies integers with: activations rounded to 8 bits, or as they are.
ONNX_ARITHMETICS = ("int8", "float32")
# Later additions: folders without them have the defaults.
_OPTIONAL_KEYS = {"format", "operators", "target"}
# The input of graphs with native operators that says how many columns of the caches are in use, int64 [1].
PAST_LENGTH = "past_length"
# Fields of GenerationParams that belong to a tokenizer or to one call, not to a model.
_PER_CALL_FIELDS = ("eos_token_ids", "pad_token_id", "seed")


@dataclass(frozen=True)
class TensorMeta:
    """An input or output of the graph; -1 in `shape` is a dynamic size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PrefixCacheMeta:
    """A trained prefix: a safetensors file of float32 [1, key/value heads, length, head_dim].

    Its tensors have the names of the graph's cache inputs, which begin as their copies, one for each row.
    The attention mask has `length` ones in front of each row's own; positions do not count them.
    """

    file: str
    length: int


@dataclass(frozen=True)
class GenerationMeta:
    """Graph, model, prompt and sampling of one exported folder.

    inputs: the family's step inputs, then key and value cache of each layer in turn; outputs: the last
        position's logits [batch, vocab], then the grown caches in the same order.
    operators: 0 for a graph of Paddle's operators alone. Else the version of the native operators (`kernels`)
        that the graph needs; its quantised weights are in kernel order, and it writes the caches in place:
        they are buffers with room for the step's tokens, in front of them is the input `PAST_LENGTH`, and
        the logits are its only output.
    positions: the family's `position_rule`. spelling: the tokenizer's `tokenizer_spec()`.
    files: name -> size in bytes, of the graph, its weights and the tokenizer.
    first_cache: the file of what the cache holds before a prompt, None where it is empty.
    format: a key of `GRAPH_SUFFIXES`. target: of an ONNX graph, one of `TARGETS`.
    special_tokens: name -> id; stop_token_ids end an answer. sampling: defaults of `GenerationParams`.
    """

    family: str
    prefix: str
    stored_dtype: str
    num_layers: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_sequence_length: int
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    positions: Mapping[str, Any]
    files: Mapping[str, int]
    template: Mapping[str, Any]
    tokenizer_file: str
    spelling: Mapping[str, Any]
    special_tokens: Mapping[str, int]
    stop_token_ids: tuple[int, ...]
    eos_token_id: int
    pad_token_id: int
    bos_token_id: int
    unk_token_id: int | None
    first_cache: PrefixCacheMeta | None = None
    sampling: Mapping[str, Any] = field(default_factory=lambda: sampling_defaults(GenerationParams()))
    format: str = "paddle"
    operators: int = 0
    target: str = TARGETS[0]
    format_version: int = FORMAT_VERSION

    @property
    def graph_files(self) -> tuple[str, ...]:
        """The names of the graph's files in the folder: the graph first, then its weights where apart.

        ONNX files of earlier versions hold their weights.
        """
        names = (self.prefix + suffix for suffix in GRAPH_SUFFIXES[self.format])
        return tuple(name for name in names if name in self.files)

    @property
    def cache_inputs(self) -> tuple[TensorMeta, ...]:
        """The inputs that hold the past: two for each layer, at the end."""
        return self.inputs[len(self.inputs) - 2 * self.num_layers :]

    @property
    def step_inputs(self) -> tuple[TensorMeta, ...]:
        """The inputs that are computed from tokens, at the start."""
        return self.inputs[: len(self.inputs) - 2 * self.num_layers - bool(self.operators)]

    def upcasts_weights(self, config: ModelConfig) -> bool:
        """Whether the graph upcasts stored weights, quantised or half precision, where it uses them.

        config: the folder's.
        """
        return bool(config.quantization_bit) or self.stored_dtype != self.cache_inputs[0].dtype

    def chat_template(self) -> ChatTemplate:
        return template_from_dict(dict(self.template))

    def params(self) -> GenerationParams:
        """The sampling defaults with the model's end and padding ids."""
        ids = {"eos_token_ids": self.stop_token_ids, "pad_token_id": self.pad_token_id}
        return GenerationParams.from_dict({**self.sampling, **ids})

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1)
        (folder / META_FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, prefix: str | None = None) -> "GenerationMeta":
        """The meta data of an exported folder, after checking that its files are whole.

        Raises `InputError` where the folder, a file or a key is missing, a file is cut off, the format
        is another version's, or the graph has another name than `prefix`.
        """
        path = folder / META_FILE_NAME
        if not path.is_file():
            raise InputError(f"{path} not found: expected a folder that `paddle-glm export` wrote")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON ({error}): export the model again") from error
        meta = cls._from_dict(values, path)
        if prefix is not None and prefix != meta.prefix:
            raise InputError(f"{folder} holds the graph {meta.prefix!r}, not {prefix!r} (--model_prefix)")
        for name, size in meta.files.items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes of {size}"
                raise InputError(f"{folder / name} {state}: copy or export the folder again")
        return meta

    @classmethod
    def _from_dict(cls, values: Any, path: Path) -> "GenerationMeta":
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path} has format version {version!r}, this program reads {FORMAT_VERSION}: "
                "export the model again with this version"
            )
        wrong = ({option.name for option in fields(cls)} ^ set(values)) - _OPTIONAL_KEYS
        if wrong:
            raise InputError(f"{path}: missing or unknown {', '.join(sorted(wrong))}; export the model again")
        if (found := values.get("format", cls.format)) not in GRAPH_SUFFIXES:
            raise InputError(
                f"{path}: format {found!r} is unknown: expected one of {', '.join(GRAPH_SUFFIXES)}"
            )
        if (target := values.get("target", cls.target)) not in TARGETS:
            raise InputError(f"{path}: target {target!r} is unknown: expected one of {', '.join(TARGETS)}")
        tensors = {
            side: tuple(TensorMeta(one["name"], one["dtype"], tuple(one["shape"])) for one in values[side])
            for side in ("inputs", "outputs")
        }
        first = values["first_cache"]
        first = None if first is None else PrefixCacheMeta(**first)
        stops = tuple(values["stop_token_ids"])
        return cls(**{**values, **tensors, "stop_token_ids": stops, "first_cache": first})


def sampling_defaults(params: GenerationParams) -> dict[str, Any]:
    """What `meta.sampling` holds; null, as `max_new_tokens` has it for no limit, is left out."""
    values = asdict(params).items()
    return {name: value for name, value in values if name not in _PER_CALL_FIELDS and value is not None}
