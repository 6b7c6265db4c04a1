"""Draws how much the metric falls when one part of a network is pruned alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepcuts.figures.layers import depth_ticks, kind_style, kinds_in_order, placed_layers
from deepcuts.figures.style import (
    GREY,
    drawn,
    legend,
    new_figure,
    plain,
    tidy,
)
from deepcuts.names import natural


@drawn
def plot_sensitivity(frame: pd.DataFrame) -> Figure:
    """Draw a frame of `sensitivity`: the metric with one part pruned alone; the dashed line is the dense network's.

    Of tensors there is a panel for each sparsity, with the metric against depth and a line per kind; of kinds and of
    layers one panel, with a kind of marker for each sparsity. Raises ValueError for an empty frame, and for one of
    several trials or kinds of parts.

    >>> dc.plot_sensitivity(dc.sensitivity(store, trials[trials["strategy"] == "LayerMagWeight"]["trial_id"].iloc[0]))
    """
    if frame.empty:
        raise ValueError("there is no sensitivity to plot: the frame has no rows")
    if len(frame[["trial_id", "by"]].drop_duplicates()) > 1:
        raise ValueError("a figure of sensitivity is of one trial and one kind of part; select them in the frame first")
    first = frame.iloc[0]
    figure = _by_depth(frame) if first["by"] == "tensor" else _by_part(frame)
    about = f"{first['strategy']} on {first['dataset']}, seed {first['seed']}"
    figure.suptitle(f"{plain(about)}: one {first['by']} pruned, not retrained", fontsize="small")
    return figure


def _by_depth(frame: pd.DataFrame) -> Figure:
    parts = frame.assign(layer=frame["part"].str.rpartition(".")[0])
    names = placed_layers(parts["layer"])
    parts = parts.merge(names[["layer", "place"]], on="layer").sort_values("place")
    kinds = kinds_in_order(parts["kind"])
    sparsities = sorted(frame["sparsity"].unique())
    figure = new_figure(1.6 + 2.6 * max(2, len(sparsities)), 3.2)
    grid = figure.subplots(1, len(sparsities), squeeze=False, sharey=True)[0]
    handles: dict[str, Line2D] = {}
    for axes, sparsity in zip(grid, sparsities, strict=True):
        tidy(axes)
        for number, kind in enumerate(kinds):
            some = parts[(parts["kind"] == kind) & (parts["sparsity"] == sparsity)]
            [handles[kind]] = axes.plot(some["place"], some["pruned"], **kind_style(kind, number))
        axes.set_title(f"sparsity {sparsity:g}", fontsize="small", fontweight="normal")
        axes.axhline(frame["dense"].iloc[0], color=GREY, linewidth=1, linestyle="--", zorder=1)
        axes.set_xlabel("encoder layer")
        depth_ticks(axes, names, most=6)
    grid[0].set_ylabel(plain(frame["metric"].iloc[0]))
    legend(figure, [*handles.values(), _dense_line()])
    return figure


def _by_part(frame: pd.DataFrame) -> Figure:
    parts = sorted(frame["part"].unique(), key=natural)
    figure = new_figure(6.4, 1.2 + 0.28 * len(parts))
    axes: Axes = figure.subplots()
    places = {part: place for place, part in enumerate(parts)}
    handles = []
    for number, (sparsity, some) in enumerate(frame.groupby("sparsity")):
        style = kind_style(f"sparsity {sparsity:g}", number)
        ordered = some.assign(place=some["part"].map(places)).sort_values("place")
        handles += axes.plot(ordered["pruned"], ordered["place"], linestyle="none", **style)
    axes.axvline(frame["dense"].iloc[0], color=GREY, linewidth=1, linestyle="--", zorder=1)
    axes.set_yticks(range(len(parts)), [plain(part) for part in parts])
    axes.invert_yaxis()
    axes.set_xlabel(plain(frame["metric"].iloc[0]))
    legend(figure, [*handles, _dense_line()])
    return figure


def _dense_line() -> Line2D:
    return Line2D([], [], color=GREY, linestyle="--", linewidth=1, label="nothing pruned")
