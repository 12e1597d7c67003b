"""A rank that loads its part of a checkpoint holds its part and one tensor, whatever the files' format."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.merge import make_shards
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from tests.paths import ROOT

# 158 MB: embedding and head are 33 MB each.
CONFIG = ModelConfig(
    num_layers=3, hidden_size=1024, num_attention_heads=16, num_key_value_heads=4, head_dim=64,
    ffn_hidden_size=4096, vocab_size=16384, dtype="float16",
)  # fmt: skip
# Loads rank 1 of 4 and prints, in bytes: its part, the largest tensor, and the peak of memory meanwhile.
LOAD = """
import os, sys, threading, time
import numpy as np
from benchmarks.merge import anonymous_bytes
from paddle_glm.checkpoint import open_checkpoint

folder, how = sys.argv[1:]
if how == "model":
    import paddle
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.parallel import ProcessGroup
    paddle.ones([10]).sum()
before = peak = anonymous_bytes(os.getpid())
done = threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous_bytes(os.getpid()))
        time.sleep(0.0005)

thread = threading.Thread(target=watch)
thread.start()
checkpoint = open_checkpoint(folder)
if how == "model":
    model = AutoModel.from_pretrained(folder, dtype="float16", group=ProcessGroup(1, 4))
    part = sum(2 * parameter.size for parameter in model.parameters())
else:
    kept = [np.array(checkpoint.read(name, 1, 4)) for name in checkpoint.parameter_specs]
    part = sum(array.nbytes for array in kept)
done.set()
thread.join()
peak = max(peak, anonymous_bytes(os.getpid()))
print(part, max(checkpoint.read(name).nbytes for name in checkpoint.parameter_specs), peak - before)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("loading")
    assert make_shards(parent / "safetensors", CONFIG, 1) > 150e6
    for name, degree in (("bin", 1), ("pdparams", 1), ("shards", 2)):
        file_format = "safetensors" if name == "shards" else name
        reshard(parent / "safetensors", parent / name, degree, file_format=file_format)
    return {path.name: path for path in parent.iterdir()}


@pytest.mark.parametrize("how", ["arrays", "model"])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "pdparams", "shards"])
def test_one_rank_of_four(folders: dict[str, Path], kind: str, how: str) -> None:
    command = [sys.executable, "-c", LOAD, str(folders[kind]), how]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    part, largest, grown = map(int, done.stdout.split())
    assert part < 45e6
    assert grown > part - 1e6, "the loading was not seen"
    assert grown < part + largest + (8 << 20), f"{grown / 1e6:.0f} MB for a part of {part / 1e6:.0f} MB"
