"""Opening checkpoints of every layout, and reading from them what one rank needs."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from paddle_glm.checkpoint.folder import check_sizes
from paddle_glm.checkpoint.tensor_file import open_safetensors
from paddle_glm.checkpoint.tensors import CHUNK_BYTES, LazyTensor, cast_chunks, dtype_name
from paddle_glm.checkpoint.torch_file import open_torch
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import ParameterSpec, family_of
from paddle_glm.sharding import REPLICATED, Copy, Sharding, apply

SAFETENSORS, TORCH = "model", "pytorch_model"
_TP_NAME = re.compile(r"model-tp(\d+)-of-(\d+)\.safetensors")
_FULL_NAME = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")
_NUMBERED = re.compile(r".*-(\d+)-of-(\d+)\.\w+")
_LISTED = 10


def tp_shard_name(rank: int, degree: int) -> str:
    return f"model-tp{rank:02d}-of-{degree:02d}.safetensors"


def open_checkpoint(folder: Path | str, family: str | None = None) -> "Checkpoint":
    """Open a hub folder (safetensors or `.bin`, one file or many, with or without index) or TP shards.

    Only headers are read. Where a hub folder has both formats, safetensors are taken. Raises InputError
    where no weights are found, files are missing or damaged, the folder's manifest says that they are
    not whole, or it holds shards beside full weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected one with weights and config.json")
    check_sizes(folder)
    shard_files = _tp_files(folder)
    if shard_files:
        if beside := [path.name for path in folder.iterdir() if _FULL_NAME.fullmatch(path.name)]:
            raise InputError(
                f"{folder} holds tensor-parallel shards beside {_some(beside)}: keep one of them"
            )
        return Checkpoint(folder, [open_safetensors(path) for path in shard_files], family)
    files, index = _hub_files(folder)
    tensors: dict[str, np.ndarray] = {}
    for path in files:
        opened = open_torch(path) if path.suffix == ".bin" else open_safetensors(path)
        if twice := opened.keys() & tensors.keys():
            raise InputError(f"{folder}: {_some(twice)} in more than one file")
        tensors.update(opened)
    if index is not None and (absent := set(index) - tensors.keys()):
        raise InputError(f"{folder}: the index names {_some(absent)}, which its files do not hold")
    return Checkpoint(folder, [tensors], family)


