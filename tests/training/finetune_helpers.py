"""What the tests of finetuning share: rows on disk, runs in this process, and their results."""

import json
from pathlib import Path

import numpy as np

from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.main import main


def write_rows(folder: Path, rows: list[dict], dev: int = 6) -> Path:
    """`train.json` and `dev.json` (the last `dev` rows), one object per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:-dev]), ("dev", rows[-dev:])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def finetune(flags: str, *words: object) -> int:
    """The exit code of `paddle-glm finetune` in this process; `words` may hold spaces, `flags` are split."""
    return main(["finetune", *flags.split(), *map(str, words)])


def read_log(folder: Path) -> list[dict]:
    return [
        json.loads(line) for line in (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_log(folder) if "loss" in record]


def max_parameter_difference(first: Path, second: Path) -> float:
    """Over all parameters of two checkpoints, whatever degrees they were written with."""
    one, two = open_checkpoint(first), open_checkpoint(second)
    return max(float(np.abs(one.read(name) - two.read(name)).max()) for name in one.names())


def resumable_files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file that continues a run; paths and dates may differ in the others."""
    skipped = ("manifest.json", "training_args.json")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in skipped}
