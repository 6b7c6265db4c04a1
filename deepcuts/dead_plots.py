"""What pruning took whole, as a figure: neurons, inputs and attention heads without a weight left."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deepcuts.figures import GREY, INK, look, new_figure, plain, tidy
from deepcuts.verdicts import asked

_PANELS = {"rows": "Neurons (rows)", "columns": "Inputs (columns)", "heads": "Attention heads"}


def plot_dead(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """What is gone from a frame of `density`, as a share of what there was, over all matrices: rows, columns and (where
    known, each in query, key, value and attention output) heads. A line per strategy through the means of its trials,
    against what was asked; a dot per trial; dashed is what chance takes where each tensor keeps as many weights.

    Raises ValueError for a frame without matrices.
    """
    matrices = frame.dropna(subset=["rows"])
    if matrices.empty:
        raise ValueError("there are no rows and columns to plot: no trial has the mask of a matrix")
    shares = _shares(matrices)
    known = trials.drop_duplicates("trial_id")[["trial_id", "strategy", "compression", "sparsity_asked"]]
    points = shares.reset_index().merge(known).sort_values(["compression", "sparsity_asked"])
    points["asked"] = [asked(c, s) for c, s in zip(points["compression"], points["sparsity_asked"], strict=True)]
    places = list(points["asked"].unique())
    names = [name for name in _PANELS if name in points]
    figure = new_figure(1.0 + 2.3 * len(names), 2.9)
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    grid[0].set_ylabel("share without a weight left", fontsize=8.5, color=INK)
    sparsity, compression = points["compression"].isna().all(), points["compression"].notna().all()
    axis = "sparsity asked for" if sparsity else "compression" if compression else "compression or sparsity"
    for axes, name in zip(grid, names, strict=True):
        _panel(axes, points.assign(place=points["asked"].map(places.index)), name)
        axes.set_title(_PANELS[name], fontsize=9.5, loc="left", color=INK, fontweight="bold")
        axes.set_xticks(range(len(places)), places)
        axes.set_xlabel(axis, fontsize=8.5, color=INK)
        axes.set_xlim(-0.3, len(places) - 0.7)
    handles = [Line2D([], [], label=plain(name), **_line(name)) for name in sorted(points["strategy"].unique())]
    handles.append(Line2D([], [], label="by chance", color=GREY, linestyle="--", linewidth=1))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8, frameon=False)
    return figure


def _shares(matrices: pd.DataFrame) -> pd.DataFrame:
    """Per trial and side: the share that is dead, and the share that would be by chance at each tensor's density."""
    gone = (1 - matrices["density"]).astype(float)
    shares = {}
    for name in _PANELS:
        many = matrices[name].dropna().astype(float)
        if many.empty:
            continue
        trial = matrices.loc[many.index, "trial_id"]
        chance = gone[many.index] ** (matrices.loc[many.index, "size"] / many)  # all the weights of one of them
        total = many.groupby(trial).sum()
        shares[name] = matrices.loc[many.index, f"dead_{name}"].astype(float).groupby(trial).sum() / total
        shares[f"{name}_chance"] = (chance * many).groupby(trial).sum() / total
    return pd.DataFrame(shares)


def _line(strategy: str) -> dict[str, Any]:
    style = look(strategy)
    face, edge = ("white", style.color) if style.hollow else (style.color, "white")
    line = {"color": style.color, "linestyle": style.dashes, "linewidth": 1.5, "marker": style.marker, "markersize": 5}
    return line | {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 1.0 if style.hollow else 0.5}


def _panel(axes: Axes, points: pd.DataFrame, name: str) -> None:
    tidy(axes)
    for strategy, some in points.dropna(subset=[name]).groupby("strategy"):
        means = some.groupby("place")[[name, f"{name}_chance"]].mean()
        color = look(str(strategy)).color
        axes.scatter(some["place"], some[name], 5, color, alpha=0.45, linewidths=0, zorder=2)
        axes.plot(means.index, means[f"{name}_chance"], color=color, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        axes.plot(means.index, means[name], zorder=3, clip_on=False, **_line(str(strategy)))
    axes.set_ylim(0, max(0.01, 1.08 * float(points[[name, f"{name}_chance"]].max().max())))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(5))
