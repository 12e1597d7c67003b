"""The loss curve of a run, read from its log."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_glm.errors import InputError

LOG_FILE = "train_log.jsonl"


@dataclass(frozen=True)
class LossCurve:
    """(optimizer step, loss) of training and of evaluation, in order."""

    train: tuple[tuple[int, float], ...]
    evaluation: tuple[tuple[int, float], ...]

    def summary(self, points: int = 8) -> str:
        """One line of training losses at about `points` steps, the first and the last among them."""
        last = len(self.train) - 1
        places = sorted({round(place * last / max(points - 1, 1)) for place in range(points)})
        return "loss " + "  ".join(f"{self.train[place][0]}:{self.train[place][1]:.3f}" for place in places)


def read_loss_curve(path: str | Path) -> LossCurve:
    """Read `train_log.jsonl`, or the one in an output_dir.

    Raises `InputError` where it is missing or holds no loss.
    """
    path = Path(path)
    path = path / LOG_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path} not found: expected the {LOG_FILE} that `paddle-glm finetune` writes")
    records = read_log_records(path)
    train = tuple((record["step"], record["loss"]) for record in records if "loss" in record)
    if not train:
        raise InputError(f"{path} holds no loss yet: see --logging_steps")
    evaluation = tuple((record["step"], record["eval_loss"]) for record in records if "eval_loss" in record)
    return LossCurve(train, evaluation)


def read_log_records(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log, which a run may still be writing; raises `InputError` for other files."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not a {LOG_FILE} of `paddle-glm finetune`: {error}") from error


def plot_loss_curve(curve: LossCurve, path: str | Path, title: str = "") -> None:
    """Write the curve as a PNG file; raises `InputError` where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("drawing needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")  # no pyplot: needs no display
    axes = figure.add_subplot()
    axes.plot(*zip(*curve.train, strict=True), label="training")
    if curve.evaluation:
        axes.plot(*zip(*curve.evaluation, strict=True), marker="o", linestyle="--", label="held-out rows")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
