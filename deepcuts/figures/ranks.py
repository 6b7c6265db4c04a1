"""Plots mean ranks over datasets as a critical-difference diagram: bars join arms that ranks cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from deepcuts.analysis.across import by_level, rank_groups, ranks_decide, ranks_in_words
from deepcuts.figures.style import GREY, INK, Look, called, drawn, line_style, looks, new_figure, plain, wrapping
from deepcuts.wording import level

# How high a row of names is, in sizes of the text.
_ROW = 1.37
# The part of the width that the axis of ranks needs where names are on both sides.
_AXIS = 0.36
# Letters of a rank and the space before it.
_RANK = 6


@drawn
def plot_ranks(frame: pd.DataFrame) -> Figure:
    """Plot the mean ranks over datasets, 1 at the left is best, from a frame of `compare_over_datasets`.

    A panel per compression or sparsity. A bar joins arms whose ranks are closer than the critical difference, which is
    drawn above; where ranks decide nothing one bar joins all (Demšar 2006, "Statistical comparisons of classifiers over
    multiple data sets", figure 1). Names are on both sides, or all at the left where the figure is too narrow.

    Raises ValueError for an empty frame, and where there is one arm.

    >>> dc.plot_ranks(dc.compare_over_datasets(trials))
    """
    if not frame["critical_difference"].notna().any():
        raise ValueError("there are no ranks to plot: two arms or more have ranks")
    panels = [part.sort_values(["rank", "arm"]) for part in by_level(frame)]
    figure = new_figure(6.4, 1)
    longest = max(len(called(arm)) for arm in frame["arm"])
    both = 2 * (longest + _RANK) <= (1 - _AXIS) * wrapping(figure)
    heights = [_rows(part, both) for part in panels]
    figure.set_figheight(_ROW / 72 * float(mpl.rcParams["font.size"]) * (sum(heights) + 2.5 * len(heights) + 1))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    said: dict[str, list[str]] = {}
    for axes, part in zip(grid.flat, panels, strict=True):
        _panel(axes, part, looks(frame["arm"].unique()), both)
        at = level(*part[["compression", "sparsity"]].iloc[0])
        axes.set_title(plain(f"{at} · {len(part['datasets'].iloc[0])} datasets"))
        said.setdefault(ranks_in_words(part), []).append(at)
    texts = [f"{', '.join(levels)}: {words}" for words, levels in said.items()]
    figure.supxlabel("\n".join(line for text in texts for line in wrap(text, wrapping(figure))))
    return figure


def _rows(part: pd.DataFrame, both: bool) -> float:
    """Return how many rows of names a panel is high."""
    names = -(-len(part) // 2) if both else len(part)
    return _above(part) + 0.8 + 0.55 * len(rank_groups(part)) + names


def _above(part: pd.DataFrame) -> float:
    """Return the rows above the axis, for its numbers and the critical difference."""
    return 2.7 if ranks_decide(part.iloc[0]) else 1.3


def _panel(axes: Axes, part: pd.DataFrame, styles: Mapping[str, Look], both: bool) -> None:
    groups = rank_groups(part)
    ends = 1.0, float(max(len(part), part["rank"].max()))
    axes.set_xlim(ends[0] - 0.04 * (ends[1] - 1), ends[1] + 0.04 * (ends[1] - 1))
    axes.set_ylim(_rows(part, both) - _above(part), -_above(part))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _scale(axes, part, ends)
    places = dict(zip(part["arm"], part["rank"].astype(float), strict=True))
    for number, group in enumerate(groups):
        height = 0.6 + 0.55 * number
        reach = 0.012 * (ends[1] - ends[0])
        bar = [places[group[0]] - reach, places[group[-1]] + reach]
        axes.plot(bar, [height, height], color=INK, linewidth=3, solid_capstyle="butt", zorder=4)
    under = 0.9 + 0.55 * len(groups)
    arms = list(places)
    left = -(-len(arms) // 2) if both else len(arms)
    for number, arm in enumerate(arms[:left]):
        _name(axes, (arm, places[arm]), styles[arm], under + number, at_left=True)
    for number, arm in enumerate(reversed(arms[left:])):
        _name(axes, (arm, places[arm]), styles[arm], under + number, at_left=False)


def _scale(axes: Axes, part: pd.DataFrame, ends: tuple[float, float]) -> None:
    """Draw the axis of ranks, and above it the critical difference where ranks decide."""
    axes.plot(ends, [0, 0], color=GREY, linewidth=0.9)
    for rank in range(1, int(ends[1]) + 1):
        axes.plot([rank, rank], [-0.2, 0], color=GREY, linewidth=0.9)
        axes.text(rank, -0.3, str(rank), ha="center", va="bottom", fontsize="small")
    if ranks_decide(part.iloc[0]):
        difference = float(part["critical_difference"].iloc[0])
        axes.errorbar(1 + difference / 2, -1.5, xerr=difference / 2, fmt="none", color=INK, linewidth=1.2, capsize=2.5)
        axes.text(1, -1.8, f"critical difference {difference:.2f}", va="bottom", fontsize="x-small")


def _name(axes: Axes, at: tuple[str, float], style: Look, height: float, at_left: bool) -> None:
    """Lead a line from an arm's place on the axis down to its name, beside the panel."""
    arm, rank = at
    edge = axes.get_xlim()[0 if at_left else 1]
    axes.plot([rank, rank, edge], [0, height, height], color=style.color, linewidth=1.0, dashes=(1, 0))
    axes.plot(rank, 0, **line_style(style) | {"markersize": 5.5, "zorder": 5, "clip_on": False})
    aside = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(
        *(-0.01 if at_left else 1.01, height, f"{called(arm)} {rank:.2f}" if at_left else f"{rank:.2f} {called(arm)}"),
        transform=aside,
        ha="right" if at_left else "left",
        va="center",
        fontsize="small",
        color=style.text,
    )
