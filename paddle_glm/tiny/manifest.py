"""What `paddle-glm tiny` has made in a folder: it can be run again, and replaces its own files alone."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddle_glm.checkpoint import is_complete
from paddle_glm.checkpoint.hashed_file import file_digest
from paddle_glm.errors import InputError

FILE = "tiny.json"


@dataclass
class DatasetManifest:
    """settings: what decides over the bytes; files: xxh3_128 of each file of rows, by name."""

    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "DatasetManifest":
        """The record of a folder; an empty one where there is none that can be read."""
        try:
            return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def is_up_to_date(self, folder: Path, settings: dict[str, Any]) -> bool:
        """Whether the folder holds, unchanged, what these settings make."""
        return (
            self.settings == settings
            and all(self._unchanged(folder, name) for name in self.files)
            and is_complete(folder / "model")
        )

    def check_replaceable(self, folder: Path, names: Iterable[str], overwrite: bool) -> None:
        """Raise `InputError` for a model that is there, and for rows that are not those of this record."""
        model = folder / "model"
        if not overwrite and model.is_dir() and any(model.iterdir()):
            raise InputError(f"{model} exists, made otherwise: choose another folder or pass --overwrite")
        for name in names:
            if (folder / name).exists() and not self._unchanged(folder, name):
                raise InputError(
                    f"{folder / name} was changed, or was not made here, so it is not replaced: move it, or "
                    "choose another --output_dir"
                )

    def _unchanged(self, folder: Path, name: str) -> bool:
        path = folder / name
        return path.is_file() and file_digest(path) == self.files.get(name)
