"""A folder, exported or not, as something that answers."""

from dataclasses import dataclass, replace
from pathlib import Path

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends import BACKENDS_BY_FORMAT, Backend, EngineOptions
from paddle_glm.backends.generation_defaults import default_generation_params
from paddle_glm.backends.generation_meta import META_FILE_NAME, GenerationMeta
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Engine:
    """A backend, its tokenizer, and the sampling defaults of the folder they came from."""

    backend: Backend
    tokenizer: Tokenizer
    params: GenerationParams


def is_exported(folder: str | Path) -> bool:
    """Whether `paddle-glm export` wrote the folder."""
    return (Path(folder) / META_FILE_NAME).is_file()


def _resolve_exported_folder(path: Path, options: EngineOptions) -> tuple[Path, EngineOptions]:
    """The folder that FOLDER with a prefix, or FOLDER/PREFIX, means; the path itself where it is another's.

    `export --output_path FOLDER/PREFIX` writes FOLDER for the prefixes that it knows, else FOLDER/PREFIX.
    """
    if is_exported(path):
        return path, options
    if options.prefix is not None and is_exported(path / options.prefix):
        return path / options.prefix, replace(options, prefix=None)
    if not path.exists() and is_exported(path.parent):
        return path.parent, replace(options, prefix=path.name)
    if options.prefix is not None and path.is_dir():
        raise InputError(f"{path} holds no graph {options.prefix!r} (--model_prefix) that `export` wrote")
    return path, options


def open_engine(
    folder: str | Path, options: EngineOptions | None = None, backend: str | None = None
) -> Engine:
    """Open an exported folder with an inference engine, or a model folder with dygraph.

    backend: a name of `BACKENDS`; None takes the first that reads an exported folder's format. Raises
    `InputError` where the folder is missing, damaged, or not of the kind that the backend opens.
    """
    path, options = _resolve_exported_folder(Path(folder), options or EngineOptions())
    if not path.is_dir():
        raise InputError(f"{path} not found: expected a model folder or one that `paddle-glm export` wrote")
    meta = GenerationMeta.read(path) if is_exported(path) else None
    name = backend or (BACKENDS_BY_FORMAT[meta.format][0] if meta is not None else "dygraph")
    if meta is not None and name == "dygraph":
        raise InputError(f"{path} is an exported folder: backend 'dygraph' opens the model it was made from")
    if meta is None and name != "dygraph":
        raise InputError(
            f"{path} is no exported folder: backend {name!r} opens what `paddle-glm export` wrote"
        )
    if meta is not None and (options.ptuning_checkpoint or options.lora_path):
        raise InputError(f"{path} is an exported folder: prefixes and LoRA are given to `paddle-glm export`")
    if meta is not None:
        for flag in ("dtype", "family", "quantization_bit", "quantization_group_size"):
            if getattr(options, flag) not in (None, "auto"):
                raise InputError(f"{path} is an exported folder: --{flag} is given to `paddle-glm export`")
    # Said before a large model is read.
    params = (
        meta.params()
        if meta is not None
        else default_generation_params(ModelConfig.from_pretrained(path, options.family))
    )
    tokenizer = AutoTokenizer.from_pretrained(path, options.family)
    return Engine(open_backend(name, path, options), tokenizer, params)
