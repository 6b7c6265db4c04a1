"""Makes the report's section of masks that are taken from other datasets and seeds: the matrix and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import escape

from deepcuts.analysis.transfer import about_matrix, matrices, transfer_cells
from deepcuts.figures.transfer import plot_transfer
from deepcuts.publish.figure_image import figure_image
from deepcuts.publish.html import Child, element, html_table

if TYPE_CHECKING:
    import pandas as pd


def transfer_section(frame: pd.DataFrame) -> list[Child]:
    """Show a frame of `transfer`, which has rows: the figure, the table, and what is missing."""
    words = (
        "What a mask is worth that was found on another dataset or with another seed: the network of the target is"
        " pruned with it, rewound and retrained. The difference is that from the target\u2019s own mask with the same"
        " seed, divided by how far the fine-tuned network is above chance. In brackets are 95 % intervals over seeds,"
        " not corrected for the number of cells."
    )
    header, rows = transfer_cells(frame, escape)
    models = frame["model"].nunique() > 1
    about = ", ".join(about_matrix(part.iloc[0], models) for part in matrices(frame))
    lines = [element("li", line) for line in frame.attrs["missing"]]
    return [
        element("p", words),
        element("div", element("p", "Missing:"), element("ul", *lines), class_="note") if lines else None,
        element("figure", figure_image(plot_transfer(frame), f"Transfer of masks: {about}; the table has the numbers")),
        html_table("The mask of one dataset on the network and data of another", header, rows, header[4:]),
    ]
