"""Draws where the kept weights are, and the neurons, inputs and attention heads without a weight left."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from deepcuts.analysis.arms import with_arms
from deepcuts.figures.layers import depth_ticks, kind_style, kinds_in_order, placed_layers
from deepcuts.figures.style import (
    GREY,
    Look,
    called,
    drawn,
    figure_width,
    legend,
    line_style,
    looks,
    new_figure,
    tidy,
)
from deepcuts.names import natural
from deepcuts.wording import level

_PANELS = {"rows": "Neurons (rows)", "columns": "Inputs (columns)", "heads": "Attention heads"}


@drawn
def plot_density(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Draw where the kept weights are, from a frame of `density` and the rows of its trials.

    A panel has the share of the weights kept against depth, a line per kind of layer, averaged over seeds and
    datasets; the dashed line is the whole network's. There is a row of panels per arm (a strategy in one set of
    settings) and a column per compression. Arms that keep the same share in every layer, as the Layer scopes do, are
    left out and named. Raises ValueError for an empty frame, and where all arms are left out.

    >>> dc.plot_density(dc.density(store), trials)
    """
    if frame.empty:
        raise ValueError("there is no density to plot: no trial has masks")
    known = with_arms(trials)[["trial_id", "arm", "compression", "sparsity_asked"]]
    counts = frame.groupby(["trial_id", "layer"], sort=False)[["size", "kept"]].sum().reset_index().merge(known)
    names = placed_layers(counts["layer"])
    counts = counts.merge(names, on="layer").sort_values(["compression", "sparsity_asked"])
    counts["asked"] = [level(c, s) for c, s in zip(counts["compression"], counts["sparsity_asked"], strict=True)]
    rows, even = _density_rows(counts)
    if not rows:
        raise ValueError(f"every arm keeps the same share of every layer: {', '.join(even)}")
    counts = counts[counts["arm"].isin(rows)]
    places = list(counts["asked"].unique())
    figure = new_figure(1.6 + 2.1 * max(2, len(places)), 0.9 + 1.6 * len(rows))
    grid = figure.subplots(len(rows), len(places), squeeze=False, sharex=True, sharey="col")
    for (i, arm), (j, place) in product(enumerate(rows), enumerate(places)):
        some = counts[(counts["arm"] == arm) & (counts["asked"] == place)]
        _density_panel(grid[i, j], some, names)
        words = [called(arm) if j == 0 else "", place if i == 0 else ""]
        grid[i, j].set_title("\n".join(filter(None, words)), fontsize="small", fontweight="normal")
    for axes, place in zip(grid[0], places, strict=True):
        shares = (counts["kept"] / counts["size"])[counts["asked"] == place]
        axes.set_ylim(0, 1.12 * shares.max() or 1)
    words = (
        wrap(f"left out, the same share of every layer: {', '.join(map(called, even))}", 26 * max(2, len(places)))
        if even
        else []
    )
    figure.supxlabel("\n".join(["encoder layer", *words]))
    figure.supylabel("share of weights kept")
    legend(figure, _handles(grid), "outside upper center")
    return figure


