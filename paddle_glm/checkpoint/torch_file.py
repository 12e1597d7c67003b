"""Torch `.bin` files without torch: memory-mapped reading, streaming writing.

torch.save writes an uncompressed zip: `data.pkl` (the pickled dict, whose tensors are views of storages
referenced by persistent ids) and one entry `data/KEY` per storage, aligned to 64 bytes.
"""

import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.hashed_file import HashedFile
from paddle_glm.checkpoint.lazy_tensor import DTYPES, LazyTensor, safetensors_dtype_name
from paddle_glm.checkpoint.mapped_file import map_file
from paddle_glm.checkpoint.safe_pickle import describe, pickle_str, safe_loads
from paddle_glm.checkpoint.safetensors_file import write_chunks
from paddle_glm.checkpoint.zip_file import LOCAL_HEADER, zip_entries
from paddle_glm.errors import InputError
from paddle_glm.progress import Progress

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_STORAGE_OF = {dtype: storage for storage, dtype in _STORAGES.items()}
# Names and shapes of a few thousand tensors take well below a MiB.
_MAX_PICKLE_BYTES = 16 << 20
_ALIGNMENT = 64
_ZIP64_EXTRA = 20


class _StorageClass(NamedTuple):
    """Stands for torch.FloatStorage and the like: the dtype of the elements."""

    dtype: DType


def open_torch(path: Path) -> dict[str, Array]:
    """Read-only views of every tensor in a `.bin` file; only the pickled names and shapes are read.

    Raises InputError if the file is not torch's zip format, is damaged or compressed, or if its pickle
    refers to anything but tensors.
    """
    data = map_file(path)
    if data[:2].tobytes() == b"\x80\x02":
        raise InputError(
            f"{path} is in torch's format from before version 1.6: with torch, load it and save it again, "
            "torch.save(torch.load(FILE, weights_only=True), FILE)"
        )
    entries = zip_entries(path, data)
    roots = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise InputError(f"{path} is not a torch checkpoint: the zip has {len(roots)} data.pkl, expected one")
    root = roots[0].removesuffix("data.pkl")
    if (order := entries.get(root + "byteorder")) is not None and order[:16].tobytes() != b"little":
        raise InputError(f"{path} has byte order {order[:16].tobytes()!r}: only little-endian is read")
    pickled = entries[roots[0]]
    if pickled.size > _MAX_PICKLE_BYTES:
        raise InputError(f"{path}: data.pkl has {pickled.size} bytes, far more than names and shapes need")

    def storage(identifier: Any) -> Array:
        if type(identifier) is not tuple or len(identifier) != 5:
            raise InputError(f"{path} holds an unknown kind of storage: {describe(identifier)}")
        kind, storage_class, key, _, numel = identifier
        known = kind == "storage" and isinstance(storage_class, _StorageClass)
        if not known or type(key) is not str or type(numel) is not int:
            raise InputError(f"{path} holds an unknown kind of storage: {describe(kind)}")
        raw = entries.get(f"{root}data/{key}")
        if raw is None or raw.size != numel * storage_class.dtype.itemsize:
            size = "missing" if raw is None else f"{raw.size} bytes long"
            raise InputError(f"{path}: storage {key!a} of {numel} elements is {size}: the file is damaged")
        return np.frombuffer(raw, storage_class.dtype)

    tensors = safe_loads(pickled.data, str(path), _ALLOWED, storage)
    if not isinstance(tensors, dict):
        raise InputError(f"{path} holds a {type(tensors).__name__}, expected a dict of tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise InputError(f"{path}: {describe(name)} is {describe(tensor)}, expected a name and a tensor")
    return dict(tensors)


def write_torch(path: Path, tensors: Mapping[str, LazyTensor], progress: Progress | None = None) -> None:
    """Write and hash a `.bin` file for torch.load(weights_only=True), tensor by tensor."""
    root = path.stem
    # HashedFile cannot seek, so zipfile writes sizes and checksums after each entry, as torch does.
    with HashedFile(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, file, f"{root}/data.pkl", pickled_dict(tensors))
        _write_entry(archive, file, f"{root}/byteorder", b"little")
        for key, (name, tensor) in enumerate(tensors.items()):
            info = _entry_info(file, f"{root}/data/{key}")
            with archive.open(info, "w", force_zip64=True) as entry:
                write_chunks(entry, name, tensor, progress)
        _write_entry(archive, file, f"{root}/version", b"3\n")


def pickled_dict(tensors: Mapping[str, LazyTensor]) -> bytes:
    """The pickle (protocol 2) of a dict of contiguous tensors; tensor i has storage key "i"."""
    out = [b"\x80\x02}("]
    for key, (name, tensor) in enumerate(tensors.items()):
        storage_class = _STORAGE_OF[safetensors_dtype_name(tensor.dtype)].encode()
        strides = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        out += [pickle_str(name), b"ctorch._utils\n_rebuild_tensor_v2\n("]
        out += [b"(", pickle_str("storage"), b"ctorch\n" + storage_class + b"\n"]
        out += [pickle_str(str(key)), pickle_str("cpu"), _pickle_int(prod(tensor.shape)), b"tQ"]
        out += [_pickle_int(0), b"(", *map(_pickle_int, tensor.shape)]
        out += [b"t(", *map(_pickle_int, strides), b"t"]
        out += [b"\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join([*out, b"u."])


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Array:
    """torch._utils._rebuild_tensor_v2: a strided view of a storage, with bounds checked."""
    if not isinstance(storage, np.ndarray) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise TypeError("a tensor without a storage, size or stride")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor whose offset, size or stride is invalid")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if prod(size) == 0:
        return np.empty(size, storage.dtype)
    # The second condition rejects a stride of 0 that claims more elements than the storage has.
    if last >= storage.size or prod(size) > storage.size:
        raise ValueError(
            f"a tensor of size {size}, stride {stride}, offset {offset} in {storage.size} elements"
        )
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None) -> Array:
    """torch._utils._rebuild_parameter: the tensor itself."""
    if not isinstance(data, np.ndarray):
        raise TypeError("a parameter without a tensor")
    return data


def _ordered_dict(*arguments: Any) -> OrderedDict[Any, Any]:
    if arguments:
        raise TypeError("an OrderedDict made from arguments")
    return OrderedDict()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): _ordered_dict,
    **{("torch", name): _StorageClass(DTYPES[dtype]) for name, dtype in _STORAGES.items()},
}


def _entry_info(file: HashedFile, name: str) -> zipfile.ZipInfo:
    """An entry whose data start at a multiple of 64, padded like torch's with the extra field "FB"."""
    info = zipfile.ZipInfo(name)
    unpadded = file.tell() + LOCAL_HEADER.size + len(name.encode()) + _ZIP64_EXTRA + 4
    padding = -unpadded % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return info


def _write_entry(archive: zipfile.ZipFile, file: HashedFile, name: str, data: bytes) -> None:
    with archive.open(_entry_info(file, name), "w", force_zip64=True) as entry:
        entry.write(data)


def _pickle_int(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded
