"""What lies in the output_dir of a run: whose checkpoints, which is continued, what may be removed and when.

A checkpoint says which run of the folder wrote it (`run` in its schedule.json). A run that starts anew takes
the next number, one that continues keeps it, and the checkpoint to continue from is the newest one of the
newest run. Checkpoints of earlier runs are therefore in nobody's way: they go, on `--overwrite_output_dir`,
when the run that replaces them has made a complete checkpoint or model. Nothing goes that this program did
not write, nor what the run starts from.
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
from paddle_glm.parallel import Mesh
from paddle_glm.peft import lora_config, prefix
from paddle_glm.peft.adapter_folder import ADAPTER_FLAGS
from paddle_glm.system import retry_while_in_use
from paddle_glm.training.loss_curve import LOG_FILE

CHECKPOINT_PREFIX = "checkpoint-"
SCHEDULE_FILE = "schedule.json"
# The trained model is complete here before it is moved into output_dir.
STAGING_FOLDER = ".final"
# Beside weights, what a run writes into output_dir itself; the second only where all of a model is trained.
_ADAPTER_FILES = (
    prefix.PREFIX_WEIGHTS_FILE,
    prefix.PREFIX_CONFIG_FILE,
    lora_config.ADAPTER_WEIGHTS_FILE,
    lora_config.ADAPTER_CONFIG_FILE,
)
_MODEL_FILES = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, order=True)
class SavedCheckpoint:
    """A complete checkpoint; the order is that in which they were written."""

    run: int
    step: int
    folder: Path = field(compare=False)


def list_checkpoints(output_dir: Path) -> list[SavedCheckpoint]:
    """The complete checkpoints of all runs, in order."""
    return sorted(
        SavedCheckpoint(_read_schedule(folder).get("run", 0), step, folder)
        for step, folder in _checkpoint_folders(output_dir)
        if _is_checkpoint(folder)
    )


class RunFolder:
    """output_dir as one run sees it.

    source_folders: {flag: folder} of what the run starts from. resume: the checkpoint that it continues, or
    None.
    run_number: the run's, among those of this folder.
    """

    def __init__(
        self,
        path: Path,
        overwrite: bool = False,
        source_folders: Mapping[str, str | None] | None = None,
        resume_from: str | None = None,
    ) -> None:
        """resume_from: the checkpoint to continue from, "True" for the newest complete one, "False" for none,
        or
        None: the newest unless `overwrite`.

        Raises `InputError` where what is wanted is not there whole. Nothing is changed on disk.
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
        self.run_number = found[-1].run + (not self.continues_last_run) if found else 1

    def _find_resume_checkpoint(self, found: list[SavedCheckpoint], needed: bool) -> Path | None:
        for _, folder in _checkpoint_folders(self.path):
            if (folder / SCHEDULE_FILE).is_file() and not _is_checkpoint(folder):
                logger.warning(f"{folder} is incomplete: ignored")
        # A run that starts from a checkpoint's weights continues no run that made them.
        before = max((one.run for one in found if self._source_flag_of(one.folder)), default=-1)
        newest = found[-1].folder if found and found[-1].run > before else None
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
        """The flag whose folder is this one or lies in it."""
        for flag, start in self.source_folders.items():
            inner = Path(os.path.realpath(start))
            if any(_is_same_folder(folder, one) for one in (inner, *inner.parents)):
                return flag
        return None

    # Before anything is changed.

    def check(self, mesh: Mesh, trained: str | None) -> None:
        """Raise `InputError` where this run could not continue, or its model not be written here.

        trained: the configuration file of what is trained beside a model, None where all of it is.
        """
        check_output_folder(self.path, "--output_dir", allow_existing=True)
        for flag, start in self.source_folders.items():
            if _is_same_folder(self.path, start):
                raise InputError(
                    f"{flag} {start} is --output_dir itself, where the trained model would take its place: "
                    "give another --output_dir"
                )
        claimed = {MANIFEST, *_ADAPTER_FILES, *(() if trained else (*_MODEL_FILES, *vocab_files()))}
        names = [
            path.name for path in _list_files(self.path) if is_weight_file(path.name) or path.name in claimed
        ]
        if odd := sorted(set(names) - _files_of_runs(self.path)):
            raise InputError(
                f"--output_dir {self.path} holds {', '.join(odd[:5])}, which no run of `paddle-glm finetune` "
                "wrote there and none replaces: give another --output_dir"
            )
        if self.resume is not None:
            _check_compatible(self.resume, mesh, trained)

    def check_checkpoint_paths(self, saves: Callable[[int], bool]) -> None:
        """Raise `InputError` where the run will want to write a checkpoint over what it must not replace.

        saves: whether the run writes a checkpoint at a step.
        """
        for step, folder in _checkpoint_folders(self.path):
            if not saves(step):
                continue
            if flag := self._source_flag_of(folder):
                raise InputError(
                    f"{flag} {self.source_folders[flag]}: this run would write its own "
                    f"{folder.name} in its place: "
                    "give another --output_dir"
                )
            if folder.is_symlink() or not (folder / SCHEDULE_FILE).is_file():
                raise InputError(
                    f"{folder} was not written by `paddle-glm finetune`, and this run would write its own "
                    f"{folder.name} in its place: move it, or give another --output_dir"
                )
            if self.resume is None and not self.overwrite:
                raise InputError(
                    f"{folder} is an earlier run's, and this one would write its own in its place: give "
                    "another --output_dir, or --overwrite_output_dir"
                )

    # While the run goes on; by the first process alone.

    def start(self) -> None:
        """Make the folder, end what an earlier run left half done, and keep its log."""
        self.path.mkdir(parents=True, exist_ok=True)
        publish_final_model(self.path)
        remove_leftovers(self.path, f"{CHECKPOINT_PREFIX}*")
        log = self.path / LOG_FILE
        if self.continues_last_run:
            if (
                kept := self._log_backup_path(self.run_number)
            ).is_file():  # the run that had begun anew made nothing
                os.replace(kept, log)
            return
        kept = self._log_backup_path(self.run_number - 1)
        if kept.is_file():
            shutil.copyfile(kept, log)
        elif log.is_file():
            shutil.copyfile(log, kept)

    def _log_backup_path(self, run: int) -> Path:
        """Where the log of an earlier run is kept until this one has made something."""
        return self.path / f"train_log.run{run}.jsonl"

    def remove_superseded(self) -> None:
        """Called when this run has written something complete: what it replaces goes."""
        for log in self.path.glob("train_log.run*.jsonl"):
            if re.fullmatch(r"train_log\.run\d+\.jsonl", log.name):
                retry_while_in_use(log.unlink)
        if not self.overwrite or self.resume is not None:
            return
        for one in list_checkpoints(self.path):
            if one.run < self.run_number and not self._source_flag_of(one.folder):
                _remove_checkpoint(one.folder, "--overwrite_output_dir replaces an earlier run's")

    def rotate_checkpoints(self, limit: int | None, best: str | None) -> None:
        """Keep `limit` checkpoints of this run: the newest, the best, then the next newest; None keeps all.

        With a limit of 1 and a best one that is not the newest, two stay.
        """
        if not limit or limit < 1:
            return
        found = [one.folder for one in reversed(list_checkpoints(self.path)) if one.run == self.run_number]
        best_name = Path(best).name if best else None
        fixed = [folder for folder in found if folder == found[0] or folder.name == best_name]
        others = [folder for folder in found if folder not in fixed and not self._source_flag_of(folder)]
        for folder in others[max(limit - len(fixed), 0) :]:
            _remove_checkpoint(folder, f"save_total_limit is {limit}")


def publish_final_model(output_dir: Path) -> None:
    """Move the trained model from output_dir/.final into output_dir, in the place of an earlier run's.

    Ends what a crash interrupted: until the manifest is moved, last, both folders together hold the model,
    and output_dir is not complete. Nothing is done where .final is not there whole. Raises `InputError`,
    with nothing changed, where files of others are in the way.
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
            f"{output_dir} holds {', '.join(odd)}, which no run wrote there; the trained model is whole in "
            f"{staging}: move them, then run the same command again"
        )
    known = read_manifest(output_dir) or {}
    for name in old - {MANIFEST}:
        retry_while_in_use((output_dir / name).unlink, True)
    # Names that the old manifest does not have come first: while one is missing, it fits no folder.
    for name in sorted(waiting, key=lambda name: (name in known, name)):
        retry_while_in_use(os.replace, staging / name, output_dir / name)
    retry_while_in_use(os.replace, staging / MANIFEST, output_dir / MANIFEST)
    staging.rmdir()


def _remove_checkpoint(checkpoint: Path, reason: str) -> None:
    """Remove a checkpoint, unless it is a link, or something came into its folder after it was written."""
    if checkpoint.is_symlink():
        logger.warning(f"{checkpoint} stays, since it is a link ({reason})")
        return
    if others := files_not_in_manifest(checkpoint):
        logger.warning(f"{checkpoint} stays, since it holds {others[0]} ({reason})")
        return
    logger.info(f"removing {checkpoint}: {reason}")
    remove_folder_atomically(checkpoint)


def rename_obstructing(folder: Path) -> None:
    """Rename a folder that no checkpoint may replace: not complete, or with files that came later."""
    if is_complete(folder) and not files_not_in_manifest(folder):
        return
    free = (folder.with_name(f"{folder.name}.kept{number or ''}") for number in range(1000))
    other = next(path for path in free if not path.exists())
    logger.warning(f"{folder} is not complete, or holds files of others: it is {other.name} from now on")
    retry_while_in_use(os.rename, folder, other)


def _files_of_runs(output_dir: Path) -> set[str]:
    """Files directly in output_dir that a run's model consists of, by the manifests; those of a folder that
    another command wrote are none.
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
    """The checkpoint that a flag names; raises `InputError` where there is none."""
    if not _is_checkpoint(checkpoint):
        raise InputError(
            f"--resume_from_checkpoint {checkpoint}: no complete checkpoint there; "
            f"give a {CHECKPOINT_PREFIX}N "
            "folder of `paddle-glm finetune`, or leave the flag out"
        )
    return checkpoint


def _check_compatible(checkpoint: Path, mesh: Mesh, trained: str | None) -> None:
    """Raise `InputError` for a checkpoint of other processes, or of a run that trained something else."""
    held = next((name for name in ADAPTER_FLAGS if (checkpoint / name).is_file()), None)
    if held != trained:
        what = {
            None: "all of a model",
            prefix.PREFIX_CONFIG_FILE: "a prefix",
            lora_config.ADAPTER_CONFIG_FILE: "LoRA",
        }
        raise InputError(
            f"{checkpoint} is of a run that trained {what[held]}, not {what[trained]}: give its flags, or "
            "another --output_dir, or --overwrite_output_dir to start anew"
        )
    schedule = _read_schedule(checkpoint)
    written = tuple(schedule.get(f"{kind}_parallel_degree") for kind in ("tensor", "data"))
    if written != (mesh.tensor.degree, mesh.data.degree):
        flag = ADAPTER_FLAGS[held] if held else "--model_name_or_path"
        raise InputError(
            f"{checkpoint} was written with tensor_parallel_degree {written[0]} and data_parallel_degree "
            f"{written[1]}, this run has {mesh.tensor.degree} and {mesh.data.degree}: resume with the same, "
            f"or start anew from its weights in another folder ({flag} {checkpoint} --output_dir NEW)"
        )


def _checkpoint_folders(output_dir: Path) -> Iterator[tuple[int, Path]]:
    """(N, path) of all that is called `checkpoint-N`, whoever wrote it."""
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
    """Whether both are there and the same folder, whatever they are called."""
    return one.exists() and other.exists() and os.path.samefile(one, other)
