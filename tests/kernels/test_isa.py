"""Which instruction set the kernels use: the best one, or what PADDLE_GLM_ISA names."""

import os
import subprocess
import sys

import pytest

from paddle_glm.kernels.library import kernel_library

pytestmark = pytest.mark.skipif(
    kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"
)
PROGRAM = "from paddle_glm.kernels.library import isa; print(isa())"


def chosen(name: str) -> tuple[str, str]:
    """The instruction set of a new process, and what it says on stderr about it."""
    environment = {**os.environ, "PADDLE_GLM_ISA": name}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True
    )
    lines = [line for line in result.stderr.splitlines() if "PADDLE_GLM_ISA" in line]
    return result.stdout.strip(), "\n".join(lines)


def test_portable_is_available_everywhere() -> None:
    assert chosen("portable") == ("portable", "")


@pytest.mark.parametrize("name", ["sse9", "neon" if os.uname().machine == "x86_64" else "avx2", "AVX2"])
def test_unknown_or_absent_names_are_told(name: str) -> None:
    best, silent = chosen("")
    assert silent == ""
    used, warning = chosen(name)
    assert used == best
    assert f"PADDLE_GLM_ISA={name}: using {best}; this processor has portable" in warning


def test_set_isa_refuses_unknown_and_absent_names() -> None:
    library = kernel_library()
    assert library is not None
    before = library.paddle_glm_isa()
    absent = b"neon" if os.uname().machine == "x86_64" else b"avx2"
    for name in (b"", b"sse9", absent):
        assert not library.paddle_glm_set_isa(name)
    assert library.paddle_glm_isa() == before
    assert library.paddle_glm_set_isa(b"portable")
    assert library.paddle_glm_isa() == b"portable"
    assert library.paddle_glm_set_isa(before)
