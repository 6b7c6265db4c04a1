"""Executes a notebook as Jupyter does: in a fresh kernel, cell after cell, the outputs kept.

`python tests/builders/notebook.py FOLDER` executes docs/analysis.ipynb in the folder that has the quickstart's
`results` and writes its outputs into it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "docs" / "analysis.ipynb"


def executed(folder: Path) -> NotebookNode:
    """The notebook with the outputs that its cells have in a working folder, and no times or versions."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    about = notebook.metadata
    client = NotebookClient(
        notebook,
        timeout=120,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=ERROR"],  # else it warns that its port on this machine is not encrypted
    )
    client.execute()
    notebook.metadata = about
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def images(notebook: NotebookNode) -> list[str]:
    """The ids of the cells whose output holds an image."""
    return [
        cell.id
        for cell in notebook.cells
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]


if __name__ == "__main__":
    NOTEBOOK.write_text(nbformat.writes(executed(Path(sys.argv[1]))) + "\n", "utf-8")
