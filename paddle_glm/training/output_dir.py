"""The output_dir of a run: its checkpoints, which one is resumed, and what is removed when.

A checkpoint records the number of the run that wrote it (`run` in its schedule.json). A run that starts anew
takes the next number, a resumed one keeps its number, and the checkpoint to resume from is the newest one of
the newest run. With `--overwrite_output_dir`, checkpoints of earlier runs are removed once the new run has
written a complete checkpoint or model. Never removed are files that no run wrote, and what the run starts
from.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddlenlp.utils.log import logger

from paddle_glm.checkpoint.atomic_save import (
    MANIFEST,
    files_not_in_manifest,
    is_complete,
    read_manifest,
    remove_folder_atomically,
    remove_leftovers,
)
from paddle_glm.checkpoint.output_checks import check_output_folder
from paddle_glm.checkpoint.weight_files import is_weight_file
from paddle_glm.errors import InputError
from paddle_glm.models.family import vocab_files
from paddle_glm.peft import lora_config, prefix
from paddle_glm.peft.adapter_folder import ADAPTER_FLAGS
from paddle_glm.system import retry_while_in_use
from paddle_glm.training.loss_curve import LOG_FILE

CHECKPOINT_PREFIX = "checkpoint-"
SCHEDULE_FILE = "schedule.json"
# The trained model is written here completely before it is moved into output_dir.
STAGING_FOLDER = ".final"
# What a run writes into output_dir beside weights: with an adapter, and with a fully trained model.
_ADAPTER_FILES = (
    prefix.PREFIX_WEIGHTS_FILE,
    prefix.PREFIX_CONFIG_FILE,
    lora_config.ADAPTER_WEIGHTS_FILE,
    lora_config.ADAPTER_CONFIG_FILE,
)
_MODEL_FILES = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, order=True)
class SavedCheckpoint:
    """A complete checkpoint; ordered by the time of writing."""

    run_number: int
    step: int
    folder: Path = field(compare=False)


def list_checkpoints(output_dir: Path) -> list[SavedCheckpoint]:
    """The complete checkpoints of all runs, oldest first."""
    return sorted(
        SavedCheckpoint(_read_schedule(folder).get("run", 0), step, folder)
        for step, folder in _checkpoint_folders(output_dir)
        if _is_checkpoint(folder)
    )


class RunFolder:
    """output_dir of one run.

    resume: the checkpoint to resume from; None for a run that starts anew.
    run_number: this run's number among those of the folder.
    """

    def __init__(
        self,
        path: Path,
        overwrite: bool = False,
        source_folders: Mapping[str, str | None] | None = None,
        resume_from: str | None = None,
    ) -> None:
        """Raises `InputError` where the checkpoint to resume from is missing or incomplete; changes no file.

        source_folders: {flag: folder} of what the run starts from.
        resume_from: a checkpoint folder; "True": the newest complete one; "False": none; None: the newest
            complete one, if there is one, unless `overwrite`.
        """
        self.path, self.overwrite = path, overwrite
        self.source_folders = {
            f"--{flag}": Path(given) for flag, given in (source_folders or {}).items() if given
        }
        found = list_checkpoints(path)
        self.resume: Path | None = None
        choice = (resume_from or "").lower()
        if choice not in ("", "true", "false"):
            self.resume = self.source_folders["--resume_from_checkpoint"] = _require_checkpoint(
                Path(resume_from or "")
            )
        elif choice == "true" or not (choice == "false" or overwrite):
            self.resume = self._find_resume_checkpoint(found, resume_from is not None)
        self.continues_last_run = (
            self.resume is not None and bool(found) and _is_same_folder(found[-1].folder, self.resume)
        )
        self.run_number = found[-1].run_number + (not self.continues_last_run) if found else 1

    def _find_resume_checkpoint(self, found: list[SavedCheckpoint], needed: bool) -> Path | None:
        for _, folder in _checkpoint_folders(self.path):
            if (folder / SCHEDULE_FILE).is_file() and not _is_checkpoint(folder):
                logger.warning(f"{folder} is incomplete: ignored")
        # A run that starts from a checkpoint's weights does not resume the run that wrote it.
        before = max((one.run_number for one in found if self._source_flag_of(one.folder)), default=-1)
        newest = found[-1].folder if found and found[-1].run_number > before else None
        if newest is None and needed:
            raise InputError(
                f"--resume_from_checkpoint True: {self.path} holds no complete "
                f"{CHECKPOINT_PREFIX}N folder to continue; "
                "leave the flag out to start anew"
            )
        if newest is not None:
            logger.info(f"continuing from {newest} (--overwrite_output_dir starts anew)")
        return newest

    def _source_flag_of(self, folder: Path) -> str | None:
        """The flag of a source folder that is `folder` or lies in it."""
        for flag, start in self.source_folders.items():
            inner = Path(os.path.realpath(start))
            if any(_is_same_folder(folder, one) for one in (inner, *inner.parents)):
                return flag
        return None

    # Checks before training; they change no file.

    def check(self, adapter_config_file: str | None) -> None:
        """Raise `InputError` where the run cannot resume, or its model cannot be written to output_dir.

        adapter_config_file: file name of the trained adapter's configuration; None: the model is trained.
        """
        check_output_folder(self.path, "--output_dir", allow_existing=True)
        for flag, start in self.source_folders.items():
            if _is_same_folder(self.path, start):
                raise InputError(
                    f"{flag} {start} is --output_dir itself, which the trained model would overwrite: "
                    "give another --output_dir"
                )
        claimed = {
            MANIFEST,
            *_ADAPTER_FILES,
            *(() if adapter_config_file else (*_MODEL_FILES, *vocab_files())),
        }
        names = [
            path.name for path in _list_files(self.path) if is_weight_file(path.name) or path.name in claimed
        ]
        if odd := sorted(set(names) - _files_of_runs(self.path)):
            raise InputError(
                f"--output_dir {self.path} holds {', '.join(odd[:5])}, which no run of `paddle-glm finetune` "
                "wrote there and none replaces: give another --output_dir"
            )
        if self.resume is not None:
            _check_method(self.resume, adapter_config_file)

    def check_checkpoint_paths(self, saves: Callable[[int], bool]) -> None:
        """Raise `InputError` where a checkpoint of this run would overwrite what must be kept.

        saves: whether the run saves a checkpoint at a step.
        """
        for step, folder in _checkpoint_folders(self.path):
            if not saves(step):
                continue
            if flag := self._source_flag_of(folder):
                raise InputError(
                    f"{flag} {self.source_folders[flag]}: this run would overwrite {folder.name}: "
                    "give another --output_dir"
                )
            if folder.is_symlink() or not (folder / SCHEDULE_FILE).is_file():
                raise InputError(
                    f"{folder} was not written by `paddle-glm finetune`, and this run would overwrite it: "
                    "move it, or give another --output_dir"
                )
            if self.resume is None and not self.overwrite:
                raise InputError(
                    f"{folder} is an earlier run's, which this one would overwrite: give "
                    "another --output_dir, or --overwrite_output_dir"
                )

    # During training, on rank 0 only.

    def start(self) -> None:
        """Make the folder, finish what an interrupted run left, and back up an earlier run's log."""
        self.path.mkdir(parents=True, exist_ok=True)
        publish_final_model(self.path)
        remove_leftovers(self.path, f"{CHECKPOINT_PREFIX}*")
        log = self.path / LOG_FILE
        if self.continues_last_run:
            backup = self._log_backup_path(self.run_number)
            if backup.is_file():  # a run that started anew ended before its first checkpoint
                os.replace(backup, log)
            return
        backup = self._log_backup_path(self.run_number - 1)
        if backup.is_file():
            shutil.copyfile(backup, log)
        elif log.is_file():
            shutil.copyfile(log, backup)

    def _log_backup_path(self, run_number: int) -> Path:
        """Backup of an earlier run's log, until this run has written a checkpoint or model."""
        return self.path / f"train_log.run{run_number}.jsonl"

    def remove_superseded(self) -> None:
        """Remove what this run replaces; call it after each complete checkpoint or model."""
        for log in self.path.glob("train_log.run*.jsonl"):
            if re.fullmatch(r"train_log\.run\d+\.jsonl", log.name):
                retry_while_in_use(log.unlink)
        if not self.overwrite or self.resume is not None:
            return
        for one in list_checkpoints(self.path):
            if one.run_number < self.run_number and not self._source_flag_of(one.folder):
                _remove_checkpoint(one.folder, "--overwrite_output_dir replaces an earlier run's")

    def rotate_checkpoints(self, limit: int | None, best: str | None) -> None:
        """Keep `limit` checkpoints of this run: the newest, the best, then the next newest; None: keep all.

        With a limit of 1, the newest and the best are kept, if they differ.
        """
        if not limit or limit < 1:
            return
        found = [
            one.folder for one in reversed(list_checkpoints(self.path)) if one.run_number == self.run_number
        ]
        best_name = Path(best).name if best else None
        fixed = [folder for folder in found if folder == found[0] or folder.name == best_name]
        others = [folder for folder in found if folder not in fixed and not self._source_flag_of(folder)]
        for folder in others[max(limit - len(fixed), 0) :]:
            _remove_checkpoint(folder, f"save_total_limit is {limit}")


