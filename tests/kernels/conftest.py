"""Every instruction set in turn."""

from collections.abc import Iterator

import pytest

from paddle_glm.kernels.library import isa, kernel_library

ISAS = ("portable", "neon", "avx2", "avx512", "avx512_bf16", "amx")


def set_isa(name: str) -> bool:
    """Whether the processor has it, and it is now used."""
    library = kernel_library()
    return library is not None and bool(library.paddle_glm_set_isa(name.encode()))


@pytest.fixture(params=ISAS)
def forced_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with each instruction set that this processor has."""
    before, name = isa(), str(request.param)
    if not set_isa(name):
        pytest.skip(f"this processor has no {name}")
    yield name
    assert set_isa(before)
