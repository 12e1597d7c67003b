"""Safetensors files: what is written is read bit for bit, and nothing damaged is read at all."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from paddle_glm.checkpoint.hashed_file import file_digest, pop_file_record
from paddle_glm.checkpoint.lazy_tensor import DTYPES, LazyTensor, as_lazy
from paddle_glm.checkpoint.safetensors_file import open_safetensors, write_safetensors
from paddle_glm.errors import InputError


def written(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    write_safetensors(path, {name: as_lazy(tensor) for name, tensor in tensors.items()})
    return path


def raw_file(path: Path, header: Any, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(start: int, stop: int, shape: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_every_dtype_and_odd_shapes_round_trip(tmp_path: Path) -> None:
    tensors = {name: np.arange(6).reshape(2, 3).astype(dtype) for name, dtype in DTYPES.items()}
    tensors |= {
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "transposed": np.arange(12.0).reshape(3, 4).T,
        "词": np.array([1], np.int8),
    }
    opened = open_safetensors(written(tmp_path / "a.safetensors", tensors))
    assert opened.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (opened[name].dtype, opened[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(opened[name], tensor)
        assert not opened[name].flags.writeable
        assert opened[name].flags.aligned


def test_the_reference_library_reads_it(tmp_path: Path) -> None:
    tensors = {"a": np.arange(5, dtype=np.float16), "b": np.arange(4, dtype=np.int64)}
    loaded = load_file(written(tmp_path / "a.safetensors", tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor)


def test_digest_is_taken_while_writing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"a": np.arange(3_000_000)})
    assert list(tmp_path.glob(".*")), "the writer leaves a sidecar"
    assert pop_file_record(path) == {"size": path.stat().st_size, "xxh3_128": file_digest(path)}
    assert list(tmp_path.iterdir()) == [path]


def test_a_tensor_that_is_not_what_was_declared_is_a_bug(tmp_path: Path) -> None:
    short = LazyTensor(np.dtype(np.float32), (4,), lambda: [np.zeros(3, np.float32)])
    with pytest.raises(ValueError, match="12 bytes written, 16 declared"):
        write_safetensors(tmp_path / "a", {"a": short})
    other = LazyTensor(np.dtype(ml_dtypes.bfloat16), (4,), lambda: [np.zeros(4, np.float16)])
    with pytest.raises(ValueError, match="chunk of dtype float16, declared bfloat16"):
        write_safetensors(tmp_path / "a", {"a": other})
    with pytest.raises(InputError, match="complex64 cannot be saved"):
        written(tmp_path / "a", {"a": np.zeros(1, np.complex64)})


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"w": entry(0, 8, [2])}, b"1234", r"tensor 'w' ends at byte 8 of 4: .* truncated"),
        ({"w": entry(0, 4, [2])}, b"1234", r"tensor 'w' has 4 bytes, but shape \[2\] needs 8"),
        ({"v": entry(0, 8, [2]), "w": entry(4, 12, [2])}, b"1" * 12, "'w' at bytes 4 to 12 overlaps another"),
        ({"v": entry(0, 4, [1]), "w": entry(8, 12, [1])}, b"1" * 12, "'w' at bytes 8 to 12 leaves a gap"),
        ({"w": entry(0, 4, [1])}, b"1" * 12, "8 bytes after the last tensor belong to no tensor"),
        ({"w": entry(0, 4, [1], "F31")}, b"1234", "'w' has dtype 'F31': expected one of"),
        ({"w": entry(0, 4, [1], ["F32"])}, b"1234", "'w' has dtype"),
        ({"w": entry(0, 4, [-1])}, b"1234", "expected non-negative numbers"),
        ({"w": entry(0, 4, [True])}, b"1234", "expected non-negative numbers"),
        ({"w": entry(0, 4, [1.0])}, b"1234", "expected non-negative numbers"),
        ({"w": entry(4, 0, [1])}, b"1234", r"offsets \[4, 0\]: expected \[start, stop\]"),
        ({"w": entry(0, 0, [0, 2**70])}, b"", "impossible shape"),
        ({"w": entry(0, 4, [1] * 99)}, b"1234", "impossible shape"),
        ({"w": {"dtype": "F32"}}, b"", "'w' lacks dtype, shape or data_offsets"),
        ({"w": 3}, b"", "'w' lacks dtype, shape or data_offsets"),
        ([], b"", "it is a list"),
        (b'{"w": 1, "w": 2}', b"", "a duplicate name"),
        (b"[" * 100_000, b"", "no valid safetensors header"),
        (b"\xff\xfe", b"", "no valid safetensors header"),
    ],
)
def test_damaged_headers_name_file_and_tensor(tmp_path: Path, header: Any, body: bytes, message: str) -> None:
    path = raw_file(tmp_path / "broken.safetensors", header, body)
    with pytest.raises(InputError, match=message) as caught:
        open_safetensors(path)
    assert "broken.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"123", "truncated"), (b"\xff" * 20, "claims")]
)
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_safetensors(path)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 10_000), position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_damage_is_an_input_error_or_other_values(
    tmp_path_factory: pytest.TempPathFactory, cut: int, position: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = written(folder / "a.safetensors", {"a": np.arange(8.0), "b": np.zeros((2, 3), np.float16)})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content[: len(content) - cut % 40 if cut % 2 else len(content)])
    try:
        opened = open_safetensors(path)
    except InputError:
        return
    for tensor in opened.values():
        tensor.copy()
