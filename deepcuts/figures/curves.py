"""Draws the metric against sparsity, and against the epochs of training, at the size of a paper's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from deepcuts.analysis.significance import FEWEST_OF_INTERVAL
from deepcuts.figures.one_level import has_one_level, level_names, levels_beside, plot_one_level
from deepcuts.figures.style import (
    INK,
    LEVEL_DASHES,
    Look,
    called,
    drawn,
    figure_width,
    legend,
    letters,
    line_style,
    looks,
    new_figure,
    plain,
    tidy,
)
from deepcuts.names import natural
from deepcuts.wording import level

# How many letters a name at the end of a line may have; longer ones are in a legend.
_LONGEST_END = 32
# Inches that a panel has at least.
_NARROWEST = 2.0


@drawn
def plot_curves(frame: pd.DataFrame) -> Figure:
    """Plot a metric against sparsity or compression, from a frame of `curves`.

    A panel per dataset, a line per arm (a strategy with its settings) through the means, a dot per seed, a band
    for the 95 % t interval (from 3 seeds), and lines for the dense and the unpruned networks. Where all arms are at one
    level there is no curve: each has a row, with the metric along it.

    Raises ValueError for an empty frame.

    >>> dc.plot_curves(dc.curves(trials)).savefig("curves.pdf")
    """
    if frame.empty:
        raise ValueError("there is no curve to plot: no completed trial prunes anything")
    if has_one_level(frame):
        return plot_one_level(frame)
    panels = list(frame.groupby(["model", "dataset", "metric"], dropna=False, sort=False))
    columns = min(len(panels), 3, int(max(1, figure_width(9) // _NARROWEST)))
    rows = -(-len(panels) // columns)
    arms = looks(frame["arm"].unique())
    width = figure_width(6.0 if columns == 1 else 1.2 + 2.4 * columns)
    fits = max(len(called(arm)) for arm in frame["arm"].unique()) <= min(_LONGEST_END, 6.5 * width - 14)
    named = len(panels) == 1 and frame["arm"].nunique() <= 7 and fits
    figure = new_figure(width, 2.7 * rows + (0.2 if named else 0.6))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, ((model, dataset, _), part) in zip(grid.flat, panels, strict=False):
        _curves_panel(axes, part, arms)
        title = f"{dataset} · {model}" if frame["model"].nunique() > 1 else dataset
        axes.set_title(plain(title))
        if named:
            _end_labels(axes, part, arms)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    if not named:
        names = sorted(frame["arm"].unique(), key=natural)
        legend(figure, [Line2D([], [], label=called(name), **line_style(arms[name])) for name in names])
    return figure


def _curves_panel(axes: Axes, part: pd.DataFrame, arms: Mapping[str, Look]) -> None:
    tidy(axes)
    for arm, line in part.sort_values("x").groupby("arm"):
        style = arms[str(arm)]
        band = line[line["n"] >= FEWEST_OF_INTERVAL]
        axes.fill_between(band["x"], band["low"], band["high"], color=style.color, alpha=0.11, linewidth=0)
        seeds = line.explode("values")
        axes.scatter(seeds["x"], seeds["values"].astype(float), 5, style.color, alpha=0.45, linewidths=0, zorder=2)
        axes.plot(line["x"], line["mean"], label=str(arm), zorder=3, **line_style(style))
    _place_ticks(axes, part)
    _levels(axes, part)
    axes.set_ylabel(plain(f"{part['metric'].iloc[0]}, {part['stage'].iloc[0]}"))


def _place_ticks(axes: Axes, part: pd.DataFrame) -> None:
    """Place ticks where trials are; use a log scale of the kept weights where sparsities would touch."""
    places = np.sort(part["x"].unique())
    if part["axis"].iloc[0] == "sparsity":
        labels = [level(None, place) for place in places]
        axes.set_xlabel("sparsity of the prunable weights")
        if _would_touch(axes, places, labels) and places[-1] < 1:
            axes.set_xscale("function", functions=(_log_kept, lambda position: -np.expm1(-position)))
    else:
        sparsity = part.groupby("x")["sparsity"].mean()
        labels = [f"{level(place, None)}\n{100 * sparsity[place]:.3g} %" for place in places]
        axes.set_xlabel("compression (and sparsity)")
    axes.set_xticks(places, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06)


def _would_touch(axes: Axes, places: NDArray[np.float64], labels: Sequence[str]) -> bool:
    """Whether the labels of ticks (N,) would be nearer to each other than a letter on a linear scale."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None
    assert place is not None
    lengths = np.array([len(label) for label in labels])
    # From the first tick to the last are some 7 tenths of a panel.
    between = np.diff(places) / np.ptp(places) * 0.7 * letters(figure, "small") / place.get_gridspec().ncols
    return bool((between < (lengths[1:] + lengths[:-1]) / 2 + 1).any())


