"""Full speed from Paddle's MKL on processors that are not Intel's.

The CPU wheel of Paddle multiplies matrices with MKL 2019. On a processor of another maker it computes with
SSE2, unless MKL_DEBUG_CPU_TYPE names an instruction set: that is taken without asking the processor, so it
is set here from what the processor has. MKL reads the variable when a process first computes with it, not
when Paddle is imported. Later releases of MKL, like PyTorch's, ignore it.

`cpp_infer/src/mkl.cc` does the same for the C++ program.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "MKL_DEBUG_CPU_TYPE"
# With one of these the user has chosen already.
USER_VARIABLES = (VARIABLE, "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
CPUINFO = Path("/proc/cpuinfo")
AVX2, AVX512 = "5", "7"
# What MKL asks of an Intel processor before it takes AVX2 or AVX-512, by the names of /proc/cpuinfo.
_SSE_FLAGS = frozenset(("ssse3", "sse4_1", "sse4_2", "movbe", "popcnt", "pclmulqdq", "aes"))
AVX2_FLAGS = _SSE_FLAGS | {"f16c", "avx", "fma", "bmi1", "bmi2", "abm", "avx2"}
AVX512_FLAGS = AVX2_FLAGS | {"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"}


def choose_instructions(environment: MutableMapping[str, str] = os.environ, cpuinfo: Path = CPUINFO) -> None:
    """Set MKL_DEBUG_CPU_TYPE in the environment where that helps, for this process and those it starts.

    A value of the user stays, also an empty one. Nothing is set for Intel's processors, for processors
    without AVX2, and where there is no /proc/cpuinfo.
    """
    if any(name in environment for name in USER_VARIABLES) or not cpuinfo.is_file():
        return
    value = instruction_set(cpuinfo)
    if value is not None:
        environment[VARIABLE] = value


def instruction_set(cpuinfo: Path) -> str | None:
    """The value for the processor that the file describes; None: MKL chooses better itself."""
    fields: dict[str, str] = {}
    with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, text = line.partition(":")
            if not name.strip():
                break  # the next processor
            fields[name.strip()] = text.strip()
    flags = set(fields.get("flags", "").split())
    if fields.get("vendor_id") == "GenuineIntel":
        return None
    if flags >= AVX512_FLAGS:
        return AVX512
    return AVX2 if flags >= AVX2_FLAGS else None
