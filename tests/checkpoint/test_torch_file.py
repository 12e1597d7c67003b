"""Torch `.bin` files: read and written without torch, and nothing in them is ever executed."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.checkpoint.lazy_tensor import DTYPES, as_lazy
from paddle_glm.checkpoint.safe_pickle import safe_loads
from paddle_glm.checkpoint.torch_file import open_torch, pickled_dict, write_torch
from paddle_glm.errors import InputError

DATA = Path(__file__).parent / "data"


def lazies(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: as_lazy(tensor) for name, tensor in tensors.items()}


def zipped(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **kwargs: Any) -> Path:
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        archive.writestr("model/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"model/data/{key}", data)
    return path


def test_a_state_dict_written_by_torch() -> None:
    # torch 2.13: parameters, strided and tied views, every common dtype, and the _metadata of a module.
    tensors = open_torch(DATA / "torch_state_dict.bin")
    expected = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.array([0.5, -0.5], np.float32),
        "parameter": np.arange(4, dtype=np.float32).reshape(2, 2),
        "bfloat16": np.arange(12).reshape(3, 4).astype(ml_dtypes.bfloat16),
        "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "half": np.arange(5, dtype=np.float16),
        "int64": np.arange(5),
        "bool": np.array([True, False]),
        "scalar": np.array(3.5, np.float32),
        "offset": np.arange(3, 7, dtype=np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "tied": np.arange(3, 7, dtype=np.float32),
        "词": np.array([-1, 1], np.int8),
    }
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape), name
        np.testing.assert_array_equal(tensors[name], tensor)


def test_every_dtype_round_trips_and_storages_are_aligned(tmp_path: Path) -> None:
    tensors = {name: np.arange(6).reshape(2, 3).astype(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float16)}
    tensors |= {"transposed": np.arange(12.0).reshape(3, 4).T, "词": np.array([1], np.int8)}
    path = tmp_path / "pytorch_model.bin"
    write_torch(path, lazies(tensors))
    opened = open_torch(path)
    assert opened.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (opened[name].dtype, opened[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(opened[name], tensor)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name_length, extra_length = struct.unpack_from("<2H", content, info.header_offset + 26)
            assert (info.header_offset + 30 + name_length + extra_length) % 64 == 0


def test_our_pickle_is_what_python_reads() -> None:
    # Python's own unpickler agrees on the structure that torch will see.
    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return (
                OrderedDict
                if name == "OrderedDict"
                else (lambda *a: (name, *a))
                if "rebuild" in name
                else name
            )

        def persistent_load(self, pid: Any) -> Any:
            return pid

    large = as_lazy(np.zeros((3, 2), np.float16))
    loaded = Recorder(io.BytesIO(pickled_dict({"w": large}))).load()
    storage = ("storage", "HalfStorage", "0", "cpu", 6)
    assert loaded == {"w": ("_rebuild_tensor_v2", storage, 0, (3, 2), (2, 1), False, OrderedDict())}


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def executed(marker: Path) -> list[Any]:
    return [
        Evil(os.system, f"touch {marker}"),
        Evil(eval, f"open({str(marker)!r}, 'w')"),
        Evil(exec, f"open({str(marker)!r}, 'w')"),
        Evil(getattr, Evil(getattr, os, "path"), "exists"),
        Evil(__import__, "os"),
        Evil(open, str(marker), "w"),
        Evil(OrderedDict, [(1, 2)]),
        {"weight": Evil(os.system, f"touch {marker}")},
    ]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickles_are_refused_without_executing(tmp_path: Path, number: int, protocol: int) -> None:
    marker = tmp_path / "executed"
    try:
        pickled = pickle.dumps(executed(marker)[number], protocol)
    except TypeError:  # modules cannot be pickled: name the chain by hand
        pickled = b"\x80\x02cbuiltins\ngetattr\n(cos\npath\nX\x06\x00\x00\x00existstR."
    with pytest.raises(InputError, match=r"refused|not a valid checkpoint") as caught:
        open_torch(zipped(tmp_path / "evil.bin", pickled))
    assert not marker.exists()
    assert "evil.bin" in str(caught.value)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"cos\nsystem\n(X\x02\x00\x00\x00idtR.", "the name os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "the name builtins.eval"),
        (
            b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
            "the name torch._utils._rebuild_tensor_v2.__globals__",
        ),
        (b"X\x02\x00\x00\x00os)R.", "a call of an unknown function"),
        (b"ctorch\nFloatStorage\n)R.", "a call of an unknown function"),
        (b"ccollections\nOrderedDict\nNR.", "a call without a tuple"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "not a valid checkpoint"),
        (b"(i__main__\nEvil\n.", "the pickle operation INST"),
        (b"\x80\x02ctorch\nFloatStorage\n)\x81.", "the pickle operation NEWOBJ"),
        (b"\x82\x01.", "the pickle operation EXT1"),
        (b"}X\x01\x00\x00\x00a}b.", "a state for an object"),
        (b"(.", "a misplaced mark"),
        (b"N", "truncated"),
        (b"h\x05.", "not a valid checkpoint"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "a text of 9223372036854775807 bytes"),
        (b"N" + b"r\xff\xff\xff\x7f" + b".", "expected a dict of tensors"),
        (b"]}a.", "expected a dict of tensors"),
        (b"}X\x01\x00\x00\x00aK\x01s.", "'a' is 1, expected a name and a tensor"),
        (b"}]Ns.", "a key that is a list"),
        (b"}(NNNu.", "an item for something that is not a dict"),
        (b"K\x01Na.", "an append to something that is not a list"),
    ],
)
def test_odd_pickles_say_what_was_met(tmp_path: Path, pickled: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_torch(zipped(tmp_path / "evil.bin", pickled))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2, 4), (4, 1), 0),
        ((6,), (1,), 1),
        ((2,), (6,), 0),
        ((2,), (-1,), 3),
        ((2, 3), (3,), 0),
        ((2**40,), (1,), 0),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    head = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
    head += b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    body = b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, size, stride))
    with pytest.raises(InputError, match="not a valid checkpoint"):
        open_torch(zipped(tmp_path / "a.bin", head + body + b"tRs.", {"0": bytes(24)}))


def test_damaged_archives(tmp_path: Path) -> None:
    good = pickled_dict(lazies({"w": np.zeros(2, np.float32)}))
    with pytest.raises(InputError, match="storage '0' of 2 elements is missing"):
        open_torch(zipped(tmp_path / "a.bin", good))
    with pytest.raises(InputError, match="storage '0' of 2 elements is 4 bytes long"):
        open_torch(zipped(tmp_path / "a.bin", good, {"0": bytes(4)}))
    with pytest.raises(InputError, match="compressed, encrypted or duplicated"):
        open_torch(zipped(tmp_path / "a.bin", good, {"0": bytes(8)}, compression=zipfile.ZIP_DEFLATED))
    whole = zipped(tmp_path / "a.bin", good, {"0": bytes(8)}).read_bytes()
    assert open_torch(tmp_path / "a.bin")["w"].shape == (2,)
    (tmp_path / "a.bin").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="truncated"):
        open_torch(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        open_torch(tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("model/weights", b"1")
    with pytest.raises(InputError, match=r"0 data\.pkl, expected one"):
        open_torch(tmp_path / "a.bin")


def test_the_old_format_says_how_to_convert() -> None:
    with pytest.raises(InputError, match=r"before version 1.6: with torch, load it and save it again"):
        open_torch(DATA / "torch_legacy.bin")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_fuzzed_pickles_raise_input_errors_or_build_data(data: st.DataObject) -> None:
    pickled = bytearray(pickled_dict(lazies({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.int64)})))
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    try:
        safe_loads(bytes(pickled), "fuzzed", {("collections", "OrderedDict"): OrderedDict}, lambda pid: pid)
    except InputError as error:
        assert "fuzzed" in str(error)
