"""Loading in 4 bits holds at most 1.2 times the model's 4-bit size and one tensor, and so does quantising."""

import math
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.checkpoint import LazyTensor, atomic_folder, save_checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.models.family import family_of
from tests.paths import ROOT

# 262 MB of float16: embedding and head are 33 MB each.
SMALL = ModelConfig(
    num_layers=4, hidden_size=1024, num_attention_heads=16, num_key_value_heads=4, head_dim=64,
    ffn_hidden_size=5120, vocab_size=16384, max_sequence_length=2048, dtype="float16",
)  # fmt: skip
CHATGLM2_6B = ModelConfig(dtype="float16", eos_token_id=2)
BLOCK = np.random.default_rng(0).normal(0, 0.02, 1 << 21).astype(np.float16)
# Prints the peak of anonymous memory, in bytes, above what the libraries take, and how long it took.
WATCHED = """
import os, sys, threading, time
from benchmarks.merge import anonymous_bytes

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous_bytes(os.getpid()))
        time.sleep(0.0005)

{before}
before = peak = anonymous_bytes(os.getpid())
done = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
done.set()
thread.join()
print(max(peak, anonymous_bytes(os.getpid())) - before, seconds)
"""
LOADED = """
import paddle
from paddle_glm.auto.model import AutoModel
paddle.ones([10]).sum()
"""
LOAD = "model = AutoModel.from_pretrained(sys.argv[1], dtype='float16', quantization_bit=4)"
QUANTIZE = """
from paddle_glm.main import main
assert main(["quantize", "--model_name_or_path", sys.argv[1], "--output_path", sys.argv[2]]) == 0
"""


def chunks(count: int) -> Iterator[np.ndarray]:
    while count:
        yield BLOCK[:count]
        count -= min(count, BLOCK.size)


def write(folder: Path, config: ModelConfig) -> None:
    """A float16 folder as the hub's, with small random numbers."""
    tensors = {
        name: LazyTensor(BLOCK.dtype, spec.shape, partial(chunks, math.prod(spec.shape)))
        for name, spec in family_of(config).parameters(config).items()
    }
    with atomic_folder(folder) as temporary:
        config.save_pretrained(temporary)
        save_checkpoint(temporary, tensors.items())


def sizes(config: ModelConfig) -> tuple[int, int]:
    """Bytes of the model in 4 bits, its floats in float16, and of the largest tensor of the float model."""
    family = family_of(config)
    packed = family.parameters(family.quantized_config(config, 4)).values()
    total = sum(math.prod(spec.shape) * np.dtype(spec.dtype or "float16").itemsize for spec in packed)
    return total, max(2 * math.prod(spec.shape) for spec in family.parameters(config).values())


def watched(code: str, *words: str, before: str = "") -> tuple[int, float]:
    """Peak of memory while `code` runs in a process of its own, and its seconds."""
    program = WATCHED.format(before=before, code=code)
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    grown, seconds = done.stdout.split()[-2:]
    return int(grown), float(seconds)


def check(folder: Path, config: ModelConfig) -> None:
    """Quantise the folder, then load it and the quantised one, and judge the memory that each took."""
    write(folder / "float", config)
    total, largest = sizes(config)
    grown, seconds = watched(QUANTIZE, str(folder / "float"), str(folder / "int4"))
    print(f"\n4 bits: {total / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB")
    print(f"quantize: {grown / 1e6:.0f} MB, {seconds:.1f} s")
    assert grown < 100e6, "some blocks of rows, whatever the model's size"
    for name in ("int4", "float"):
        grown, seconds = watched(LOAD, str(folder / name), before=LOADED)
        print(f"loading {name}: {grown / 1e6:.0f} MB ({(grown - largest) / total:.3f}), {seconds:.1f} s")
        assert grown > total - 10e6, "the loading was not seen"
        assert grown < 1.2 * total + largest, name


def test_a_small_model(tmp_path: Path) -> None:
    check(tmp_path, SMALL)


@pytest.mark.slow
def test_chatglm2_6b(tmp_path: Path) -> None:
    """Takes 17 GB of disk and some minutes."""
    check(tmp_path, CHATGLM2_6B)