def _log_kept(sparsity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -log(1 - sparsity), with sparsity capped at 0.9999: the axis cannot show infinity."""
    return -np.log1p(-np.minimum(sparsity, 0.9999))


def _levels(axes: Axes, part: pd.DataFrame) -> None:
    """Draw lines for the fine-tuned networks, the retrained unpruned ones and the most frequent class, and name them.

    There are several of them where arms have other settings. Curves are low at the right, where the names are but for
    that of the most frequent class. The limits leave room for all these lines and every seed, but not for the widest
    band.
    """
    levels = levels_beside(part)
    shown = [*levels["value"], *part["values"].explode().astype(float)]
    low, high = min(shown), max(shown)
    room = (high - low) or 0.1
    axes.set_ylim(low - 0.06 * room, high + 0.1 * room)
    for name, value in levels.itertuples(index=False):
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=LEVEL_DASHES[name], zorder=1)
    for aside, at_left in ((levels["name"] == "majority", True), (levels["name"] != "majority", False)):
        for text, value in level_names(levels[aside], 0.08 * room):
            axes.annotate(
                text,
                (0 if at_left else 1, value),
                xycoords=axes.get_yaxis_transform(),
                xytext=(1 if at_left else -1, 2.5),
                textcoords="offset points",
                ha="left" if at_left else "right",
                fontsize="x-small",
                color=INK,
            )


def _end_labels(axes: Axes, part: pd.DataFrame, arms: Mapping[str, Look]) -> None:
    """Write each arm's name beside the end of its line, moved apart where ends are close."""
    ends = part.sort_values("x").groupby("arm").tail(1).sort_values("mean")
    heights = _apart(ends["mean"].to_numpy(np.float64), *axes.get_ylim())
    for (_, end), height in zip(ends.iterrows(), heights, strict=True):
        style = arms[end["arm"]]
        axes.annotate(
            called(end["arm"]),
            (end["x"], end["mean"]),
            xytext=(1.05, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize="small",
            color=style.text,
            arrowprops={
                "arrowstyle": "-",
                "color": style.color,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 5,
            },
            annotation_clip=False,
        )


def _apart(heights: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Move ascending heights (N,) at least a line of text apart, in one pass up and one down."""
    step = 0.0062 * float(mpl.rcParams["font.size"]) * (high - low)
    placed = heights.copy()
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + step)
    placed += np.clip((heights - placed).mean(), low - placed[0], 0)
    placed[-1] = min(placed[-1], high)
    for i in range(len(placed) - 2, -1, -1):
        placed[i] = min(placed[i], placed[i + 1] - step)
    return placed


_MOST_COLUMNS = 6


@drawn
def plot_training(frame: pd.DataFrame) -> Figure:
    """Plot a metric against epochs, from a frame of `training_curves`.

    A row of panels per dataset: first fine-tuning, a line per kind of fine-tuned network, then retraining at each
    compression, a line per arm, through the means over seeds, and a thin line per seed. Raises ValueError for an empty
    frame, and for more than 5 compressions, which do not fit on a page.

    >>> dc.plot_training(dc.training_curves(trials, dc.metrics(store)))
    """
    if frame.empty:
        raise ValueError("there is no training to plot: no completed trial has metrics")
    tasks = list(frame.groupby(["model", "dataset", "metric"], sort=False))
    arms = looks(frame["arm"].unique())
    columns = 1 + max(len(_training_places(part)) for _, part in tasks)
    if columns > _MOST_COLUMNS:
        raise ValueError(f"{columns - 1} compressions do not fit on a page; choose up to {_MOST_COLUMNS - 1} of them")
    width = figure_width(1.4 + 1.75 * columns)
    beside = min(columns, max(2, int(width // 1.4)))
    rows = -(-columns // beside)
    tuned = frame["stage"] == "dense"
    names = sorted(set(frame.loc[~tuned, "arm"]), key=natural)
    names += sorted(set(frame.loc[tuned, "arm"]), key=natural) if frame.loc[tuned, "arm"].nunique() > 1 else []
    figure = new_figure(width, 1)
    figure.set_figheight(0.6 + (2.2 if rows == 1 else 1.7) * rows * len(tasks) + (0.15 * len(names) if rows > 1 else 0))
    grid = figure.subplots(rows * len(tasks), beside, squeeze=False)
    for place, ((model, dataset, metric), part) in enumerate(tasks):
        title = f"{dataset} · {model}" if frame["model"].nunique() > 1 else str(dataset)
        parts = [("fine-tuning", part[part["stage"] == "dense"]), *_training_places(part)]
        panels = list(grid[rows * place : rows * (place + 1)].flat)
        for axes, (name, lines) in zip(panels, parts, strict=False):
            axes.sharey(panels[0]) if axes is not panels[0] else None
            _training_panel(axes, lines, arms)
            axes.set_title(plain(name), fontsize="small", fontweight="normal")
            axes.set_ylabel(plain(metric) if axes in grid[:, 0] else "")
            axes.tick_params(labelleft=axes in grid[:, 0])
        panels[0].set_title(plain(f"{title}\nfine-tuning"), fontsize="small", fontweight="normal")
        for axes in panels[len(parts) :]:
            axes.remove()
    figure.supxlabel("epochs done")
    handles = [Line2D([], [], label=called(name), **_training_line(arms[name])) for name in names]
    if handles:
        legend(figure, handles, "outside upper center")
    return figure


def _training_places(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split the retraining by the compression or sparsity that was asked for, the densest first."""
    retrained = part[part["stage"] == "retrained"].sort_values(["compression", "sparsity_asked"])
    groups = retrained.groupby(["compression", "sparsity_asked"], dropna=False, sort=False)
    first = [lines.iloc[0] for _, lines in groups]
    names = [f"retraining, {level(row['compression'], row['sparsity_asked'])}" for row in first]
    return list(zip(names, [lines for _, lines in groups], strict=True))


def _training_line(style: Look) -> dict[str, Any]:
    return {"color": style.color, "linestyle": style.dashes, "linewidth": 1.6}


def _training_panel(axes: Axes, lines: pd.DataFrame, arms: Mapping[str, Look]) -> None:
    tidy(axes)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    for arm, some in lines.groupby("arm"):
        _drawn(axes, some, _training_line(arms[str(arm)]))


def _drawn(axes: Axes, lines: pd.DataFrame, style: dict[str, Any]) -> None:
    for _, one in lines.groupby(["trial_id", "seed"]):
        axes.plot(one["epochs"], one["value"], **style | {"linewidth": 0.6, "alpha": 0.45})
    mean = lines.groupby("epochs")["value"].mean()
    axes.plot(mean.index, mean, label=str(lines["arm"].iloc[0]), **style)
