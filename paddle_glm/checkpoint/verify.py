"""Is a folder whole, and does it hold the model that its config.json describes?"""

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

# An exported model has no weights of the hub's names; its files' digests say all.
_EXPORT_META_FILE = "generation_meta.json"


@dataclass(frozen=True)
class CheckResult:
    """One line of the table: what was looked at, what was found, and whether that is right."""

    subject: str
    text: str
    ok: bool = True


def verify(
    folder: Path | str, checksums: bool = True, nan: bool = False, family: str | None = None
) -> Iterator[CheckResult]:
    """Look at the manifest's sizes and digests, names and shapes of weights, and, with `nan`, every number.

    Raises InputError only where `folder` is not a folder: whatever is wrong inside is a finding.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected one with weights or an exported model")
    yield from _check_files(folder, checksums)
    if (folder / _EXPORT_META_FILE).is_file():
        yield CheckResult("weights", "an exported model: its files are all there is to look at")
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
        yield CheckResult(MANIFEST, "not there (a download has none): sizes and checksums are not known")
        return
    files = read_manifest(folder)
    if files is None:
        yield CheckResult(MANIFEST, "damaged: it names no files", ok=False)
        return
    for name, record in files.items():
        yield _check_file(folder, name, record, checksums)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(present - set(files) - {MANIFEST}):
        yield CheckResult(name, "not in the manifest: added after the folder was written")


def _check_file(folder: Path, name: str, record: dict[str, Any], checksums: bool) -> CheckResult:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return CheckResult(name, "outside the folder: the manifest is not ours", ok=False)
    if not path.is_file():
        return CheckResult(name, "missing", ok=False)
    size = path.stat().st_size
    if size != record.get("size"):
        return CheckResult(name, f"{size} bytes, expected {record.get('size')}", ok=False)
    if not checksums:
        return CheckResult(name, f"{size} bytes")
    if file_digest(path) != record.get("xxh3_128"):
        return CheckResult(
            name, f"{size} bytes, but others than were written: the checksum differs", ok=False
        )
    return CheckResult(name, f"{size} bytes, checksum right")


def _summary(checkpoint: Checkpoint) -> str:
    dtypes = {checkpoint.dtype(name) for name in checkpoint.table}
    shards = checkpoint.tensor_parallel_degree
    cut = f" in {shards} shards" if shards > 1 else ""
    return (
        f"{checkpoint.config.family}, {len(checkpoint.table)} tensors{cut} of {', '.join(sorted(dtypes))}: "
        "names and shapes fit config.json"
    )


def _check_finite(checkpoint: Checkpoint) -> CheckResult:
    """Tensors with numbers that are not finite."""
    bad = []
    degree = checkpoint.tensor_parallel_degree
    for name in checkpoint.table:
        count = sum(_count_non_finite(checkpoint, name, rank, degree) for rank in range(degree))
        if count:
            bad.append(f"{name} ({count})")
    if bad:
        more = f" and {len(bad) - 5} tensors more" if len(bad) > 5 else ""
        return CheckResult("numbers", f"NaN or Inf in {', '.join(bad[:5])}{more}", ok=False)
    return CheckResult("numbers", "all finite")


def _count_non_finite(checkpoint: Checkpoint, name: str, rank: int, degree: int) -> int:
    count = 0
    for chunk in checkpoint.read_lazy(name, rank, degree).chunks():
        flat = chunk.reshape(-1)
        step = CHUNK_BYTES // flat.itemsize
        for start in range(0, flat.size, step):
            count += int(np.count_nonzero(~np.isfinite(flat[start : start + step])))
    return count
