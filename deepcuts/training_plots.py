"""Training as figures: the metric after every epoch; `figures.save` writes them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deepcuts.figures import INK, look, new_figure, plain, tidy
from deepcuts.verdicts import asked

_MOST_COLUMNS = 6


def plot_training(frame: pd.DataFrame) -> Figure:
    """Metric against epochs from a frame of `curves.training`: a row of panels per dataset, first fine-tuning, then
    retraining at each compression; a line per strategy through the means over seeds, a thin one per seed.

    Raises ValueError for an empty frame, and for more compressions than a page is wide (5).
    """
    if frame.empty:
        raise ValueError("there is no training to plot: no completed trial has metrics")
    tasks = list(frame.groupby(["model", "dataset", "metric"], sort=False))
    columns = 1 + max(len(_places(part)) for _, part in tasks)
    if columns > _MOST_COLUMNS:
        raise ValueError(f"{columns - 1} compressions do not fit on a page; choose up to {_MOST_COLUMNS - 1} of them")
    figure = new_figure(1.4 + 1.75 * columns, 0.6 + 2.2 * len(tasks))
    grid = figure.subplots(len(tasks), columns, squeeze=False, sharey="row")
    for row, ((model, dataset, metric), part) in zip(grid, tasks, strict=True):
        title = f"{dataset} · {model}" if frame["model"].nunique() > 1 else str(dataset)
        parts = [("fine-tuning", part[part["stage"] == "dense"]), *_places(part)]
        for axes, (name, lines) in zip(row, parts, strict=False):
            _panel(axes, lines)
            axes.set_title(plain(name), fontsize=8.5, loc="left", color=INK)
        row[0].set_title(plain(f"{title}\nfine-tuning"), fontsize=8.5, loc="left", color=INK)
        row[0].set_ylabel(plain(metric), fontsize=8.5, color=INK)
        for axes in row[len(parts) :]:
            axes.remove()
    figure.supxlabel("epochs done", fontsize=8.5, color=INK)
    names = sorted(set(frame.loc[frame["stage"] != "dense", "strategy"]))
    handles = [Line2D([], [], label=plain(name), **_line(name)) for name in names]
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, columns), fontsize=8, frameon=False)
    return figure


def _places(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The retraining at each compression or sparsity that was asked for, the densest first."""
    retrained = part[part["stage"] == "retrained"].sort_values(["compression", "sparsity_asked"])
    groups = retrained.groupby(["compression", "sparsity_asked"], dropna=False, sort=False)
    first = [lines.iloc[0] for _, lines in groups]
    names = [f"retraining, {asked(row['compression'], row['sparsity_asked'])}" for row in first]
    return list(zip(names, [lines for _, lines in groups], strict=True))


def _line(strategy: str) -> dict[str, Any]:
    style = look(strategy)
    return {"color": style.color, "linestyle": style.dashes, "linewidth": 1.6}


def _panel(axes: Axes, lines: pd.DataFrame) -> None:
    tidy(axes)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    if lines["stage"].eq("dense").all():
        _drawn(axes, lines, {"color": INK, "linewidth": 1.6})
        return
    for strategy, some in lines.groupby("strategy"):
        _drawn(axes, some, _line(str(strategy)))


def _drawn(axes: Axes, lines: pd.DataFrame, style: dict[str, Any]) -> None:
    for _, one in lines.groupby(["trial_id", "seed"]):
        axes.plot(one["epochs"], one["value"], **style | {"linewidth": 0.6, "alpha": 0.45})
    mean = lines.groupby("epochs")["value"].mean()
    axes.plot(mean.index, mean, label=str(lines["strategy"].iloc[0]), **style)
