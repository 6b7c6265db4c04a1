"""Draws how far masks agree, over the whole network and per layer; `style.save_figure` writes the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from deepcuts.analysis.arms import with_arms
from deepcuts.analysis.overlap import MEASURES
from deepcuts.figures.style import (
    FAINT,
    GREY,
    INK,
    depth_ticks,
    kind_style,
    kinds_in_order,
    new_figure,
    placed_layers,
    plain,
    tidy,
)
from deepcuts.pruning.criteria import is_control
from deepcuts.wording import level

# From orange (less than chance) over white (chance) to blue (the same mask): safe for the colour blind.
_KAPPA = LinearSegmentedColormap.from_list("kappa", ["#b35806", "#f1a340", "#ffffff", "#67a9cf", "#08306b"])


def plot_overlap(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Draw a heatmap of the whole network's kappa for all pairs in a frame of `overlap`.

    Trials (rows of the table `trials`) are grouped by dataset and by the compression or sparsity asked for. Kappa is 0
    where masks agree as by chance at their densities, and 1 where they are the same. Raises ValueError for an empty
    frame.

    >>> dc.plot_overlap(dc.overlap(store), trials)
    """
    whole = frame[frame["layer"].isna()]
    if whole.empty:
        raise ValueError("there is no overlap to plot: no two trials have masks")
    ids = set(whole["trial_a"]) | set(whole["trial_b"])
    rows = with_arms(trials[trials["trial_id"].isin(ids)])
    rows = rows.sort_values(["dataset", "compression", "sparsity_asked", "arm", "seed"], ignore_index=True)
    place = {trial_id: number for number, trial_id in enumerate(rows["trial_id"])}
    kappa = np.full((len(rows), len(rows)), np.nan)
    a, b = whole["trial_a"].map(place), whole["trial_b"].map(place)
    kappa[a, b] = kappa[b, a] = whole["kappa"]
    size = min(9.0, 2.2 + 0.28 * len(rows))
    figure = new_figure(size + 1.3 + 0.075 * rows["arm"].str.len().max(), size + 0.6)
    axes = figure.subplots()
    _heatmap(figure, axes, kappa)
    _trial_labels(axes, rows)
    axes.set_title("Mask overlap: Cohen's kappa", fontsize=9.5, loc="left", color=INK, fontweight="bold")
    return figure


def _heatmap(figure: Figure, axes: Axes, kappa: NDArray[np.float64]) -> None:
    """Draw kappa (T, T) in colour, and as numbers if there is room."""
    axes.set_facecolor(FAINT)
    image = axes.imshow(kappa, cmap=_KAPPA, norm=Normalize(-1, 1), interpolation="none")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, aspect=25)
    bar.ax.set_ylim(min(0.0, float(np.nanmin(kappa, initial=0.0))), 1)
    bar.ax.tick_params(labelsize=8, labelcolor=INK, color=GREY)
    bar.set_label("0: as by chance    1: the same mask", fontsize=8, color=INK)
    bar.outline.set_visible(False)
    axes.spines[:].set_color(GREY)
    if len(kappa) > 20:
        return
    for (row, column), value in np.ndenumerate(kappa):
        if np.isfinite(value):
            color = "white" if value > 0.6 else INK
            axes.text(column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=6, color=color)


def _trial_labels(axes: Axes, rows: pd.DataFrame) -> None:
    """Write each arm's name beside its trials and a heading above each group, with lines between."""
    seeds = sorted(rows["seed"].unique())
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} ... {seeds[-1]}"
        axes.set_ylabel(f"seeds {listed}, from top to bottom", fontsize=8, color=GREY)
    placed = rows.assign(group=_group(rows), place=range(len(rows)))
    spans = placed.groupby(["group", "arm"], sort=False)["place"].agg(["first", "last"])
    names = [plain(arm) for _, arm in spans.index]
    small = min(8.0, 400 / len(spans))
    axes.set_yticks(((spans["first"] + spans["last"]) / 2).tolist(), names, fontsize=small)
    groups = placed.groupby("group", sort=False)["place"].agg(["first", "last"])
    middles = ((groups["first"] + groups["last"]) / 2).tolist()
    axes.set_xticks(middles, [plain(name) for name in groups.index], fontsize=8)
    axes.tick_params(length=0, labelcolor=INK)
    for spaces, width in ((spans, 0.3), (groups, 0.9)):
        for edge in spaces["first"].iloc[1:]:
            axes.axhline(edge - 0.5, color=GREY, linewidth=width)
            axes.axvline(edge - 0.5, color=GREY, linewidth=width)


