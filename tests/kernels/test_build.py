"""Building the kernels: once, by one process, with errors that say what to do."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddle_glm.kernels import build
from paddle_glm.kernels.build import BuildError, built_library
from tests.paths import ROOT

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no compiler for the kernels: apt-get install g++",
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PADDLE_GLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    return tmp_path / "cache"


@pytest.fixture
def quick_build(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Compiles one small file instead of all."""
    source = build.SOURCES / "isa.cc"
    monkeypatch.setattr(build, "sources", lambda: [source])
    return [source]


@needs_compiler
def test_concurrent_processes_build_once(quick_build: list[Path]) -> None:
    reports: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: built_library(reports.append), range(4)))
    assert len(set(paths)) == 1 and paths[0].stat().st_size > 1000
    assert len(reports) == 1


@needs_compiler
def test_a_prebuilt_library_comes_first(quick_build: list[Path], empty_cache: Path) -> None:
    build.build(build.prebuilt_path(), build.find_compiler())
    assert built_library(pytest.fail) == build.prebuilt_path()
    assert not empty_cache.exists()


@needs_compiler
def test_a_failure_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.cc"
    broken.write_text("int f( {")
    monkeypatch.setattr(build, "sources", lambda: [broken])
    reports: list[str] = []
    for _ in range(2):
        with pytest.raises(BuildError, match=r"broken\.cc(?s:.*)error:"):
            built_library(reports.append)
    assert len(reports) == 1


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for _ in range(2):
        with pytest.raises(BuildError, match=r"apt-get install g\+\+\)$"):
            built_library(lambda _: None)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PADDLE_GLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="PADDLE_GLM_CACHE"):
        built_library(lambda _: None)


def test_sources_are_of_one_architecture() -> None:
    suffixes = {build.isa_suffix(source) for source in build.sources()}
    assert "" in suffixes
    assert not ("_neon" in suffixes and suffixes & {"_avx2", "_avx512", "_amx"})


def test_a_model_works_without_kernels_and_says_what_is_lost(tmp_path: Path) -> None:
    program = (
        "import paddle; from paddle_glm.kernels.library import kernel_library; "
        "assert kernel_library() is None and kernel_library() is None"
    )
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "PADDLE_GLM_CACHE": str(tmp_path / "none")}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("native CPU kernels are off") == 1
    assert "apt-get install g++" in run.stderr
