"""Uncompressed zip archives as views of a mapped file.

The standard library reads a directory of any size into objects and trusts every number in it; here both
are bounded. Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import struct
from pathlib import Path
from typing import Any

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError

# A checkpoint has one entry with a name per tensor: a few hundred kB.
MAX_DIRECTORY_BYTES = 16 << 20
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_ZIP64_SENTINEL = 0xFFFFFFFF
_ZIP64 = 1


def zip_entries(path: Path, data: Array) -> dict[str, Array]:
    """{name: view of `data` (uint8)} of every entry of an uncompressed zip.

    Raises InputError if the archive is damaged or truncated, if entries are compressed, encrypted or
    duplicated, or if the directory is larger than any checkpoint's.
    """
    directory = _directory(path, data)
    entries: dict[str, Array] = {}
    position = 0
    while position < len(directory):
        fields = _unpack(_ENTRY, path, directory, position)
        flags, method, name_length, extra_length, comment_length = *fields[3:5], *fields[10:13]
        position += _ENTRY.size
        raw_name = directory[position : position + name_length]
        extra = directory[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length + comment_length
        name = raw_name.decode("utf-8", "replace")
        if fields[0] != b"PK\x01\x02" or position > len(directory):
            raise InputError(f"{path} has a damaged directory: download it again")
        if method or flags & 1 or name in entries:
            raise InputError(f"{path}: entry {name!a} is compressed, encrypted or duplicated: refused")
        # size, compressed size, offset
        size, compressed_size, offset = _resolve_zip64(extra, [fields[9], fields[8], fields[16]])
        entries[name] = _entry_bytes(path, data, name, offset, size, compressed_size)
    return entries


def _directory(path: Path, data: Array) -> bytes:
    """The central directory, found from the record at the end of the file."""
    tail_start = max(0, data.size - _END.size - 0xFFFF)
    tail = data[tail_start:].tobytes()
    end_at = tail.rfind(b"PK\x05\x06")
    if end_at < 0:
        raise InputError(f"{path} is not a torch checkpoint, or truncated (no zip directory): download again")
    *_, size, offset, _ = _unpack(_END, path, tail, end_at)
    locator_at = tail_start + end_at - _LOCATOR.size
    if locator_at >= 0 and data[locator_at : locator_at + 4].tobytes() == b"PK\x06\x07":
        locator = _unpack(_LOCATOR, path, data[locator_at:].tobytes(), 0)
        start = locator[2]
        if start > data.size:
            raise InputError(f"{path} has a damaged directory: download it again")
        signature, *_, size, offset = _unpack(_END64, path, data[start : start + _END64.size].tobytes(), 0)
        if signature != b"PK\x06\x06":
            raise InputError(f"{path} has a damaged directory: download it again")
    if size > MAX_DIRECTORY_BYTES:
        raise InputError(
            f"{path}: the zip directory has {size} bytes, far more than a checkpoint needs: refused"
        )
    if offset + size > data.size:
        raise InputError(f"{path} is not a torch checkpoint, or truncated: its directory is beyond the end")
    return data[offset : offset + size].tobytes()


def _resolve_zip64(extra: bytes, values: list[int]) -> list[int]:
    """The values, with those that overflow 32 bits taken from the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64:
            count = min(length, len(extra) - position) // 8
            numbers = iter(struct.unpack_from(f"<{count}Q", extra, position))
            return [next(numbers, _ZIP64_SENTINEL) if value == _ZIP64_SENTINEL else value for value in values]
        position += length
    return values


def _entry_bytes(path: Path, data: Array, name: str, offset: int, size: int, compressed_size: int) -> Array:
    header = data[offset : offset + LOCAL_HEADER.size].tobytes() if offset < data.size else b""
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: entry {name!a} has no header: the file is damaged")
    *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    start = offset + LOCAL_HEADER.size + name_length + extra_length
    if size != compressed_size or start + size > data.size:
        raise InputError(f"{path}: entry {name!a} extends beyond the file: the file is damaged")
    return data[start : start + size]


def _unpack(record: struct.Struct, path: Path, data: bytes, position: int) -> tuple[Any, ...]:
    try:
        return record.unpack_from(data, position)
    except struct.error as error:
        raise InputError(f"{path} is not a torch checkpoint, or truncated ({error})") from error
