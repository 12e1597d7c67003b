"""Files that try to run code, to claim memory or to be what they are not: refused, whatever their name."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.lazy_tensor import as_lazy
from paddle_glm.checkpoint.pdparams_file import open_pdparams, write_pdparams
from paddle_glm.checkpoint.safe_pickle import MAX_OPERATIONS
from paddle_glm.checkpoint.torch_file import open_torch
from paddle_glm.errors import InputError

NAMES = ("model_state.pdparams", "optimizer.pdopt", "model_state.tp00.pdparams")


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Arguments:
    """Stands for a TrainingArguments in training_args.bin."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __setstate__(self, state: Any) -> None:
        open(state["marker"], "w").close()


def hostile(marker: Path) -> dict[str, Any]:
    text = str(marker)
    return {
        "os.system": Call(os.system, f"touch {text}"),
        "builtins.eval": Call(eval, f"open({text!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({text!r}, 'w')"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", text]),
        "open": Call(open, text, "w"),
        "import": Call(__import__, "antigravity"),
        "getattr chain": Call(getattr, Call(getattr, Call(__import__, "os"), "system"), "__call__"),
        "nested reduce": Call(os.system, Call(str, Call(os.system, f"touch {text}"))),
        "in a list": {"weight": [1, [2, (3, Call(os.system, f"touch {text}"))]]},
        "as a key": {Call(os.system, f"touch {text}"): 1},
        "beside a tensor": {"w": np.zeros(3, np.float32), "x": Call(os.system, f"touch {text}")},
        "an object with a state": {"args": Arguments(marker)},
        "an object array": {"w": np.array([Call(os.system, f"touch {text}")], object)},
        "DenseTensor of paddle": {"w": Call(eval, "data", {"data": 1})},
    }


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        (open_torch if path.suffix == ".bin" else open_pdparams)(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


def zipped(path: Path, pickled: bytes, **kwargs: Any) -> Path:
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", list(hostile(Path("/"))))
def test_nothing_is_executed(tmp_path: Path, kind: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    pickled = pickle.dumps(hostile(marker)[kind], protocol)
    for name in NAMES:
        (tmp_path / name).write_bytes(pickled)
        refused(tmp_path / name)
    for name in ("pytorch_model.bin", "training_args.bin"):
        refused(zipped(tmp_path / name, pickled))
        (tmp_path / name).write_bytes(pickled)
        refused(tmp_path / name)
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def test_such_files_do_run_code_elsewhere(tmp_path: Path) -> None:
    """What is refused above is not harmless by mistake."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(hostile(marker)["os.system"]))
    assert marker.exists()


def text_length(size: int) -> bytes:
    return b"\x80\x04\x8d" + struct.pack("<Q", size)


def array(shape: bytes, data: bytes, dtype: bytes = b"f4", order: bytes = b"<") -> bytes:
    """The pickle of {"w": an array}, by hand."""

    def short(text: bytes) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text

    return b"".join(
        [
            b"\x80\x04}" + short(b"w") + b"cnumpy.core.multiarray\n_reconstruct\n",
            b"(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01" + shape + b"cnumpy\ndtype\n",
            b"("
            + short(dtype)
            + b"\x89\x88tR(K\x03"
            + short(order)
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89" + data + b"tbs.",
        ]
    )


def test_the_array_by_hand_is_valid(tmp_path: Path) -> None:
    (tmp_path / "a.pdparams").write_bytes(array(b"K\x02\x85", b"C\x08" + bytes(8)))
    np.testing.assert_array_equal(open_pdparams(tmp_path / "a.pdparams")["w"], np.zeros(2, np.float32))
    (tmp_path / "a.pdparams").write_bytes(array(b"K\x00\x85", b"C\x00"))
    assert open_pdparams(tmp_path / "a.pdparams")["w"].shape == (0,)


# A tuple of 2**200 elements, each twice the one before; and one that is 100 thousand deep.
LAUGHS = b"\x80\x04]q\x00" + b"(h\x00h\x00tq\x00" * 200 + b"}"
NESTED = b"\x80\x04})" + b"\x85" * 100_000


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (text_length(2**63), "a text of 9223372036854775808 bytes"),
        (text_length(2**32), "a text of 4294967296 bytes"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc", "truncated"),
        (b"\x80\x04B\xff\xff\xff\xff", "truncated"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "the pickle operation LONG4"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 255, "a number of 255 bytes"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40), "the pickle operation BYTEARRAY8"),
        (b"\x80\x04" + b"]" * (MAX_OPERATIONS + 10), f"more than {MAX_OPERATIONS} operations"),
        (b"\x80\x04}(" + b"N" * 1000 + b"u.", "a key that is a NoneType"),
        (LAUGHS + b"h\x00Ns.", "a key that is a tuple"),
        (LAUGHS + b"h\x00.", "holds a tuple, expected a dict"),
        (LAUGHS + b"\x8c\x01wh\x00s.", "'w' is a tuple, expected a name and a tensor"),
        (NESTED + b"Ns.", "a key that is a tuple"),
        (NESTED + b"NR.", "a call of an unknown function"),
        (NESTED + NESTED[3:] + b"\x93.", "a name that is not a string"),
        (array(b"K\x03\x85", b"C\x08" + bytes(8)), "not a valid checkpoint"),
        (array(b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85", b"C\x08" + bytes(8)), "not a valid checkpoint"),
        (array(b"J\xff\xff\xff\xff\x85", b"C\x08" + bytes(8)), "whose shape is not a tuple of numbers >= 0"),
        (array(b"\x88\x85", b"C\x04" + bytes(4)), "whose shape is not a tuple of numbers >= 0"),
        (array(b"]", b"C\x04" + bytes(4)), "whose shape is not a tuple of numbers >= 0"),
        (array(b"(" + b"K\x01" * 70 + b"t", b"C\x04" + bytes(4)), "not a valid checkpoint"),
        (array(b"K\x02\x85", b"X\x08\x00\x00\x00" + b"a" * 8), "of something other than plain numbers"),
        (array(b"K\x02\x85", b"C\x08" + bytes(8), dtype=b"O"), "the dtype 'O'"),
        (array(b"K\x02\x85", b"C\x08" + bytes(8), dtype=b"V4"), "the dtype 'V4'"),
        (array(b"K\x02\x85", b"C\x08" + bytes(8), order=b">"), "a dtype that is not little-endian"),
        (b"\x80\x04}\x8c\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btRs.",
         "'w' is a _Array, expected a name and a tensor"),
        (b"\x80\x04}\x8c\x01wcnumpy\nndarray\ns.", "expected a name and a tensor"),
        (b"\x80\x04cnumpy\nndarray\n)R.", "a call of an unknown function"),
        (b"\x80\x04cnumpy.core.multiarray\nscalar\n.", "the name numpy.core.multiarray.scalar"),
        (b"\x80\x04c" + b"a" * 300, "a name without an end"),
        (b"\x80\x04", "truncated"),
        (b"PK\x03\x04 a zip", "does not start as a pickle"),
        (b"\x7fELF", "does not start as a pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "does not start as a pickle"),
        (b"", "is empty"),
    ],
)  # fmt: skip
def test_claims_and_bombs(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickled)
    tracemalloc.start()
    error = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in str(error)
    assert peak < 200 * 2**20


def test_zip_bombs(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "a.bin", bytes(100 << 20), compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    assert "compressed, encrypted or duplicated" in str(refused(bomb))
    # A directory of very many small entries, which the standard library would read into objects.
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 6) + bytes(16)
    size = 400_000
    names = b"".join(entry + f"{number:06d}".encode() for number in range(size))
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, len(names), 0, 0)
    tmp_path.joinpath("b.bin").write_bytes(names + end)
    assert "far more than a checkpoint needs" in str(refused(tmp_path / "b.bin"))
    # Sizes that reach beyond the file, or overlap in a storage that many tensors share.
    good = zipped(tmp_path / "c.bin", b"\x80\x02}.").read_bytes()
    assert open_torch(tmp_path / "c.bin") == {}
    at = good.rfind(b"PK\x01\x02")
    for offset, value in ((20, 2**31), (24, 2**31), (42, 2**31)):
        damaged = bytearray(good)
        struct.pack_into("<I", damaged, at + offset, value)
        tmp_path.joinpath("d.bin").write_bytes(damaged)
        refused(tmp_path / "d.bin")


def test_a_pickle_hidden_by_compression_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("model_state.pdparams").write_bytes(zlib.compress(b"\x80\x04}."))
    refused(tmp_path / "model_state.pdparams")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model_state.pdparams"
    write_pdparams(path, {"w": as_lazy(np.ones((50, 40), np.float32)), "b": as_lazy(np.ones(7))})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in str(refused(path))


def test_older_protocols_say_how_to_save_again(tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"w": np.zeros(3, np.float32)}, 2))
    assert "pickle protocol 2" in str(refused(path)) and "protocol=4" in str(refused(path))
    sliced = {"w@@.0": np.zeros(3, np.float32), "UnpackBigParamInfor@@": {"w": {"slices": ["w@@.0"]}}}
    path.write_bytes(pickle.dumps(sliced, 3))
    assert "pickle protocol 3" in str(refused(path))


def test_a_hostile_folder_is_refused_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    (tmp_path / "model_state.pdparams").write_bytes(pickle.dumps({}, 4))
    with pytest.raises(InputError, match="not valid JSON"):
        open_checkpoint(tmp_path).validate()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../../etc/passwd"}}')
    with pytest.raises(InputError, match=r"expected a \.safetensors file of this folder"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(InputError, match="is not a weight index"):
        open_checkpoint(tmp_path)


def test_what_a_refusal_leaves_of_the_machine(tmp_path: Path) -> None:
    """An OrderedDict with a state, as torch writes, is data; its state is dropped, not applied."""
    state = OrderedDict()
    state._metadata = {"": {"version": 1}}
    stream = io.BytesIO()
    pickle.Pickler(stream, 2).dump(state)
    assert open_torch(zipped(tmp_path / "a.bin", stream.getvalue())) == {}
