"""Runs commands of ours in turn, as far as Linux can pretend to be Windows or macOS.

    python -m tests.machines.simulate win32 < COMMANDS.json

COMMANDS.json: [[word, ...], ...]; `chat` reads two lines, `serve` answers one request and is interrupted.
What those systems lack is hidden from our modules, or from everything where only ours use it. On "win32" a
file that this process has open or mapped is neither renamed nor removed, and nor is a folder around it;
folders cannot be opened; only what is open for writing is flushed.
"""

import builtins
import errno
import fcntl
import importlib
import io
import json
import mmap
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported as what they are: how they meet another system is not ours to test.
THIRD_PARTY_MODULES = (
    "paddle",
    "paddlenlp.trainer",
    "jieba",
    "nltk",
    "rouge_chinese",
    "matplotlib.pyplot",
    "visualdl",
)
THIRD_PARTY_MODULES += (
    "fastapi",
    "uvicorn",
    "httpx",
    "psutil",
    "sentencepiece",
    "tqdm",
    "asyncio",
    "concurrent.futures",
)
UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios"}
UNIX_OS_ATTRIBUTES = (
    "sched_getaffinity",
    "fork",
    "killpg",
    "getuid",
    "getpgid",
    "setsid",
    "mkfifo",
    "uname",
    "sysconf",
)
UNIX_OS_ATTRIBUTES += (
    "posix_fadvise",
    "posix_fallocate",
    "pread",
    "pwrite",
    "sync",
    "O_DIRECTORY",
    "O_DIRECT",
)


def hide_modules(hidden: set[str]) -> None:
    original = builtins.__import__

    def checked(name: str, scope: Any = None, *rest: Any, **more: Any) -> Any:
        if name in hidden and scope and str(scope.get("__name__", "")).startswith("paddle_glm"):
            raise ImportError(f"No module named {name!r}")
        return original(name, scope, *rest, **more)

    builtins.__import__ = checked


def hide_attributes(module: types.ModuleType, names: tuple[str, ...]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def in_use(path: Any) -> bool:
    """Whether this process has the file, or one below the folder, open or mapped."""
    wanted = os.path.realpath(os.fsdecode(path))
    if not os.path.exists(wanted):
        return False
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    held = [line.split(maxsplit=5)[-1] for line in maps]
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return any(name == wanted or name.startswith(wanted + "/") for name in held)


def refuse_changes_to_open_files() -> None:
    def guarded(action: Callable) -> Callable:
        def act(path: Any, *rest: Any, **more: Any) -> Any:
            if any(in_use(one) for one in (path, *rest[:1]) if isinstance(one, (str, bytes, os.PathLike))):
                raise PermissionError(errno.EACCES, "The process cannot access the file", os.fspath(path))
            return action(path, *rest, **more)

        return act

    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        setattr(os, name, guarded(getattr(os, name)))
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    os_open, os_fsync, os_rename = os.open, os.fsync, os.rename

    def open_file(path: Any, *rest: Any, **more: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return os_open(path, *rest, **more)

    def flush_file(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os_fsync(descriptor)

    def rename(source: Any, target: Any) -> None:
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, "File exists", os.fspath(target))
        os_rename(source, target)

    os.open, os.fsync, os.rename = open_file, flush_file, rename  # type: ignore[assignment]


def fake_msvcrt() -> types.ModuleType:
    module = types.ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, size: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    module.LK_NBLCK, module.locking = 2, locking  # type: ignore[attr-defined]
    return module


def simulate_platform(platform: str) -> None:
    for name in THIRD_PARTY_MODULES:
        importlib.import_module(name)
    hide_modules(UNIX_MODULES if platform == "win32" else set())
    hide_attributes(
        os, UNIX_OS_ATTRIBUTES if platform == "win32" else ("sched_getaffinity", "posix_fadvise", "O_DIRECT")
    )
    hide_attributes(mmap, ("MADV_SEQUENTIAL", "MADV_DONTNEED") if platform == "win32" else ())
    real, sys.platform = sys.platform, platform
    importlib.import_module("paddle_glm.system")
    sys.platform = real
    if platform == "win32":
        sys.modules["msvcrt"] = fake_msvcrt()
        refuse_changes_to_open_files()


def request_and_interrupt(port: int) -> None:
    """Wait until a server listens, ask it once, and end it as Ctrl-C does."""
    import httpx

    address, question = f"http://127.0.0.1:{port}/v1/chat/completions", {"role": "user", "content": "你好"}
    while True:
        try:
            answer = httpx.post(address, json={"messages": [question], "max_tokens": 2}, timeout=60)
            break
        except httpx.ConnectError:
            time.sleep(0.1)
    print("served", answer.status_code, flush=True)
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    simulate_platform(sys.argv[1])
    commands = json.load(sys.stdin)
    from paddle_glm.main import main as run

    for words in commands:
        if words[0] == "chat":
            sys.stdin = io.StringIO("你好\nstop\n")
        if words[0] == "serve":
            port = int(words[words.index("--port") + 1])
            threading.Thread(target=request_and_interrupt, args=(port,), daemon=True).start()
        start = time.perf_counter()
        code = run(words)
        print(f"\nran {words[0]}: {code} in {time.perf_counter() - start:.1f} s", flush=True)
    left = [
        str(path) for path in Path.cwd().rglob(".*") if path.suffix in (".lock", ".incomplete", ".previous")
    ]
    print("left over:", left, flush=True)


if __name__ == "__main__":
    main()
