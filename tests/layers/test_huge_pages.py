"""Large parameters lie in memory for which huge pages are asked."""

from pathlib import Path

import numpy as np
import pytest
from paddle import nn

from paddle_glm.numpy_interop import cpu_view
from paddle_glm.parallel.layers import new_parameter
from paddle_glm.system import LINUX


def flags(address: int) -> list[str]:
    """What the kernel notes about the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        head = line.split(maxsplit=1)[0]
        if "-" in head:
            begin, end = (int(one, 16) for one in head.split("-"))
            inside = begin <= address < end
        elif inside and head == "VmFlags:":
            return line.split()[1:]
    return []


@pytest.mark.skipif(
    not LINUX or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="this system has no transparent huge pages",
)
@pytest.mark.parametrize("dtype", ["int8", "float16", "bfloat16", "float32"])
def test_large_parameters(dtype: str) -> None:
    parameter = new_parameter(nn.Layer(), (4096, 4096), dtype)
    values = cpu_view(parameter)
    assert parameter.shape == [4096, 4096] and not np.any(values.view(np.uint8))
    assert "hg" in flags(values.ctypes.data + values.nbytes // 2)
