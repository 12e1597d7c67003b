"""Runs the notebooks and keeps what they print, without what differs between machines.

    python -m tests.make_notebooks [NAME...]

Each runs in a folder of its own, which is removed. tests/test_notebooks.py runs them the same way.
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.paths import ROOT

FOLDER = ROOT / "notebooks"
NAMES = ("quickstart", "finetune")
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(notebook: Any, folder: Path, timeout: int = 1200) -> Any:
    """Run all cells in `folder` with this Python; raises CellExecutionError where one fails."""
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    client = NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute(env=environment)


def clean(notebook: Any) -> Any:
    """Leave out warnings, logs and colours, and what names this Python."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type != "code":
            continue
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        for output in cell.outputs:
            if "text" in output:
                output.text = _COLOURS.sub("", output.text)
    return notebook


def main(names: list[str]) -> None:
    for name in names or NAMES:
        notebook = read(name)
        with TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        nbformat.write(clean(notebook), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main(sys.argv[1:])
