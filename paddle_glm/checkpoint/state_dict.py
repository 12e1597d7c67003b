"""`load_state_dict`: the tensors of a file, instead of `torch.load` and `paddle.load`."""

from pathlib import Path

from paddle_glm.array_types import Array
from paddle_glm.checkpoint.reader import FILE_READERS, open_checkpoint
from paddle_glm.errors import InputError


def load_state_dict(path: str | Path) -> dict[str, Array]:
    """{name: array} of a weight file, or of a model folder under its hub names.

    Arrays are read-only views of the mapped file where possible; bfloat16 is ml_dtypes.bfloat16. Pickles
    are not executed: anything but tensors in them is refused. Raises `InputError` for other files.
    """
    path = Path(path)
    if path.is_dir():
        checkpoint = open_checkpoint(path)
        return {name: checkpoint.read(name) for name in checkpoint.names()}
    if not path.is_file():
        raise InputError(f"{path} not found: expected a weight file or a model folder")
    if path.suffix not in FILE_READERS:
        raise InputError(f"{path}: expected a file that ends in {', '.join(FILE_READERS)}")
    return FILE_READERS[path.suffix](path)
