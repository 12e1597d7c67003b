"""Compile the native kernels once per version of sources and Paddle, and cache the library.

The library holds code for all instruction sets of the architecture and chooses at run time.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from paddle_glm.system import LINUX, try_lock, usable_cpus

SOURCES = Path(__file__).parent / "csrc"
PREBUILT = Path(__file__).parent / "prebuilt"
LIBRARY_NAME = "libpaddle_glm_kernels.so"

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
_AVX512_BF16 = (*_AVX512, "-mavx512bf16")
# Flags of files by the end of their names: everything else must run on any processor of the architecture.
_ISA_FLAGS = {
    "_avx2": _AVX2,
    "_avx512": _AVX512,
    "_avx512_bf16": _AVX512_BF16,
    "_amx": (*_AVX512_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    "_neon": ("-march=armv8.2-a+dotprod+fp16",),
}
_X86, _ARM = ("_avx2", "_avx512", "_avx512_bf16", "_amx"), ("_neon",)
_COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
)


class BuildError(Exception):
    """The compiler is missing or failed; the message says which and why."""


def isa_suffix(source: Path) -> str:
    """The end of a source's name that names its instruction set; "" for none."""
    return max((suffix for suffix in _ISA_FLAGS if source.stem.endswith(suffix)), key=len, default="")


def isa_flags(source: Path) -> tuple[str, ...]:
    """The compiler's flags for the instruction set of a source."""
    return _ISA_FLAGS.get(isa_suffix(source), ())


def sources(machine: str = platform.machine()) -> list[Path]:
    """The sources of an architecture, slowest to compile first."""
    excluded = _ARM if machine.lower() in ("x86_64", "amd64") else _X86
    found = [one for one in sorted(SOURCES.glob("*.cc")) if isa_suffix(one) not in excluded]
    return sorted(found, key=lambda one: not one.name.startswith("operators"))


def paddle_folder() -> Path:
    """The folder of the installed paddle package, which is not imported."""
    spec = find_spec("paddle")
    if spec is None or spec.origin is None:
        raise BuildError('paddle is not installed (pip install -c constraints.txt -e ".[cpu]")')
    return Path(spec.origin).parent


def find_compiler() -> str:
    """The C++ compiler: CXX, or g++ or clang++ on the PATH. Raises `BuildError`."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    raise BuildError("no C++ compiler (Debian and Ubuntu: apt-get install g++)")


def cache_folder() -> Path:
    """Where built libraries are kept: PADDLE_GLM_CACHE, else paddle_glm in the user's cache folder."""
    if folder := os.environ.get("PADDLE_GLM_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddle_glm"


def fingerprint() -> str:
    """Hash of what a library depends on: sources, Paddle and architecture."""
    digest = hashlib.sha256()
    digest.update((paddle_folder() / "version" / "__init__.py").read_bytes())
    digest.update(platform.machine().encode())
    for path in sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"), Path(__file__)]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def prebuilt_path() -> Path:
    """Where a wheel carries the library of these sources and this Paddle."""
    return PREBUILT / fingerprint() / LIBRARY_NAME


def cached_path() -> Path:
    """Where the library of these sources is, or will be built."""
    return cache_folder() / f"kernels-{fingerprint()}" / LIBRARY_NAME


def built_library(report: Callable[[str], None]) -> Path:
    """The library: the prebuilt one, else the one in the cache, which is built if needed.

    report: is told before a build, which takes a while. Of several processes one builds and the others wait.
    Raises `BuildError`; a failed compilation is remembered until `paddle-glm kernels --rebuild`.
    """
    if not LINUX:
        raise BuildError("they are built on Linux only")
    if (prebuilt := prebuilt_path()).exists():
        return prebuilt
    target = cached_path()
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target.with_suffix(".lock")):
            if not target.exists():
                _build_once(target, report)
    except OSError as error:
        raise BuildError(f"{error}; PADDLE_GLM_CACHE names another folder to build in") from error
    return target


def _build_once(target: Path, report: Callable[[str], None]) -> None:
    failure = target.with_name("error.txt")
    if failure.exists():
        remembered = failure.read_text(encoding="utf-8")
        raise BuildError(f"{remembered} (`paddle-glm kernels --rebuild` tries again)")
    compiler = find_compiler()
    report("building the native CPU kernels for this machine, once (half a minute on two cores)")
    try:
        build(target, compiler)
    except BuildError as error:
        failure.write_text(str(error), encoding="utf-8")
        raise


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; waits for another process that holds it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        while not try_lock(descriptor):
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def build(target: Path, compiler: str) -> None:
    """Compile the library into `target`, atomically. Raises `BuildError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        with ThreadPoolExecutor(usable_cpus()) as pool:
            objects = list(pool.map(lambda one: _compile(compiler, one, Path(scratch)), sources()))
        library = Path(scratch) / LIBRARY_NAME
        _run([compiler, "-shared", "-s", "-o", str(library), *map(str, objects), *_link_flags()])
        os.replace(library, target)


def _compile(compiler: str, source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    flags = [*_COMMON_FLAGS, *isa_flags(source)]
    if source.name.startswith("operators"):
        include = paddle_folder() / "include"
        python = sysconfig.get_paths()["include"]
        # Paddle's headers are compiled into templates that its own libraries resolve at run time.
        flags += [f"-isystem{include}", f"-isystem{include / 'third_party'}", f"-isystem{python}"]
        flags += ["-O2", "-DPADDLE_WITH_CUSTOM_KERNEL", "-w"]
    _run([compiler, *flags, "-c", str(source), "-o", str(target)])
    return target


def _link_flags() -> list[str]:
    """Paddle's libraries, which a process has loaded before this one: found by name, not by their folder.

    libiomp5 is Paddle's OpenMP runtime: with it a process has one pool of threads.
    """
    base, libs = paddle_folder() / "base", paddle_folder() / "libs"
    found = [base / "libpaddle.so", *(libs / f"lib{name}.so" for name in ("phi_core", "phi", "iomp5"))]
    return [str(library) for library in found if library.exists()]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr[-4000:]}")
