"""A folder, exported or not, as something that answers."""

from dataclasses import dataclass
from pathlib import Path

from paddle_glm.backends import READERS, Backend, EngineOptions, open_backend
from paddle_glm.backends.meta import FILE_NAME, GenerationMeta
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.tokenizers import AutoTokenizer, Tokenizer


@dataclass(frozen=True)
class Engine:
    """A backend, its tokenizer, and the sampling defaults of the folder they came from."""

    backend: Backend
    tokenizer: Tokenizer
    params: GenerationParams


def is_exported(folder: str | Path) -> bool:
    """Whether `paddle-glm export` wrote the folder."""
    return (Path(folder) / FILE_NAME).is_file()


def open_engine(
    folder: str | Path, options: EngineOptions | None = None, backend: str | None = None
) -> Engine:
    """Open an exported folder with an inference engine, or a model folder with dygraph.

    backend: a name of `BACKENDS`; None takes the first that reads an exported folder's format. Raises
    `InputError` where the folder is missing, damaged, or not of the kind that the backend opens.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"{path} not found: expected a model folder or one that `paddle-glm export` wrote")
    meta = GenerationMeta.read(path) if is_exported(path) else None
    name = backend or (READERS[meta.format][0] if meta is not None else "dygraph")
    if meta is not None and name == "dygraph":
        raise InputError(f"{path} is an exported folder: backend 'dygraph' opens the model it was made from")
    if meta is None and name != "dygraph":
        raise InputError(
            f"{path} is no exported folder: backend {name!r} opens what `paddle-glm export` wrote"
        )
    if meta is not None and options and (options.ptuning_checkpoint or options.lora_path):
        raise InputError(f"{path} is an exported folder: prefixes and LoRA are given to `paddle-glm export`")
    if meta is not None and options and options.quantization_bit:
        raise InputError(f"{path} is an exported folder: --quantization_bit is given to `paddle-glm export`")
    params = meta.params() if meta is not None else GenerationParams()
    family = options.family if options else None
    tokenizer = AutoTokenizer.from_pretrained(path, family)
    return Engine(open_backend(name, path, options), tokenizer, params)
