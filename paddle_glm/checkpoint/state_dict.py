"""`load_state_dict`: the tensors of a file, in the place of `torch.load` and `paddle.load`."""

from pathlib import Path

from paddle_glm.array_types import Array
from paddle_glm.checkpoint.pdparams_file import open_pdparams
from paddle_glm.checkpoint.reader import open_checkpoint
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.checkpoint.torch_file import open_torch
from paddle_glm.errors import InputError

OPENERS = {
    ".safetensors": open_safetensors,
    ".bin": open_torch,
    ".pt": open_torch,
    ".pth": open_torch,
    ".pdparams": open_pdparams,
}


def load_state_dict(path: str | Path) -> dict[str, Array]:
    """{name: array} of a file of weights, or of a folder's; read-only views of files where they can be.

    Pickles are not executed: anything but tensors in them is refused. bfloat16 is ml_dtypes' bfloat16. A
    folder's tensors have the hub's names. Raises `InputError` for what is no file of weights.
    """
    path = Path(path)
    if path.is_dir():
        checkpoint = open_checkpoint(path)
        return {name: checkpoint.read(name) for name in checkpoint.names()}
    if not path.is_file():
        raise InputError(f"{path} not found: expected a file of weights or a folder")
    if path.suffix not in OPENERS:
        raise InputError(f"{path}: expected a file that ends in {', '.join(OPENERS)}")
    return OPENERS[path.suffix](path)
