"""Check that a folder is complete and contains the model that its config.json describes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.checkpoint.atomic_save import MANIFEST, read_manifest
from paddle_glm.checkpoint.hashed_file import file_digest
from paddle_glm.checkpoint.lazy_tensor import CHUNK_BYTES
from paddle_glm.checkpoint.reader import Checkpoint, open_checkpoint
from paddle_glm.errors import InputError

# Marks an exported model, which has no weights under hub names: only its files are checked.
_EXPORT_META_FILE = "generation_meta.json"


@dataclass(frozen=True)
class CheckResult:
    """One line of the report: what was checked, the result as text, and whether it is correct."""

    subject: str
    text: str
    ok: bool = True


def verify(
    folder: Path | str, checksums: bool = True, nan: bool = False, family: str | None = None
) -> Iterator[CheckResult]:
    """Check file sizes, with `checksums` digests, names and shapes of weights, with `nan` every value.

    Raises InputError only if `folder` is not a folder: problems inside are results.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected one with weights or an exported model")
    yield from _check_files(folder, checksums)
    if (folder / _EXPORT_META_FILE).is_file():
        yield CheckResult("weights", "an exported model: only its files are checked")
        return
    try:
        checkpoint = open_checkpoint(folder, family)
        checkpoint.validate()
    except (InputError, OSError) as error:
        yield CheckResult("weights", str(error), ok=False)
        return
    yield CheckResult("weights", _summary(checkpoint))
    if nan:
        yield _check_finite(checkpoint)


def _check_files(folder: Path, checksums: bool) -> Iterator[CheckResult]:
    if not (folder / MANIFEST).is_file():
        yield CheckResult(MANIFEST, "missing (downloads have none): sizes and checksums are unknown")
        return
    files = read_manifest(folder)
    if files is None:
        yield CheckResult(MANIFEST, "damaged: it lists no files", ok=False)
        return
    for name, record in files.items():
        yield _check_file(folder, name, record, checksums)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(present - set(files) - {MANIFEST}):
        yield CheckResult(name, "not in the manifest: added after the folder was written")


def _check_file(folder: Path, name: str, record: dict[str, Any], checksums: bool) -> CheckResult:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return CheckResult(name, "outside the folder: the manifest is not valid", ok=False)
    if not path.is_file():
        return CheckResult(name, "missing", ok=False)
    size = path.stat().st_size
    if size != record.get("size"):
        return CheckResult(name, f"{size} bytes, expected {record.get('size')}", ok=False)
    if not checksums:
        return CheckResult(name, f"{size} bytes")
    if file_digest(path) != record.get("xxh3_128"):
        return CheckResult(
            name, f"{size} bytes, changed since it was written: the checksum differs", ok=False
        )
    return CheckResult(name, f"{size} bytes, checksum correct")


def _summary(checkpoint: Checkpoint) -> str:
    dtypes = {checkpoint.safetensors_dtype(name) for name in checkpoint.parameter_specs}
    degree = checkpoint.tensor_parallel_degree
    in_shards = f" in {degree} shards" if degree > 1 else ""
    return (
        f"{checkpoint.config.family}, {len(checkpoint.parameter_specs)} tensors{in_shards} of "
        f"{', '.join(sorted(dtypes))}: names and shapes match config.json"
    )


def _check_finite(checkpoint: Checkpoint) -> CheckResult:
    non_finite = []
    degree = checkpoint.tensor_parallel_degree
    for name in checkpoint.parameter_specs:
        count = sum(_count_non_finite(checkpoint, name, rank, degree) for rank in range(degree))
        if count:
            non_finite.append(f"{name} ({count})")
    if non_finite:
        more = f" and {len(non_finite) - 5} more tensors" if len(non_finite) > 5 else ""
        return CheckResult("values", f"NaN or Inf in {', '.join(non_finite[:5])}{more}", ok=False)
    return CheckResult("values", "all finite")


def _count_non_finite(checkpoint: Checkpoint, name: str, rank: int, degree: int) -> int:
    count = 0
    for chunk in checkpoint.read_lazy(name, rank, degree).chunks():
        flat = chunk.reshape(-1)
        step = CHUNK_BYTES // flat.itemsize
        for start in range(0, flat.size, step):
            count += int(np.count_nonzero(~np.isfinite(flat[start : start + step])))
    return count