def _group(rows: pd.DataFrame) -> list[str]:
    """Make the heading of each trial's group: its dataset, and the compression or sparsity asked for."""
    asked = zip(rows["dataset"], rows["compression"], rows["sparsity_asked"], strict=True)
    return [f"{dataset}\n{level(compression, sparsity)}" for dataset, compression, sparsity in asked]


# Layers


def plot_layers(frame: pd.DataFrame, trials: pd.DataFrame | None = None) -> Figure:
    """Draw the overlap per layer from a frame of `overlap`, averaged over its pairs, against depth.

    With the rows of `trials` the pairs are those of methods alone: random and shuffled masks agree as by chance by
    construction, so pairs with such a control count only where there are no others. The left panel has the IoU of the
    pruned places beside what chance gives, the right one kappa. Raises ValueError for a frame without layers.

    >>> dc.plot_layers(dc.overlap(store), trials)
    """
    layers = frame[frame["layer"].notna()]
    names, layers = _methods(layers, trials) if trials is not None else ([], layers)
    if layers.empty:
        raise ValueError("there is no overlap per layer to plot: no two trials have masks")
    placed = placed_layers(layers["layer"])
    points = layers.merge(placed[["layer", "kind", "place"]], on="layer")
    figure = new_figure(7.2, 3.3)
    left, right = figure.subplots(1, 2)
    _layers_panel(left, points, placed, "pruned_iou", "IoU of pruned places")
    _layers_panel(right, points, placed, "kappa", "Cohen's kappa (0: as by chance)")
    pairs = layers.drop_duplicates(["trial_a", "trial_b"])
    title = "Mask overlap per layer" + (f", mean of {len(pairs)} pairs" if len(pairs) > 1 else "")
    if names:
        title += f", of {', '.join(names)}" if len(names) < 4 else f", of {len(names)} methods"
    left.set_title(plain(title), fontsize=9.5, loc="left", color=INK, fontweight="bold")
    handles, labels = left.get_legend_handles_labels()
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1))
    columns = min(4, len(handles))
    figure.legend(handles, [*labels, "by chance"], loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _methods(layers: pd.DataFrame, trials: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Return the pairs of methods, or all of them where there are none, and the names of their arms."""
    known = with_arms(trials).set_index("trial_id")
    sides = [layers["trial_a"], layers["trial_b"]]
    controls = pd.concat([side.map(known["strategy"].map(is_control)) for side in sides], axis=1).any(axis=1)
    kept = layers if controls.all() else layers[~controls]
    ids = set(kept["trial_a"]) | set(kept["trial_b"])
    return sorted(set(known["arm"].reindex(sorted(ids)).dropna())), kept


def _layers_panel(axes: Axes, points: pd.DataFrame, names: pd.DataFrame, measure: str, label: str) -> None:
    """Draw one measure against depth, a line per kind of layer; what chance gives, if the frame has it, is dashed."""
    tidy(axes)
    means = points.groupby(["kind", "place"])[[name for name in MEASURES if name.startswith(measure)]].mean()
    for number, kind in enumerate(kinds_in_order(names["kind"])):
        line, style = means.loc[kind], kind_style(kind, number)
        axes.plot(line.index, line[measure], **style)
        if f"{measure}_chance" in line:
            axes.plot(
                line.index, line[f"{measure}_chance"], color=style["color"], linewidth=1, linestyle="--", zorder=1
            )
    depth_ticks(axes, names)
    axes.set_xlabel("encoder layer", fontsize=8.5, color=INK)
    axes.set_ylabel(label, fontsize=8.5, color=INK)
    if f"{measure}_chance" not in points:
        axes.axhline(0, color=GREY, linewidth=1, linestyle="--", zorder=1)
