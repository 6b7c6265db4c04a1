"""Puts a figure into a page."""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from markupsafe import Markup

from deepcuts.figures.style import save_figure
from deepcuts.publish.html import element

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_image(figure: Figure, words: str) -> Markup:
    """Make an image of a figure, which holds its SVG; `words` say to who cannot see it what it shows."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        save_figure(figure, path)
        data = base64.b64encode(path.read_bytes()).decode()
    return element("img", src=f"data:image/svg+xml;base64,{data}", alt=words)