class Checkpoint:
    """Weights of a folder under their hub names, whatever its format and tensor-parallel degree."""

    def __init__(self, folder: Path, shards: list[dict[str, np.ndarray]], family: str | None = None) -> None:
        self.folder = folder
        self._shards = shards
        self._family_name = family

    @property
    def tensor_parallel_degree(self) -> int:
        """How many ranks' files the folder holds; 1 for a hub folder."""
        return len(self._shards)

    @cached_property
    def config(self) -> ModelConfig:
        """The architecture, read from the folder's config.json when it is first needed."""
        return ModelConfig.from_pretrained(self.folder, self._family_name)

    @cached_property
    def table(self) -> dict[str, ParameterSpec]:
        """Every parameter of the family by name."""
        return family_of(self.config).parameters(self.config)

    def names(self) -> list[str]:
        """Names of all stored tensors, those that the model ignores included."""
        return list(self._shards[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the full tensor."""
        stored = self._stored(name)[0]
        if len(self._shards) == 1 or self._sharding(name).axis is None:
            return stored.shape
        return self.table[name].shape

    def dtype(self, name: str) -> str:
        """The stored dtype by its safetensors name: "F32", "F16", "BF16", ..."""
        return dtype_name(self._stored(name)[0].dtype)

    def read(self, name: str, rank: int = 0, degree: int = 1) -> np.ndarray:
        """What tensor-parallel rank `rank` of `degree` holds of a tensor, in hub layout.

        Read-only and memory-mapped where that is one stretch of one file, otherwise a new array.
        Touches only the bytes that are needed. Padding of the vocabulary is zeros.
        """
        whole = self._whole(name, rank, degree)
        if whole is not None:
            return whole
        sharding = self._sharding(name)
        shape, sources, steps = self._planned(name, sharding, rank, degree)
        axis = sharding.axis or 0
        if len(steps) == 1 and axis == 0 and _length(steps[0]) == shape[0]:
            return sources[steps[0].source_rank][steps[0].source_start : steps[0].source_stop]
        result = np.zeros(shape, sources[0].dtype)
        for step in steps:
            apply(step, axis, sources[step.source_rank], result)
        return result

    def lazy(self, name: str, rank: int = 0, degree: int = 1, dtype: np.dtype | None = None) -> LazyTensor:
        """Like `read`, in pieces of a few MiB for writing; floating point values are cast to `dtype`."""
        stored = self._stored(name)[0].dtype
        sharding = self._sharding(name) if degree > 1 or len(self._shards) > 1 else REPLICATED
        shape = sharding.local_shape(self.shape(name), rank, degree)
        if dtype is None or dtype == stored or dtype_name(stored) not in ("F64", "F32", "F16", "BF16"):
            return LazyTensor(stored, shape, lambda: self._chunks(name, rank, degree))
        return LazyTensor(dtype, shape, lambda: cast_chunks(self._chunks(name, rank, degree), dtype, name))

    def validate(self) -> None:
        """Compare names, shapes and dtypes of all shards with the family's table.

        Raises one InputError that lists what is missing, unexpected or of a wrong shape.
        """
        ignored = family_of(self.config).ignored
        degree = len(self._shards)
        missing: set[str] = set()
        unexpected: set[str] = set()
        wrong: set[str] = set()
        for rank, shard in enumerate(self._shards):
            missing |= self.table.keys() - shard.keys()
            for name, tensor in shard.items():
                if name in self.table:
                    spec = self.table[name]
                    expected = spec.sharding.local_shape(spec.shape, rank, degree)
                    if tensor.shape != expected:
                        wrong.add(f"{name} {tensor.shape}, expected {expected}")
                    elif tensor.dtype != self._shards[0][name].dtype:
                        wrong.add(
                            f"{name} {tensor.dtype} in shard {rank}, {self._shards[0][name].dtype} in shard 0"
                        )
                elif not any(re.fullmatch(pattern, name) for pattern in ignored):
                    unexpected.add(name)
        found = {"missing": missing, "unexpected": unexpected, "wrong shape or dtype": wrong}
        if any(found.values()):
            lines = [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]
            raise InputError(
                f"{self.folder} does not fit its config.json ({self.config.family}): {'; '.join(lines)}"
            )

    def _stored(self, name: str) -> list[np.ndarray]:
        try:
            return [shard[name] for shard in self._shards]
        except KeyError:
            raise InputError(f"{self.folder} has no tensor {name!r} (or not in every shard)") from None

    def _sharding(self, name: str) -> Sharding:
        if name in self.table:
            return self.table[name].sharding
        if any(re.fullmatch(pattern, name) for pattern in family_of(self.config).ignored):
            return REPLICATED
        raise InputError(
            f"{self.folder}: tensor {name!r} is not one of {self.config.family}, so it cannot be cut"
        )

    def _whole(self, name: str, rank: int, degree: int) -> np.ndarray | None:
        """The stored array where it already is what is asked for."""
        stored = self._stored(name)
        if degree == len(stored) and 0 <= rank < degree:
            return stored[rank]
        return stored[0] if self._sharding(name).axis is None else None

    def _planned(
        self, name: str, sharding: Sharding, rank: int, degree: int
    ) -> tuple[tuple[int, ...], list[np.ndarray], list[Copy]]:
        sources = self._stored(name)
        full = self.table[name].shape
        for source_rank, source in enumerate(sources):
            expected = sharding.local_shape(full, source_rank, len(sources))
            if source.shape != expected:
                raise InputError(f"{self.folder}: {name} has shape {source.shape}, expected {expected}")
        return sharding.local_shape(full, rank, degree), sources, sharding.plan(len(sources), rank, degree)

    def _chunks(self, name: str, rank: int, degree: int) -> Iterator[np.ndarray]:
        whole = self._whole(name, rank, degree)
        if whole is not None:
            yield whole
            return
        sharding = self._sharding(name)
        shape, sources, steps = self._planned(name, sharding, rank, degree)
        if sharding.axis == 0:
            for step in steps:
                yield sources[step.source_rank][step.source_start : step.source_stop]
            padding = shape[0] - sum(map(_length, steps))
            if padding:
                yield np.zeros((padding, *shape[1:]), sources[0].dtype)
            return
        # Rows of a row-parallel weight are spread over the shards: assemble a block of them at a time.
        row_bytes = sources[0].itemsize * int(np.prod(shape[1:]))
        rows = max(1, CHUNK_BYTES // row_bytes)
        buffer = np.zeros((min(rows, shape[0]), *shape[1:]), sources[0].dtype)
        for start in range(0, shape[0], rows):
            block = buffer[: min(rows, shape[0] - start)]
            for step in steps:
                apply(step, sharding.axis or 0, sources[step.source_rank][start : start + len(block)], block)
            yield block


def _length(step: Copy) -> int:
    return step.source_stop - step.source_start


def _some(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
    return ", ".join(ordered[:_LISTED]) + more


def _tp_files(folder: Path) -> list[Path]:
    """All ranks' files in order, an empty list where the folder holds none."""
    found = {}
    for path in folder.iterdir():
        if match := _TP_NAME.fullmatch(path.name):
            found[int(match[1]), int(match[2])] = path
    degrees = {degree for _, degree in found}
    if len(degrees) > 1:
        raise InputError(f"{folder} holds shards of different tensor-parallel degrees {sorted(degrees)}")
    if not degrees:
        return []
    degree = degrees.pop()
    absent = [tp_shard_name(rank, degree) for rank in range(degree) if (rank, degree) not in found]
    if absent:
        raise InputError(f"{folder} lacks {_some(absent)}: copy the shards of all ranks into one folder")
    return [found[rank, degree] for rank in range(degree)]


def _hub_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Weight files of a hub folder and the index's {name: file}, None where it has no index."""
    for stem, suffix in ((SAFETENSORS, ".safetensors"), (TORCH, ".bin")):
        index_path = folder / f"{stem}{suffix}.index.json"
        if index_path.is_file():
            index = _read_index(index_path)
            files = [folder / name for name in sorted(set(index.values()))]
            if absent := [path.name for path in files if not path.is_file()]:
                raise InputError(
                    f"{folder} lacks {_some(absent)}, which {index_path.name} names: download again"
                )
            return files, index
        if (folder / f"{stem}{suffix}").is_file():
            return [folder / f"{stem}{suffix}"], None
        numbered = sorted(folder.glob(f"{stem}-*-of-*{suffix}"))
        if numbered:
            _check_numbers(folder, numbered)
            return numbered, None
    raise InputError(
        f"{folder} holds no weights: expected model.safetensors, pytorch_model.bin, numbered files "
        f"of either or {tp_shard_name(0, 2)}"
    )


def _check_numbers(folder: Path, numbered: list[Path]) -> None:
    matches = [match for path in numbered if (match := _NUMBERED.fullmatch(path.name))]
    present = sorted((int(match[1]), int(match[2])) for match in matches)
    total = present[-1][1] if present else 0
    if present != [(number + 1, total) for number in range(total)]:
        raise InputError(
            f"{folder} holds {len(numbered)} numbered weight files of {total}: download the rest"
        )


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a weight index ({error!r}): download it again") from error
    entries = index.items() if isinstance(index, dict) else [("", None)]
    for name, file in entries:
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(
                f"{path}: {name!r} is said to be in {file!r}, expected a file name in this folder"
            )
    return index
