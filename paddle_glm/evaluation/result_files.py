"""Output files of an evaluation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PREDICTIONS_FILE = "generated_predictions.txt"
METRICS_FILE = "metrics.json"


def write_predictions_and_metrics(
    folder: Path, results: Mapping[str, Any], labels: Sequence[str], answers: Sequence[str]
) -> None:
    """Write `generated_predictions.txt` in the format of THUDM's script, and the metrics as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"labels": label, "predict": answer}, ensure_ascii=False) + "\n"
        for label, answer in zip(labels, answers, strict=True)
    ]
    (folder / PREDICTIONS_FILE).write_text("".join(lines), encoding="utf-8")
    (folder / METRICS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
