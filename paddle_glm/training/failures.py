"""What ends a run on all ranks: ranks that do not fit together, and numbers that are not finite."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import paddle
import paddlenlp
from paddle import Tensor

from paddle_glm.checkpoint.weight_files import is_weight_file
from paddle_glm.data.data_files import find_data_files
from paddle_glm.errors import InputError
from paddle_glm.parallel.watchdog import Watchdog
from paddle_glm.training.arguments import DataArguments, FinetuneArguments
from paddle_glm.training.model_arguments import ModelArguments
from paddle_glm.version import __version__

# Of larger files, blocks of this size are compared, evenly spread.
_WHOLE_FILE_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 20
_BLOCKS = 64
_NEVER = 2**31
# These may differ from machine to machine.
_OWN_FLAGS = {"device", "disable_tqdm"}


class NonFiniteError(InputError):
    """NaN or infinity in training. order: of several ranks' errors, the one with the least is told."""

    def __init__(self, problem: str, step: int, order: float | None = None) -> None:
        super().__init__(
            f"{problem} in step {step}; no later checkpoint has been written. Lower --learning_rate, raise "
            "--warmup_steps, or look for broken rows"
        )
        self.order = step if order is None else order


class FiniteLosses:
    """Remembers, on the device, the first optimizer step in which this rank's loss was not finite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def add(self, loss: Tensor, step: int) -> None:
        """loss: a scalar of one batch of optimizer step `step`. Does not wait for the device."""
        with paddle.no_grad():
            found = paddle.where(
                paddle.isfinite(loss.detach()).reshape([1]),
                paddle.full([1], 2**31, "int64"),
                paddle.full([1], step, "int64"),
            )
            self._first = found if self._first is None else paddle.minimum(self._first, found)

    def check(self, grad_norm: Tensor | None, step: int) -> None:
        """Raise `NonFiniteError`; waits for the device. step: the present one. grad_norm: over all ranks."""
        first = _NEVER if self._first is None else int(self._first)
        if first <= step:
            raise NonFiniteError("the loss is NaN or infinite", first)
        if grad_norm is not None and not bool(paddle.isfinite(grad_norm).all()):
            raise NonFiniteError(
                "the gradients are NaN or infinite, though the loss is not,", step, step + 0.5
            )


def check_ranks_agree(
    watchdog: Watchdog,
    args: FinetuneArguments,
    data_args: DataArguments,
    model_args: ModelArguments,
    resume: Path | None,
) -> None:
    """Raise `InputError` on all ranks where one has other versions, flags, rows, model, or output_dir.

    resume: the checkpoint to resume from.
    """
    packages = {"paddle": paddle.__version__, "paddlenlp": paddlenlp.__version__, "paddle_glm": __version__}
    values = {
        "versions": json.dumps(packages),
        "the checkpoint to resume from": "none" if resume is None else resume.name,
        **_flag_values(args, data_args, model_args),
    }
    files = find_data_files(
        data_args.task_name_or_path, data_args.train_file, data_args.validation_file, data_args.test_file
    )
    for kind in ("train", "validation", "test"):
        path: Path | None = getattr(files, kind)
        if path is not None:
            values[f"the {kind} rows ({path.name})"] = _digest([path])
    model = Path(model_args.model_name_or_path)
    names = sorted(
        path for path in model.iterdir() if path.name == "config.json" or is_weight_file(path.name)
    )
    values["the model in --model_name_or_path"] = _digest(names)
    marker = _write_marker(Path(args.output_dir), watchdog.rank)
    watchdog.check_equal(values)
    if marker is not None:
        seen = marker.read_text(encoding="utf-8") if marker.is_file() else "another folder"
        watchdog.check_equal({"--output_dir (all machines must share it)": seen})
        if watchdog.rank == 0:
            marker.unlink()


def _flag_values(*groups: Any) -> dict[str, str]:
    """{flag: value} of all flags but paths, whose contents are compared."""
    values = {}
    for group in groups:
        for item in fields(group):
            value = getattr(group, item.name)
            is_path = isinstance(value, (str, Path)) and os.sep in str(value)
            if item.name not in _OWN_FLAGS and not is_path:
                values[f"--{item.name}"] = json.dumps(value, default=str)
    return values


def _digest(paths: Iterable[Path]) -> str:
    """Size and hash of files; of large ones evenly spread blocks are hashed."""
    total, found = 0, hashlib.blake2b(digest_size=8)
    for path in paths:
        size = path.stat().st_size
        total += size
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE_BYTES:
                while block := file.read(_BLOCK_BYTES):
                    found.update(block)
                continue
            for index in range(_BLOCKS):
                file.seek((size - _BLOCK_BYTES) * index // (_BLOCKS - 1))
                found.update(file.read(_BLOCK_BYTES))
    return f"{total} bytes with hash {found.hexdigest()}"


def _write_marker(output_dir: Path, rank: int) -> Path | None:
    """A file in output_dir that rank 0 writes and all others see; None where all are on one machine."""
    endpoints = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "")
    if len({endpoint.rpartition(":")[0] for endpoint in endpoints.split(",")}) < 2:
        return None
    # A name that no machine has asked for before: network file systems remember what was missing.
    marker = output_dir / f".ranks-{hashlib.blake2b(endpoints.encode(), digest_size=8).hexdigest()}"
    if rank == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        marker.write_text(uuid.uuid4().hex, encoding="utf-8")
    return marker
