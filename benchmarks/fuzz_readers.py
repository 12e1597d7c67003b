"""Fuzz all checkpoint readers with damaged and hostile files, and audit what they do.

    python benchmarks/fuzz_readers.py --inputs 300000

Files are mutated from valid ones (bytes changed, cut, repeated, spliced; lengths overwritten; hostile
pickle operations inserted) or random runs of pickle operations. A reader must give arrays or raise
InputError, with a message of ordinary length, within a second, without importing, compiling, starting
or opening anything (seen by an audit hook), and without memory growing with what a file claims.
"""

import argparse
import io
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_glm.array_types import Array  # noqa: E402
from paddle_glm.checkpoint.lazy_tensor import as_lazy  # noqa: E402
from paddle_glm.checkpoint.pdparams_file import open_pdparams, write_pdparams  # noqa: E402
from paddle_glm.checkpoint.safetensors_file import open_safetensors, write_safetensors  # noqa: E402
from paddle_glm.checkpoint.torch_file import open_torch, pickled_dict, write_torch  # noqa: E402
from paddle_glm.errors import InputError  # noqa: E402

MAX_SECONDS = 1.0
MAX_GROWTH = 256 << 20
MAX_MESSAGE = 2000
SUSPICIOUS = ("import", "exec", "compile", "os.", "subprocess.", "pickle.", "socket.", "shutil.", "ctypes.")
PICKLE_FRAGMENTS = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"c__builtin__\nexec\n",
    b"\x8c\x02os\x8c\x06system\x93", b"\x8c\x08builtins\x8c\x04eval\x93", b"X\x02\x00\x00\x00id\x85R",
    b"(X\x02\x00\x00\x00idtR", b"cnumpy\nload\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"cbuiltins\ntuple\n", b"ios\nsystem\n",
    b"\x81", b"\x92", b"R", b"b", b"Q", b"(", b"t", b"\x85", b"\x86", b"\x87", b"}", b"]", b")", b"N",
    b"\x88", b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"q\x00", b"h\x00", b"\x94", b"K\x07", b".",
    b"J\xff\xff\xff\xff", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"B\xff\xff\xff\xff",
    b"\x8e\xff\xff\xff\xff\x00\x00\x00\x00", b"\x8b\xff\xff\xff\x7f", b"\x8a\xff", b"\x80\x05",
    b"r\xff\xff\xff\xff", b"P0\n", b"I99999999999999999999\n", b")" + b"\x85" * 2000,
    b"]q\x00" + b"(h\x00h\x00tq\x00" * 40, b"[" * 2000, b'{"a":' * 500,
]  # fmt: skip
BOUNDARY_VALUES = [0, 1, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
Reader = Callable[[Path], dict[str, Array]]


class AuditWatcher:
    """An audit hook that records forbidden events while a file is read."""

    def __init__(self, allowed_path: Path) -> None:
        self.allowed_path, self.active, self.seen = str(allowed_path), False, set[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        opened = event == "open" and str(arguments[0]) != self.allowed_path
        if opened or event.startswith(SUSPICIOUS):
            self.seen.add(f"{event} {arguments!r:.200}")


def torch_archive(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(24))
    return stream.getvalue()


def valid_files(folder: Path) -> list[tuple[Reader, bytes]]:
    """Readers with valid files for each."""
    tensors = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3), "h": np.ones(4, np.float16),
        "empty": np.zeros((0, 4), np.float32), "scalar": np.array(1.5),
    }  # fmt: skip
    lazies = {name: as_lazy(tensor) for name, tensor in tensors.items()}
    path = folder / "seed"
    found: list[tuple[Reader, bytes]] = []
    pairs: tuple[tuple[Reader, Any], ...] = (
        (open_pdparams, write_pdparams),
        (open_torch, write_torch),
        (open_safetensors, write_safetensors),
    )
    for reader, write in pairs:
        write(path, lazies)
        found.append((reader, path.read_bytes()))
    found.append((open_pdparams, pickle.dumps({**tensors, "StructuredToParameterName@@": {"w": "x"}}, 4)))
    found.append((open_pdparams, pickle.dumps(tensors, 3)))
    found.append((open_torch, torch_archive(pickled_dict({"w": as_lazy(np.zeros(6, np.float32))}))))
    for reader, content in found:
        path.write_bytes(content)
        reader(path)
    return found


def mutate(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(8)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = rng.choice(PICKLE_FRAGMENTS)
        elif kind == 5:
            size = rng.choice((1, 2, 4, 8))
            data[at : at + size] = struct.pack("<Q", rng.choice(BOUNDARY_VALUES))[:size]
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at : at + rng.choice((0, 16))] = other[start : start + rng.choice((4, 32, 200))]
        else:
            data[at:at] = data[at : at + rng.choice((1, 16, 100))] * rng.choice((1, 2, 50))
    return bytes(data)


def random_pickle(rng: random.Random) -> bytes:
    return b"\x80\x04" + b"".join(rng.choices(PICKLE_FRAGMENTS, k=rng.randrange(1, 40))) + b"."


def random_input(rng: random.Random, valid: list[tuple[Reader, bytes]]) -> tuple[Reader, bytes]:
    """A reader and an input: usually a mutated file, sometimes random pickle opcodes."""
    if rng.random() < 0.2:
        pickled = random_pickle(rng)
        return (open_pdparams, pickled) if rng.random() < 0.5 else (open_torch, torch_archive(pickled))
    reader, content = rng.choice(valid)
    return reader, mutate(rng, content, [other for _, other in valid])


def read_outcome(reader: Reader, path: Path) -> str:
    """Whether the file was read or refused; raises for any forbidden behaviour."""
    try:
        tensors = reader(path)
    except InputError as error:
        assert len(str(error)) < MAX_MESSAGE, "a message that is too long"
        return "refused"
    except OSError as error:
        raise AssertionError(f"an OSError: {error}") from error
    size = path.stat().st_size
    for tensor in tensors.values():
        assert isinstance(tensor, np.ndarray), type(tensor)
        assert tensor.nbytes <= size, f"{tensor.nbytes} bytes of tensor in a file of {size}"
        tensor.tobytes()
    return "read"


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    rng = random.Random(seed)
    path = folder / "fuzzed"
    valid = valid_files(folder)
    watch = AuditWatcher(path)
    counts: Counter[str] = Counter()
    slowest = 0.0
    start_memory, start = peak_memory(), time.perf_counter()
    for number in range(inputs):
        reader, content = random_input(rng, valid)
        path.write_bytes(content)
        began = time.perf_counter()
        watch.active = True
        try:
            result = read_outcome(reader, path)
        except Exception as error:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}"
            kept.write_bytes(content)
            raise SystemExit(f"input {number}: {reader.__name__}: {error!r}; kept as {kept}") from error
        finally:
            watch.active = False
        slowest = max(slowest, time.perf_counter() - began)
        counts[f"{reader.__name__} {result}"] += 1
        if watch.seen or slowest > MAX_SECONDS or peak_memory() - start_memory > MAX_GROWTH:
            raise SystemExit(
                f"input {number} of seed {seed}: {watch.seen or ''} slowest {slowest:.2f} s, "
                f"memory {(peak_memory() - start_memory) >> 20} MiB more"
            )
    return {
        "inputs": inputs,
        **dict(sorted(counts.items())),
        "slowest in s": round(slowest, 4),
        "memory grown in MiB": (peak_memory() - start_memory) >> 20,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        for name, value in run(args.inputs, args.seed, Path(folder)).items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
