"""A model folder, opened to run in this process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_glm.backends.options import BackendOptions, option
from paddle_glm.config import DTYPES, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.hardware import num_threads, use_device
from paddle_glm.models.registry import family_names
from paddle_glm.quantization import BITS

if TYPE_CHECKING:
    from paddle_glm.models.dygraph import DygraphBackend


@dataclass(frozen=True)
class DygraphOptions(BackendOptions):
    """How a model folder is loaded.

    Those that are not about the device are keywords of `AutoModel.from_pretrained`, except pre_seq_len: here
    it is the length that the prefix in `ptuning_checkpoint` must have.
    """

    dtype: str = option(
        "auto",
        "dtype of a model folder's weights in memory; auto: as in the files, but float32 for half precision "
        "on a CPU with enough memory and without native kernels, where it is faster",
        choices=("auto", *DTYPES),
    )
    family: str | None = option(
        None, "family of the model, where its files do not name it", choices=family_names()
    )
    ptuning_checkpoint: str | None = option(None, "folder of a prefix (P-Tuning v2), ours or THUDM's")
    pre_seq_len: int | None = option(None, "required length of the prefix in --ptuning_checkpoint", int)
    lora_path: str | None = option(None, "folder of LoRA adapters, ours or PEFT's")
    quantization_bit: int | None = option(
        None, "quantise the weights of linear layers to so many bits", int, choices=BITS
    )
    quantization_group_size: int | None = option(
        None, "inputs per scale; 0: one scale per output (default: 128 for 4 bits, 0 for 8)", int
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pre_seq_len is not None and self.pre_seq_len < 1:
            raise InputError(f"pre_seq_len {self.pre_seq_len}: expected 1 or more")
        if self.pre_seq_len is not None and self.ptuning_checkpoint is None:
            raise InputError(
                f"--pre_seq_len {self.pre_seq_len} says how long the prefix in --ptuning_checkpoint FOLDER "
                "is: give both, or leave it out (a folder that holds model and prefix says it itself)"
            )

    def model_keywords(self) -> dict[str, Any]:
        """Keywords of `AutoModel.from_pretrained`; raises `InputError` for a prefix of another length."""
        if self.ptuning_checkpoint is not None:
            from paddle_glm.peft.prefix import check_prefix_folder

            check_prefix_folder(self.ptuning_checkpoint, self.pre_seq_len)
        names = (
            *("dtype", "family", "ptuning_checkpoint", "lora_path"),
            *("quantization_bit", "quantization_group_size"),
        )
        return {name: getattr(self, name) for name in names}


def open_dygraph(folder: Path, options: DygraphOptions) -> "DygraphBackend":
    """Load the model of a folder, or this rank's part of it; raises as `AutoModel.from_pretrained` does."""
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.models.dygraph import DygraphBackend
    from paddle_glm.parallel import init_parallel

    keywords = options.model_keywords()
    use_device(options.device, options.device_id, num_threads(options.cpu_threads))
    group = init_parallel().tensor
    return DygraphBackend(AutoModel.from_pretrained(folder, group=group, **keywords))


def check_adapters(
    backend: str,
    folder: Path,
    adapters: Mapping[str, str | Path],
    lora_path: str | Path | None = None,
    family: str | None = None,
) -> None:
    """Raise `InputError`, before a model is read, where it cannot have these adapters, name -> folder."""
    if backend != "dygraph":
        raise InputError(
            f"--adapters: the backend {backend} runs a graph without adapters; give the model folder, or "
            "export it once for each adapter with --lora_path or --ptuning_checkpoint"
        )
    if lora_path is not None:
        raise InputError(f"--lora_path {lora_path}: all requests would have it; give it to --adapters")
    from paddle_glm.peft.row_adapters import check_adapter_folder

    config = ModelConfig.from_pretrained(folder, family)
    for one in adapters.values():
        check_adapter_folder(one, config)


def load_adapters(backend: Any, adapters: Mapping[str, str | Path]) -> None:
    """Load adapters, name -> folder, from which rows of a `DygraphBackend` choose."""
    from paddle_glm.peft.row_adapters import NamedAdapters

    backend.adapters = named = NamedAdapters(backend.model)
    for name, folder in adapters.items():
        named.load(name, folder)
