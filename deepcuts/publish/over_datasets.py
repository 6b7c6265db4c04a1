"""Makes the report's section of what holds over all datasets together: a table, sentences and the ranks' figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from deepcuts.analysis.across import by_level, cells_of, difference_in_words, ranks_in_words
from deepcuts.analysis.compare import MARGIN
from deepcuts.figures.ranks import plot_ranks
from deepcuts.publish.figure_image import figure_image
from deepcuts.publish.html import Child, element, html_table
from deepcuts.records import records
from deepcuts.wording import level

if TYPE_CHECKING:
    import pandas as pd


def over_datasets_section(frames: Sequence[tuple[str, pd.DataFrame]]) -> list[Child]:
    """Show frames of `compare_over_datasets`, one for each model, with the model's name where there are several."""
    words = (
        "The metric after retraining is normalised: 0 is chance, 1 the fine-tuned network of the same seed. In brackets"
        " are 95 % intervals over other seeds on these datasets, not over other datasets. IQM is the mean of the middle"
        " half of all values."
    )
    return [element("p", words), *(part for label, frame in frames for part in _of_model(label, frame))]


def _of_model(label: str, frame: pd.DataFrame) -> Iterator[Child]:
    if label:
        yield element("h3", label)
    if left_out := frame.attrs["left_out"]:
        lines = (element("li", line) for line in left_out)
        yield element("div", element("p", "Left out, as not every arm has it:"), element("ul", *lines), class_="note")
    header, rows = cells_of(frame, escape, Markup("<strong>%s</strong>"), Markup(" (%s)"))
    yield html_table("Means over datasets and seeds", header, rows, header[2:])
    for part in by_level(frame):
        row = part.iloc[0]
        about = f"{level(row['compression'], row['sparsity'])}: {len(row['datasets'])} datasets"
        about += f" ({', '.join(row['datasets'])}), seeds {', '.join(map(str, row['seeds']))}; {ranks_in_words(part)}."
        said = (
            element("li", difference_in_words(each, MARGIN))
            for each in records(part)
            if each["arm"] != each["baseline"]
        )
        yield element("details", element("summary", about), element("ul", *said))
    if len(set(frame["arm"])) > 1:
        yield element("figure", _ranks(frame))


def _ranks(frame: pd.DataFrame) -> Markup:
    words = "; ".join(ranks_in_words(part) for part in by_level(frame))
    return figure_image(plot_ranks(frame), f"Mean ranks of the arms: {words}")
