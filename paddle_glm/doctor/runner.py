"""Starts workers, gives them checks, and survives those that crash or hang. Does not import Paddle."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from paddle_glm.system import kill_session

# To import Paddle and look at the device; the first time on a machine takes longest.
_START_SECONDS = 180
_TAIL = 25  # lines of a process's output that a report shows
# After one of these in a check's output, the process computes nothing any more.
_BROKEN_DEVICE = ("CUDA error", "cudaError", "CUBLAS", "CUDNN", "NCCL error", "OutOfMemory")
# Begins the reason of checks that are made for other devices.
FOR_OTHERS = "for"
Result = dict[str, Any]


class WorkerDied(Exception):
    """The message says how; `output` is what it printed last."""

    def __init__(self, message: str, output: list[str]) -> None:
        super().__init__(message)
        self.output = output


class Worker:
    """A process that runs checks. `checks`: its table of them; `device`: "cpu" or "gpu".

    Raises `WorkerDied` where it does not start.
    """

    def __init__(self, device: str, folder: Path, quick: bool, environment: Mapping[str, str]) -> None:
        self._log = (folder / f"worker-{os.urandom(4).hex()}.log").open(
            "w+", encoding="utf-8", errors="replace"
        )
        self._shown = 0
        flags = ["--quick"] if quick else []
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "paddle_glm.doctor.worker", device, str(folder), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **environment},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # what it launches ends with it
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        listing = self._answer(_START_SECONDS)
        self.device: str = listing["device"]
        self.checks: dict[str, Result] = listing["checks"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def run(self, name: str, seconds: int) -> Result:
        """What a check found. Raises `WorkerDied` if the process ends, or is ended after so many seconds."""
        assert self._process.stdin is not None
        self._new_output()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
        result: Result = self._answer(seconds)
        return result

    def _answer(self, seconds: int) -> Any:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise WorkerDied(f"no answer within {seconds} s", self._new_output()) from None
        if line:
            return json.loads(line)
        code = self._process.wait()
        how = f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        raise WorkerDied(f"its process {how}", self._new_output())

    def _new_output(self) -> list[str]:
        """The last lines printed since the last call."""
        self._log.seek(self._shown)
        lines = self._log.read().splitlines()
        self._shown = self._log.tell()
        return lines[-_TAIL:]

    def close(self) -> None:
        """End the process and all that it started."""
        kill_session(self._process)
        self._process.wait()


class Runner:
    """Runs checks one after the other, each in the worker for its environment.

    device: as the user names it; once started, the device that checks run on: "cpu" or "gpu".
    """

    def __init__(self, device: str, quick: bool, folder: Path) -> None:
        """folder: an empty one, for files of this run."""
        self.device, self._quick, self._folder = device, quick, folder
        self._workers: dict[tuple[tuple[str, str], ...], Worker] = {}

    def results(self, groups: Collection[str]) -> Iterator[tuple[str, Result]]:
        """(name, result) of every check of these groups, those that do not apply included.

        Results are those of `worker.run_check`, with the "group", and "output" where a process died.
        """
        try:
            first = self._worker({})
        except WorkerDied as death:
            reason = f"Paddle does not start on {self.device}: {death}"
            failure = {"status": "failed", "reason": reason, "output": death.output, "seconds": 0}
            yield "start", {"group": "environment", **failure}
            return
        self.device = first.device
        try:
            for name, entry in first.checks.items():
                if entry["group"] in groups:
                    yield name, {"group": entry["group"], **self._run(name, entry)}
        finally:
            for worker in self._workers.values():
                worker.close()

    def _worker(self, environment: Mapping[str, str]) -> Worker:
        key = tuple(sorted(environment.items()))
        if key not in self._workers:
            self._workers[key] = Worker(self.device, self._folder, self._quick, environment)
        return self._workers[key]

    def _run(self, name: str, entry: Result) -> Result:
        reason = None
        if self.device not in entry["devices"]:
            reason = f"{FOR_OTHERS} {'GPUs' if self.device == 'cpu' else 'CPUs'}"
        elif self._quick and entry["slow"]:
            reason = "left out by --quick"
        if reason is not None:
            return {"status": "not applicable", "reason": reason, "seconds": 0}
        environment, usable = entry["environment"], False
        try:
            worker = self._worker(environment)
            result = worker.run(name, entry["seconds"])
            usable = not _device_is_broken(result)
            return result
        except WorkerDied as death:
            return {"status": "failed", "reason": str(death), "output": death.output, "seconds": 0}
        finally:
            if not usable and (dead := self._workers.pop(tuple(sorted(environment.items())), None)):
                dead.close()


def _device_is_broken(result: Result) -> bool:
    text = str(result.get("reason")) + "".join(result.get("traceback", ()))
    return result["status"] == "failed" and any(mark in text for mark in _BROKEN_DEVICE)