def publish_final_model(output_dir: Path) -> None:
    """Move the trained model from output_dir/.final into output_dir, replacing an earlier run's.

    Also finishes a move that was interrupted: the manifest is moved last, and until then both folders
    together hold the model and output_dir is not complete. Does nothing where .final is missing or
    incomplete. Raises `InputError`, and changes nothing, where files that no run wrote would be overwritten.
    """
    staging = output_dir / STAGING_FOLDER
    new = read_manifest(staging)
    if new is None:
        if staging.is_dir() and not any(staging.iterdir()):
            staging.rmdir()
        return
    waiting = {name for name in new if (staging / name).is_file()}
    moved = new.keys() - waiting
    if any(Path(name).name != name for name in new) or not all(
        _has_size(output_dir / name, new[name].get("size")) for name in moved
    ):
        return
    old = _files_of_runs(output_dir) - moved
    if odd := [name for name in sorted(waiting) if (output_dir / name).exists() and name not in old]:
        raise InputError(
            f"{output_dir} holds {', '.join(odd)}, which no run wrote there; the trained model is complete "
            f"in {staging}: move them, then run the same command again"
        )
    known = read_manifest(output_dir) or {}
    for name in old - {MANIFEST}:
        retry_while_in_use((output_dir / name).unlink, True)
    # Names that the old manifest lacks come first: until all are moved, neither manifest fits the folder.
    for name in sorted(waiting, key=lambda name: (name in known, name)):
        retry_while_in_use(os.replace, staging / name, output_dir / name)
    retry_while_in_use(os.replace, staging / MANIFEST, output_dir / MANIFEST)
    staging.rmdir()


