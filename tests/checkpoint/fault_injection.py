"""Makes the N-th file operation of a writer fail, for every N, and looks at what is left.

    python tests/checkpoint/fault_injection.py FOLDER safetensors

Run in a process of its own: the audit hook through which opening, renaming and removing fail stays.
"""

import errno
import os
import sys
from pathlib import Path

import numpy as np

from paddle_glm.checkpoint import atomic_save as folders
from paddle_glm.checkpoint import hashed_file, is_complete, open_checkpoint
from paddle_glm.checkpoint.atomic_save import atomic_folder, read_manifest
from paddle_glm.checkpoint.hashed_file import file_digest
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.checkpoint.save import save_model
from paddle_glm.config import ModelConfig
from paddle_glm.models.family import family_of

CONFIG = ModelConfig(
    num_layers=1, hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
    ffn_hidden_size=24, vocab_size=32, max_sequence_length=32,
)  # fmt: skip
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir")
NORM = "transformer.encoder.final_layernorm.weight"


class FaultInjector:
    """Fails once, at the given operation below `below`."""

    def __init__(self, root: Path) -> None:
        self.root, self.remaining = str(root), -1
        self.patch()
        sys.addaudithook(self.audit)

    def count_operation(self, path: str) -> None:
        if self.remaining < 0 or not path.startswith(self.root):
            return
        self.remaining -= 1
        if self.remaining < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def audit(self, event: str, arguments: tuple) -> None:
        if event in EVENTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
            self.count_operation(os.fsdecode(arguments[0]))

    def patch(self) -> None:
        flush, write, exchange = folders.flush, hashed_file.HashedFile.write, folders._swap_folders

        def failing_flush(path: Path) -> None:
            self.count_operation(str(path))
            flush(path)

        def failing_write(file: hashed_file.HashedFile, data: object) -> int:
            self.count_operation(str(file.path))
            return write(file, data)

        def failing_exchange(first: Path, second: Path) -> None:
            self.count_operation(str(first))
            exchange(first, second)

        folders.flush, hashed_file.HashedFile.write = failing_flush, failing_write
        folders._swap_folders = failing_exchange


def make(folder: Path, value: float, file_format: str, overwrite: bool = False) -> None:
    table = family_of(CONFIG).parameters(CONFIG)
    tensors = {name: np.full(spec.shape, value, np.float32) for name, spec in table.items()}
    with atomic_folder(folder, overwrite) as temporary:
        save_model(temporary, CONFIG, tensors.items(), file_format=file_format, max_shard_size="6KB")


def check_value(folder: Path) -> float:
    """The number that fills a folder; asserts that it is whole."""
    assert is_complete(folder), f"{folder} is not complete"
    for name, record in (read_manifest(folder) or {}).items():
        assert file_digest(folder / name) == record["xxh3_128"], name
    checkpoint = open_checkpoint(folder)
    checkpoint.validate()
    return float(checkpoint.read(NORM)[0])


def main(folder: Path, file_format: str) -> None:
    make(folder / "new", 2.0, "safetensors")
    target = folder / "out" / "model"
    faults = FaultInjector(folder / "out")
    for number in range(10_000):
        make(target, 1.0, file_format, overwrite=True)
        faults.remaining = number
        try:
            reshard(folder / "new", target, file_format=file_format, overwrite=True, max_shard_size="6KB")
            failed = False
        except OSError as error:
            assert error.errno == errno.ENOSPC and error.filename, error
            failed = True
        reached, faults.remaining = faults.remaining < 0, -1
        # What fails after the swap, the removal of the old folder, leaves the new one.
        assert check_value(target) in ((1.0, 2.0) if failed else (2.0,)), number
        make(target, 3.0, file_format, overwrite=True)
        left = sorted(path.name for path in target.parent.iterdir())
        assert check_value(target) == 3.0 and left == ["model"], left
        if not reached:
            print(f"{number} operations failed in turn")
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
