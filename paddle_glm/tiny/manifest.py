"""Record of what `paddle-glm tiny` wrote to a folder, so that it replaces only its own files."""

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
    """settings: everything that determines the files; files: xxh3_128 digest of each data file, by name."""

    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "DatasetManifest":
        """The manifest of a folder; an empty one if it is missing or unreadable."""
        try:
            return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def is_up_to_date(self, folder: Path, settings: dict[str, Any]) -> bool:
        """Whether the folder holds the unmodified result of these settings."""
        return (
            self.settings == settings
            and all(self._unchanged(folder, name) for name in self.files)
            and is_complete(folder / "model")
        )

    def check_replaceable(self, folder: Path, names: Iterable[str], overwrite: bool) -> None:
        """Raise `InputError` for an existing model, and for data files that were modified."""
        model = folder / "model"
        if not overwrite and model.is_dir() and any(model.iterdir()):
            raise InputError(f"{model} exists with other settings: choose another folder or pass --overwrite")
        for name in names:
            if (folder / name).exists() and not self._unchanged(folder, name):
                raise InputError(
                    f"{folder / name} was changed, or was not made here, so it is not replaced: move it, or "
                    "choose another --output_dir"
                )

    def _unchanged(self, folder: Path, name: str) -> bool:
        path = folder / name
        return path.is_file() and file_digest(path) == self.files.get(name)
