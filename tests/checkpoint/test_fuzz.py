"""Some of the inputs that benchmarks/fuzz_readers.py makes; docs/security.md tells of a long run."""

import subprocess
import sys

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize("seed", [3, 4])
def test_damaged_files_are_refused_without_side_effects(seed: int) -> None:
    # In a process of its own: an audit hook cannot be taken away again.
    command = [sys.executable, "benchmarks/fuzz_readers.py", "--inputs", "4000", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = dict(line.split(": ") for line in done.stdout.splitlines())
    for reader in ("open_pdparams", "open_torch", "open_safetensors"):
        assert int(counts[f"{reader} refused"]) > 100
        assert int(counts[f"{reader} read"]) > 0
