"""A folder, exported or not, opened with everything that generation needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_glm.auto.backend import backends_for, is_exported, make_options, open_backend
from paddle_glm.auto.dygraph import check_adapters, load_adapters
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.base import Backend
from paddle_glm.backends.generation_defaults import default_generation_params
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.peft.adapter_folder import check_is_model_folder
from paddle_glm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Engine:
    """A backend, its tokenizer, and the generation defaults of the folder they came from."""

    backend: Backend
    tokenizer: Tokenizer
    params: GenerationParams


def open_engine(
    folder: str | Path,
    backend: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> Engine:
    """Open an exported folder with an inference engine, or a model folder with dygraph.

    folder: also FOLDER/PREFIX, where PREFIX is the name of the graph in an exported FOLDER.
    backend: a name in `BACKENDS`; None takes the first that reads what the folder holds.
    adapters: name -> folder of a LoRA adapter or of a prefix (P-Tuning v2), that rows of a batch choose from.
    options: those of the backend, such as device="cpu", cpu_threads=4.
    Raises `InputError` for a folder that is missing, damaged or not for this backend, and for options that
    the backend does not take, before any weights are read.
    """
    path, prefix = _resolve_exported_folder(Path(folder), options.pop("model_prefix", None))
    if prefix is not None:
        options["model_prefix"] = prefix
    check_is_model_folder(path)
    if not path.is_dir():
        raise InputError(f"{path} not found: expected a model folder or one that `paddle-glm export` wrote")
    meta = GenerationMeta.read(path, prefix) if is_exported(path) else None
    name = backend or backends_for(None if meta is None else meta.format)[0]
    make_options(name, **options)
    family = options.get("family")
    if adapters:
        check_adapters(name, path, adapters, options.get("lora_path"), family)
    if meta is None:
        params = default_generation_params(ModelConfig.from_pretrained(path, family))
    else:
        params = meta.params()
    tokenizer = AutoTokenizer.from_pretrained(path, family)
    opened = open_backend(name, path, **options)
    if adapters:
        load_adapters(opened, adapters)
    return Engine(opened, tokenizer, params)


def _resolve_exported_folder(path: Path, prefix: str | None) -> tuple[Path, str | None]:
    """The folder and graph name that FOLDER with a prefix, or FOLDER/PREFIX, means; else as given.

    `export --output_path FOLDER/PREFIX` writes FOLDER for the prefixes that it knows, else FOLDER/PREFIX.
    """
    if is_exported(path):
        return path, prefix
    if prefix is not None and is_exported(path / prefix):
        return path / prefix, None
    if not path.exists() and is_exported(path.parent):
        return path.parent, path.name
    if prefix is not None and path.is_dir():
        raise InputError(f"{path} holds no graph {prefix!r} (--model_prefix) that `export` wrote")
    return path, prefix
