"""Files hashed while they are written, so that a manifest needs no second pass over them."""

import io
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from paddle_glm.checkpoint.lazy_tensor import CHUNK_BYTES

SIDECAR_SUFFIX = ".xxh3-of"


class HashedFile:
    """A new file, written sequentially.

    Closing writes a small sidecar file with size and digest. `AtomicSave.commit` moves the sidecars of all
    processes into the manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash = xxhash.xxh3_128()
        self._size = 0
        self._file = io.FileIO(path, "w")

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer; return their number. An OSError names the file."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            block = view[start : start + CHUNK_BYTES]
            self._hash.update(block)
            try:
                while block:
                    block = block[self._file.write(block) :]
            except OSError as error:  # a full disk: the system's error has no path
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """No-op, required by zipfile: nothing is buffered."""

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            record = {"size": self._size, "xxh3_128": self._hash.hexdigest()}
            sidecar_path(self.path).write_text(json.dumps(record), encoding="utf-8")


def sidecar_path(path: Path) -> Path:
    return path.with_name(f".{path.name}{SIDECAR_SUFFIX}")


def file_digest(path: Path) -> str:
    """xxh3_128 digest of a file, in hexadecimal."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def pop_file_record(path: Path) -> dict[str, Any]:
    """{"size", "xxh3_128"} of a finished file, from its sidecar (then removed) or by reading the file."""
    size = os.path.getsize(path)
    sidecar = sidecar_path(path)
    if sidecar.exists():
        record: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        sidecar.unlink()
        if record["size"] == size:
            return record
    return {"size": size, "xxh3_128": file_digest(path)}
