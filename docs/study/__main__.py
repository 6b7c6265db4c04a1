"""Makes every number and figure of docs/study/README.md from the tables beside it.

    python -m docs.study

`python -m docs.study.results STORE` collects these tables from the study's store.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deepcuts.figures.style import save_figure

from .claims import claims
from .figures import curves, forest
from .page import filled
from .results import read

HERE = Path(__file__).parent


def main(folder: Path = HERE) -> None:
    """Write the page `README.md` of a folder, whose text it already has, and its figures."""
    results = read()
    found = claims(results)
    page = folder / "README.md"
    page.write_text(filled(page.read_text("utf-8"), found, results), "utf-8")
    (folder / "img").mkdir(exist_ok=True)
    for stage in ("pruned", "retrained"):
        if (figure := curves(results, stage)) is not None:
            save_figure(figure, folder / "img" / f"{stage}.png")
    for claim in found:
        if any(each.seeds for each in claim.all_conditions()):
            save_figure(forest(claim), folder / "img" / f"claim-{claim.number}.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