def _remove_checkpoint(checkpoint: Path, reason: str) -> None:
    """Remove a checkpoint, unless it is a link or holds files that were added later."""
    if checkpoint.is_symlink():
        logger.warning(f"{checkpoint} is kept, since it is a link ({reason})")
        return
    if others := files_not_in_manifest(checkpoint):
        logger.warning(f"{checkpoint} is kept, since it holds {others[0]} ({reason})")
        return
    logger.info(f"removing {checkpoint}: {reason}")
    remove_folder_atomically(checkpoint)


def rename_obstructing(folder: Path) -> None:
    """Rename a folder that a checkpoint must not replace: incomplete, or with files added later."""
    if is_complete(folder) and not files_not_in_manifest(folder):
        return
    free = (folder.with_name(f"{folder.name}.kept{number or ''}") for number in range(1000))
    other = next(path for path in free if not path.exists())
    logger.warning(f"{folder} is incomplete or holds files that no run wrote: renamed to {other.name}")
    retry_while_in_use(os.rename, folder, other)


def _files_of_runs(output_dir: Path) -> set[str]:
    """Names of the files in output_dir that belong to a run's model, by the manifests.

    A folder that another command wrote has no training log, and its files do not count.
    """
    staging = output_dir / STAGING_FOLDER
    names = {
        name for name in read_manifest(staging) or () if not (staging / name).exists()
    }  # moved in already
    if (output_dir / LOG_FILE).is_file():
        own = read_manifest(output_dir)
        names |= set() if own is None else {MANIFEST, *own}
    return {name for name in names if Path(name).name == name}


def _require_checkpoint(checkpoint: Path) -> Path:
    """`checkpoint`; raises `InputError` where it is not a complete checkpoint."""
    if not _is_checkpoint(checkpoint):
        raise InputError(
            f"--resume_from_checkpoint {checkpoint}: no complete checkpoint there; "
            f"give a {CHECKPOINT_PREFIX}N "
            "folder of `paddle-glm finetune`, or leave the flag out"
        )
    return checkpoint


def _check_method(checkpoint: Path, adapter_config_file: str | None) -> None:
    """Raise `InputError` for a checkpoint of another training method."""
    found = next((name for name in ADAPTER_FLAGS if (checkpoint / name).is_file()), None)
    if found != adapter_config_file:
        method = {
            None: "all of a model",
            prefix.PREFIX_CONFIG_FILE: "a prefix",
            lora_config.ADAPTER_CONFIG_FILE: "LoRA",
        }
        raise InputError(
            f"{checkpoint} is of a run that trained {method[found]}, not {method[adapter_config_file]}: "
            "give its flags, or another --output_dir, or --overwrite_output_dir to start anew"
        )


def _checkpoint_folders(output_dir: Path) -> Iterator[tuple[int, Path]]:
    """(N, path) of everything named `checkpoint-N`."""
    for path in sorted(output_dir.glob(f"{CHECKPOINT_PREFIX}*")):
        match = re.fullmatch(rf"{CHECKPOINT_PREFIX}(\d+)", path.name)
        if match:
            yield int(match[1]), path


def _is_checkpoint(folder: Path) -> bool:
    return (folder / SCHEDULE_FILE).is_file() and is_complete(folder)


def _read_schedule(folder: Path) -> dict[str, Any]:
    schedule: dict[str, Any] = json.loads((folder / SCHEDULE_FILE).read_text(encoding="utf-8"))
    return schedule


def _has_size(file: Path, size: int | None) -> bool:
    return file.is_file() and file.stat().st_size == size


def _list_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _is_same_folder(one: Path, other: Path) -> bool:
    """Whether both exist and are the same folder, also by links and relative paths."""
    return one.exists() and other.exists() and os.path.samefile(one, other)
