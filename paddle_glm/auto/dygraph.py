"""A model folder, opened to run in this process."""

from pathlib import Path

from paddle_glm.auto.model import AutoModel
from paddle_glm.backends.base import EngineOptions
from paddle_glm.backends.device import set_device
from paddle_glm.models.dygraph import DygraphBackend


def open_dygraph(folder: Path, options: EngineOptions) -> DygraphBackend:
    """Load the model of a folder; raises `InputError` as `AutoModel.from_pretrained` does."""
    set_device(options)
    model = AutoModel.from_pretrained(
        folder,
        dtype=options.dtype,
        family=options.family,
        ptuning_checkpoint=options.ptuning_checkpoint,
        lora_path=options.lora_path,
        quantization_bit=options.quantization_bit,
        quantization_group_size=options.quantization_group_size,
    )
    return DygraphBackend(model)