def _density_rows(counts: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the arms whose layers differ, which have a row each, and those that keep the same share of every layer."""
    shares = (counts["kept"] / counts["size"]).groupby([counts["arm"], counts["trial_id"]]).agg(["min", "max"])
    even = (shares["max"] - shares["min"] <= 0.02 * shares["max"]).groupby("arm").all()
    return sorted(even.index[~even], key=natural), sorted(even.index[even], key=natural)


def _density_panel(axes: Axes, some: pd.DataFrame, names: pd.DataFrame) -> None:
    tidy(axes)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    depth_ticks(axes, names, most=6)
    if some.empty:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", fontsize="small", color=GREY)
        return
    sums = some.groupby(["kind", "place"])[["kept", "size"]].sum()
    for number, kind in enumerate(kinds_in_order(names["kind"])):
        if kind in sums.index:
            line = sums.loc[kind]
            axes.plot(line.index, line["kept"] / line["size"], **kind_style(kind, number))
    axes.axhline(some["kept"].sum() / some["size"].sum(), color=GREY, linewidth=1, linestyle="--", zorder=1)


def _handles(grid: NDArray[Any]) -> list[Line2D]:
    """Collect the line of every kind of layer once, whichever panel draws it, and the dashed line."""
    found: dict[str, Line2D] = {}
    for axes in grid.flat:
        for line in axes.get_lines():
            if not line.get_label().startswith("_"):
                found.setdefault(line.get_label(), line)
    return [*found.values(), Line2D([], [], color=GREY, linestyle="--", linewidth=1, label="whole network")]


@drawn
def plot_dead(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Draw the share of rows, columns and heads without a weight left, over all matrices of a frame of `density`.

    Heads are counted in each of query, key, value and attention output, and have a panel only if their number is
    known. An arm has a dot per trial and a line through their means, against the compression or sparsity asked
    for; the dashed line is what chance takes if each tensor keeps as many weights. Raises ValueError for a frame
    without matrices.

    >>> dc.plot_dead(dc.density(store), trials)
    """
    matrices = frame.dropna(subset=["rows"])
    if matrices.empty:
        raise ValueError("there are no rows and columns to plot: no trial has the mask of a matrix")
    shares = _shares(matrices)
    known = with_arms(trials)[["trial_id", "arm", "compression", "sparsity_asked"]]
    points = shares.reset_index().merge(known).sort_values(["compression", "sparsity_asked"])
    points["asked"] = [level(c, s) for c, s in zip(points["compression"], points["sparsity_asked"], strict=True)]
    places = list(points["asked"].unique())
    names = [name for name in _PANELS if name in points]
    usual = 1.0 + 2.3 * len(names)
    stacked = figure_width(usual) < 1.8 * len(names)
    figure = new_figure(usual, 2.9 * (len(names) if stacked else 1))
    grid = figure.subplots(*((len(names), 1) if stacked else (1, len(names))), squeeze=False).ravel()
    for axes in grid if stacked else grid[:1]:
        axes.set_ylabel("share without a weight left")
    sparsity, compression = points["compression"].isna().all(), points["compression"].notna().all()
    axis = "sparsity asked for" if sparsity else "compression" if compression else "compression or sparsity"
    arms = looks(points["arm"].unique())
    for axes, name in zip(grid, names, strict=True):
        _panel(axes, points.assign(place=points["asked"].map(places.index)), name, arms)
        axes.set_title(_PANELS[name])
        axes.set_xticks(range(len(places)), places)
        axes.set_xlabel(axis)
        axes.set_xlim(-0.3, len(places) - 0.7)
    shown = sorted(points["arm"].unique(), key=natural)
    handles = [Line2D([], [], label=called(name), **line_style(arms[name])) for name in shown]
    handles.append(Line2D([], [], label="by chance", color=GREY, linestyle="--", linewidth=1))
    legend(figure, handles)
    return figure


def _shares(matrices: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each trial's rows, columns and heads that is dead, and the share expected by chance.

    By chance a row (of I weights, of a tensor of density d) is dead with probability (1 - d)^I; columns and heads
    alike.
    """
    gone = (1 - matrices["density"]).astype(float)
    shares = {}
    for name in _PANELS:
        many = matrices[name].dropna().astype(float)
        if many.empty:
            continue
        trial = matrices.loc[many.index, "trial_id"]
        chance = gone[many.index] ** (matrices.loc[many.index, "size"] / many)  # the exponent: weights of one
        total = many.groupby(trial).sum()
        shares[name] = matrices.loc[many.index, f"dead_{name}"].astype(float).groupby(trial).sum() / total
        shares[f"{name}_chance"] = (chance * many).groupby(trial).sum() / total
    return pd.DataFrame(shares)


def _panel(axes: Axes, points: pd.DataFrame, name: str, arms: Mapping[str, Look]) -> None:
    tidy(axes)
    for arm, some in points.dropna(subset=[name]).groupby("arm"):
        means = some.groupby("place")[[name, f"{name}_chance"]].mean()
        color = arms[str(arm)].color
        axes.scatter(some["place"], some[name], 5, color, alpha=0.45, linewidths=0, zorder=2)
        axes.plot(means.index, means[f"{name}_chance"], color=color, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        axes.plot(means.index, means[name], zorder=3, clip_on=False, **line_style(arms[str(arm)]))
    axes.set_ylim(0, max(0.01, 1.08 * float(points[[name, f"{name}_chance"]].max().max())))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(5))
