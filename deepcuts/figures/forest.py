"""Plots comparisons as a forest plot: differences from the baseline with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from deepcuts.analysis.compare import lower_is_better, short_verdict
from deepcuts.figures.style import FAINT, GREY, INK, Look, called, drawn, looks, new_figure, plain, tidy, wrapping
from deepcuts.wording import counted, level

# An interval beyond this many times the largest difference is cut off, with an arrow, to keep the others readable.
_WIDEST = 4.0


@drawn
def plot_forest(frame: pd.DataFrame, margin: float) -> Figure:
    """Plot differences from the baseline with their 95 % intervals, from a frame of `compare`.

    A panel per dataset, a group of arms per compression, the `margin` (in the metric's unit) as a band. Markers
    of decided comparisons are filled, of undecided ones hollow. Raises ValueError where no difference is known.

    >>> dc.plot_forest(dc.compare(trials), margin=0.01)
    """
    if frame["difference"].notna().sum() == 0:
        raise ValueError("there is no comparison to plot: no arm shares a seed with the baseline")
    panels = list(frame.groupby("dataset", sort=False))
    arms = looks(frame["strategy"].unique())
    heights = [_lines(part) for _, part in panels]
    figure = new_figure(6.4, 0.75 + sum(0.55 + 0.21 * height for height in heights))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[2.6 + height for height in heights])
    for axes, (dataset, part) in zip(grid.flat, panels, strict=True):
        _panel(axes, part, margin, arms)
        title = f"{dataset} · {part['metric'].iloc[0]}"
        axes.set_title(plain(title))
    baselines = " or ".join(map(called, frame["baseline"].unique()))
    text = f"difference from {baselines}, with its 95 % interval ({_better(list(frame['metric'].unique()))})"
    text += f"\nhollow: undecided · grey band: the margin, ± {margin:g}; less does not matter"
    figure.supxlabel("\n".join(line for part in text.splitlines() for line in wrap(part, wrapping(figure))))
    return figure


def _better(metrics: Sequence[str]) -> str:
    """Say on which side a difference is for the better."""
    errors = [metric for metric in metrics if lower_is_better(metric)]
    if len(errors) == len(metrics):
        return "left is better"
    return f"right is better, of {plain(', '.join(errors))} left" if errors else "right is better"


def _groups(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split the comparisons by compression or sparsity, from the densest network to the sparsest."""
    named = part.assign(place=[level(c, s) for c, s in zip(part["compression"], part["sparsity"], strict=True)])
    return [(str(place), rows) for place, rows in named.sort_values("sparsity").groupby("place", sort=False)]


def _lines(part: pd.DataFrame) -> int:
    return len(part) + len(_groups(part))


def _panel(axes: Axes, part: pd.DataFrame, margin: float, arms: Mapping[str, Look]) -> None:
    tidy(axes, grid=False)
    reach = _reach(part, margin)
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))  # long names of arms leave little room for more
    axes.axvspan(-margin, margin, color=FAINT, alpha=0.6, linewidth=0)
    axes.axvline(0, color=GREY, linewidth=0.9)
    aside = blended_transform_factory(axes.transAxes, axes.transData)
    height = 0
    ticks: list[tuple[int, str]] = []
    for place, rows in _groups(part):
        axes.text(
            -0.01, height, plain(place), transform=aside, ha="right", va="center", fontsize="small", fontweight="bold"
        )
        for row in rows.to_dict("records"):
            height += 1
            against = f"\nagainst {called(row['baseline'])}" if part["baseline"].nunique() > 1 else ""
            ticks.append((height, called(row["strategy"]) + against))
            named = {str(key): value for key, value in row.items()}
            _mark(axes, named, height, reach, arms[str(row["strategy"])])
            axes.text(1.01, height, _said(named), transform=aside, va="center", fontsize="x-small", color=INK)
        height += 1
    axes.set_ylim(height - 0.3, -0.7)
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _reach(part: pd.DataFrame, margin: float) -> float:
    """Return half the width of the axis, which every difference, the margin and most intervals fit into."""
    seen = max(float(part["difference"].abs().max()), 2 * margin)
    ends = part[["low", "high"]].abs().max(axis=1)
    return 1.08 * max(seen, min(float(ends.max()) if ends.notna().any() else 0.0, _WIDEST * seen))


def _mark(axes: Axes, row: dict[str, Any], height: float, reach: float, style: Look) -> None:
    """Draw a difference and its interval; an arrow where the interval continues beyond the axis."""
    difference, low, high = float(row["difference"]), float(row["low"]), float(row["high"])
    if difference != difference:
        return
    if low == low:
        axes.plot([max(low, -reach), min(high, reach)], [height, height], color=style.color, linewidth=1.6)
        for end, marker in ((low, "<"), (high, ">")):
            if abs(end) > reach:
                axes.plot(np.sign(end) * reach, height, marker, color=style.color, markersize=4.5, clip_on=False)
    face = "white" if row["verdict"] == "undecided" else style.color
    axes.plot(
        difference, height, style.marker, color=style.color, markerfacecolor=face, markersize=6, markeredgewidth=1.2
    )


def _said(row: dict[str, Any]) -> str:
    return f"{short_verdict(row)}, {counted(row['n'], 'seed')}"
