"""Draws the transfer matrix: what the masks of other datasets and seeds are worth, beside the same masks shuffled."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deepcuts.analysis.transfer import control_in_words, largest_difference, matrices, places_of
from deepcuts.figures.style import (
    DIVERGING,
    FAINT,
    GREY,
    INK,
    called,
    drawn,
    figure_width,
    new_figure,
    plain,
    wrapping,
)
from deepcuts.records import records
from deepcuts.wording import counted, level

# The scale reaches at least so far: smaller differences look small.
_SMALLEST_SCALE = 0.1
# Inches: a cell with its two lines, the least width of one, a letter of a name, and what is above and below a panel.
_ROW, _CELL, _LETTER, _AROUND = 0.42, 0.62, 0.08, 0.75
# On colours of less luminance text is white.
_DARK = 0.5


@drawn
def plot_transfer(frame: pd.DataFrame) -> Figure:
    """Draw the matrices of a frame of `transfer`: whose mask is taken downwards, the network's dataset to the right.

    A row of panels per arm and level: the masks as found, beside them the same masks shuffled; below each other where
    the figure is too narrow. A cell has the mean of the metric, below it half of its 95 % interval, its ends where the
    bounds of the metric cut it, or the number of seeds where these are too few for one. The colour is the difference
    from the target's own mask, the same scale in all panels: orange is worse, blue better, grey where it is not known.
    Cells of own masks have a frame.

    Raises ValueError for a frame without rows.

    >>> dc.plot_transfer(dc.transfer(trials))
    """
    if frame.empty:
        raise ValueError("there is no transfer to plot: no completed trial takes the mask of another one (mask_from)")
    wholes = matrices(frame)
    places = places_of(frame)
    controls = [name for name in ("none", "shuffle", "invert") if name in set(frame["control"])]
    names = max(len(name) for name in places[0]) * _LETTER
    usual = max(3.3, names + len(controls) * len(places[1]) * 1.4 * _CELL + 1)
    beside = figure_width(usual) - names - 0.5 >= len(controls) * len(places[1]) * _CELL
    shape = (len(wholes), len(controls)) if beside else (len(wholes) * len(controls), 1)
    figure = new_figure(usual, 1)
    figure.set_figheight(0.9 + shape[0] * (_AROUND + _ROW * len(places[0])))
    grid = figure.subplots(*shape, squeeze=False, sharex=False, sharey=True)
    reach = max(_SMALLEST_SCALE, largest_difference(frame))
    norm = Normalize(-reach, reach)
    panels = [(whole, control) for whole in wholes for control in controls]
    for axes, (whole, control) in zip(grid.flat, panels, strict=True):
        _matrix(axes, whole[whole["control"] == control], places, norm)
        axes.set_title(_title(whole.iloc[0], control, frame))
    for axes in grid[:, 0]:
        axes.set_ylabel("mask of")
    for axes in grid[-1]:
        axes.set_xlabel("network and data of")
    _scale(figure, grid, norm)
    figure.supxlabel(plain("\n".join(wrap(_numbers(frame), wrapping(figure)))))
    return figure


def _title(row: Any, control: str, frame: pd.DataFrame) -> str:
    """Name a panel: its arm where there are several, its level, and that the masks are shuffled."""
    names = [called(row["arm"])] if frame[["model", "arm"]].drop_duplicates().shape[0] > 1 else []
    names = [plain(row["model"]), *names] if frame["model"].nunique() > 1 else names
    names.append(level(row["compression"], row["sparsity_asked"]))
    return " · ".join([*names, control_in_words(control)])


def _matrix(axes: Axes, part: pd.DataFrame, places: tuple[list[str], list[str]], norm: Normalize) -> None:
    """Draw the cells of a panel at the places of all sources and targets."""
    sources, targets = places
    axes.set_xlim(-0.5, len(targets) - 0.5)
    axes.set_ylim(len(sources) - 0.5, -0.5)
    for row in records(part):
        x, y = targets.index(row["target"]), sources.index(row["source"])
        reference = row["own"] and row["control"] == "none"
        difference = 0.0 if reference else row["difference"]
        color = FAINT if difference is None else DIVERGING(norm(difference))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", linewidth=0.8))
        if row["own"]:
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=GREY, linewidth=0.8))
        about: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if _luminance(color) < _DARK else INK}
        axes.text(x, y - 0.16, f"{row['mean']:z.3f}", fontsize="small", **about)
        axes.text(x, y + 0.24, _below(row), fontsize="xx-small", **about)
    axes.set_xticks(range(len(targets)), [plain(name) for name in targets])
    axes.set_yticks(range(len(sources)), [plain(name) for name in sources])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _luminance(color: Any) -> float:
    red, green, blue = to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _below(row: dict[str, Any]) -> str:
    """Return what is below a mean: half its interval, its ends where it is cut, or the number of too few seeds."""
    if row["low"] is None:
        return counted(row["n"], "seed")
    below, above = row["mean"] - row["low"], row["high"] - row["mean"]
    return f"± {above:.3f}" if abs(above - below) < 1e-9 else f"{row['low']:z.2f} to {row['high']:z.2f}"


def _scale(figure: Figure, grid: Any, norm: Normalize) -> None:
    """Draw the scale of the colours below all panels."""
    bar = figure.colorbar(ScalarMappable(norm, DIVERGING), ax=grid, location="bottom", shrink=0.9, aspect=40, pad=0.02)
    bar.outline.set_visible(False)
    text = "difference from the own mask (framed). 0: as good; −1: worse by all that the"
    text += " fine-tuned network is above chance"
    bar.set_label("\n".join(wrap(text, int(0.9 * wrapping(figure)))))


def _numbers(frame: pd.DataFrame) -> str:
    """Say what the numbers in the cells are."""
    metrics = frame.groupby("metric", sort=False)["target"].unique()
    alone = len(metrics) == 1
    said = [str(metric) if alone else f"{metric} ({', '.join(targets)})" for metric, targets in metrics.items()]
    below = "± half of its 95 % interval over seeds, or its ends where the metric's bounds cut it"
    below = below if frame["low"].notna().any() else "too few seeds for intervals"
    return f"In the cells: {', '.join(said)}, {frame['stage'].iloc[0]}; {below}"
