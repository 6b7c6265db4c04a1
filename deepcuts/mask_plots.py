"""Masks as figures: how far they agree, over the whole network and per layer; `figures.save` writes them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from deepcuts.agreement import MEASURES
from deepcuts.figures import FAINT, GREY, INK, new_figure, plain, tidy
from deepcuts.names import layer_kind, natural
from deepcuts.verdicts import asked

# From orange (less than chance) over white (chance) to blue (the same mask): safe for the colour blind.
_KAPPA = LinearSegmentedColormap.from_list("kappa", ["#b35806", "#f1a340", "#ffffff", "#67a9cf", "#08306b"])


def plot_overlap(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Heatmap of the whole network's kappa for all pairs in a frame of `overlap`, the trials grouped by
    dataset and by what was asked; 0 is what chance gives at these densities, 1 the same mask.

    Raises ValueError for an empty frame.
    """
    whole = frame[frame["layer"].isna()]
    if whole.empty:
        raise ValueError("there is no overlap to plot: no two trials have masks")
    ids = set(whole["trial_a"]) | set(whole["trial_b"])
    rows = trials[trials["trial_id"].isin(ids)].drop_duplicates("trial_id")
    rows = rows.sort_values(["dataset", "compression", "sparsity_asked", "strategy", "seed"], ignore_index=True)
    place = {trial_id: number for number, trial_id in enumerate(rows["trial_id"])}
    kappa = np.full((len(rows), len(rows)), np.nan)
    a, b = whole["trial_a"].map(place), whole["trial_b"].map(place)
    kappa[a, b] = kappa[b, a] = whole["kappa"]
    size = min(9.0, 2.2 + 0.28 * len(rows))
    figure = new_figure(size + 1.3 + 0.075 * rows["strategy"].str.len().max(), size + 0.6)
    axes = figure.subplots()
    _heatmap(figure, axes, kappa)
    _trial_labels(axes, rows)
    axes.set_title("Mask overlap: Cohen's kappa", fontsize=9.5, loc="left", color=INK, fontweight="bold")
    return figure


def _heatmap(figure: Figure, axes: Axes, kappa: NDArray[np.float64]) -> None:
    """Kappa (T, T) in colour, and in figures where there is room."""
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
    """A strategy's name beside its trials, and a heading and lines between for every group of them."""
    seeds = sorted(rows["seed"].unique())
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} ... {seeds[-1]}"
        axes.set_ylabel(f"seeds {listed}, from top to bottom", fontsize=8, color=GREY)
    placed = rows.assign(group=_group(rows), place=range(len(rows)))
    spans = placed.groupby(["group", "strategy"], sort=False)["place"].agg(["first", "last"])
    names = [plain(strategy) for _, strategy in spans.index]
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
    """Dataset and what was asked, as the heading of each trial's group."""
    asked = zip(rows["dataset"], rows["compression"], rows["sparsity_asked"], strict=True)
    return [
        f"{dataset}\n" + (f"{compression:g}×" if compression > 0 else f"{100 * sparsity:.4g} %")
        for dataset, compression, sparsity in asked
    ]


# Layers

_KINDS = {
    "query": ("#0072B2", "o"),
    "key": ("#56B4E9", "v"),
    "value": ("#009E73", "^"),
    "attention output": ("#999933", "s"),
    "intermediate": ("#E69F00", "D"),
    "output": ("#D55E00", "P"),
    "pooler": ("#CC79A7", "X"),
}


def plot_layers(frame: pd.DataFrame) -> Figure:
    """Overlap per layer from a frame of `overlap`, averaged over its pairs: IoU of the pruned places, the
    seed's measure, beside what chance gives, and kappa.

    Raises ValueError for a frame without layers.
    """
    layers = frame[frame["layer"].notna()]
    if layers.empty:
        raise ValueError("there is no overlap per layer to plot: no two trials have masks")
    names = _placed(layers["layer"])
    points = layers.merge(names[["layer", "kind", "place"]], on="layer")
    figure = new_figure(7.2, 3.3)
    left, right = figure.subplots(1, 2)
    _layers_panel(left, points, names, "pruned_iou", "IoU of pruned places")
    _layers_panel(right, points, names, "kappa", "Cohen's kappa (0: as by chance)")
    pairs = layers.drop_duplicates(["trial_a", "trial_b"])
    title = "Mask overlap per layer" + (f", mean of {len(pairs)} pairs" if len(pairs) > 1 else "")
    left.set_title(title, fontsize=9.5, loc="left", color=INK, fontweight="bold")
    handles, labels = left.get_legend_handles_labels()
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1))
    columns = min(4, len(handles))
    figure.legend(handles, [*labels, "by chance"], loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _placed(layers: pd.Series) -> pd.DataFrame:
    """Every `layer` once, with its `depth` and `kind` and its `place` on the axis: those without a depth last."""
    names = pd.DataFrame({"layer": sorted(layers.unique(), key=natural)})
    names[["depth", "kind"]] = [layer_kind(layer) for layer in names["layer"]]
    outside = names["depth"].isna()
    names["place"] = names["depth"].astype(float)
    names.loc[outside, "place"] = names["place"].max(skipna=True) + 2 if not outside.all() else 0.0
    names.loc[outside, "place"] += np.arange(outside.sum())
    return names


def _look_of(kind: str, number: int) -> dict[str, Any]:
    """The line of a kind of layer; kinds that are not known take their turns by number."""
    every = list(_KINDS.values())
    color, marker = _KINDS.get(kind, every[number % len(every)])
    fine = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5, "linewidth": 1.4}
    return {"label": plain(kind), "color": color, "marker": marker, **fine}


def _depth_ticks(axes: Axes, names: pd.DataFrame, most: int = 12) -> None:
    """Numbers of the encoder's layers, up to `most` of them, then the names of what stands outside."""
    numbered = names.dropna(subset=["depth"])["place"].drop_duplicates().astype(int)
    step = max(1, -(-len(numbered) // most))
    outside = names[names["depth"].isna()]
    ticks = [*numbered[::step], *outside["place"]]
    axes.set_xticks(ticks, [str(place) for place in numbered[::step]] + [plain(kind) for kind in outside["kind"]])


def _in_order(kinds: pd.Series) -> list[str]:
    """Every kind once: those of _KINDS in its order, then others."""
    present = list(dict.fromkeys(kinds))
    return [kind for kind in _KINDS if kind in present] + [kind for kind in present if kind not in _KINDS]


def _layers_panel(axes: Axes, points: pd.DataFrame, names: pd.DataFrame, measure: str, label: str) -> None:
    """One measure against depth, a line per kind of layer; what chance gives is dashed, where there is it."""
    tidy(axes)
    means = points.groupby(["kind", "place"])[[name for name in MEASURES if name.startswith(measure)]].mean()
    for number, kind in enumerate(_in_order(names["kind"])):
        line, style = means.loc[kind], _look_of(kind, number)
        axes.plot(line.index, line[measure], **style)
        if f"{measure}_chance" in line:
            axes.plot(
                line.index, line[f"{measure}_chance"], color=style["color"], linewidth=1, linestyle="--", zorder=1
            )
    _depth_ticks(axes, names)
    axes.set_xlabel("encoder layer", fontsize=8.5, color=INK)
    axes.set_ylabel(label, fontsize=8.5, color=INK)
    if f"{measure}_chance" not in points:
        axes.axhline(0, color=GREY, linewidth=1, linestyle="--", zorder=1)


# Density


def plot_density(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Where the kept weights are, from a frame of `density`: share of the weights kept against depth, a line per kind
    of layer, averaged over seeds and datasets; a row of panels per strategy, a column per compression. The dashed
    line is the whole network's. Strategies that keep the same share in every layer have one row together.

    Raises ValueError for an empty frame.
    """
    if frame.empty:
        raise ValueError("there is no density to plot: no trial has masks")
    known = trials.drop_duplicates("trial_id")[["trial_id", "strategy", "compression", "sparsity_asked"]]
    counts = frame.groupby(["trial_id", "layer"], sort=False)[["size", "kept"]].sum().reset_index().merge(known)
    names = _placed(counts["layer"])
    counts = counts.merge(names, on="layer").sort_values(["compression", "sparsity_asked"])
    counts["asked"] = [asked(c, s) for c, s in zip(counts["compression"], counts["sparsity_asked"], strict=True)]
    places, rows = list(counts["asked"].unique()), _density_rows(counts)
    figure = new_figure(1.6 + 2.1 * max(2, len(places)), 0.9 + 1.6 * len(rows))
    grid = figure.subplots(len(rows), len(places), squeeze=False, sharex=True, sharey="col")
    for (i, (title, strategies)), (j, place) in product(enumerate(rows), enumerate(places)):
        some = counts[counts["strategy"].isin(strategies) & (counts["asked"] == place)]
        _density_panel(grid[i, j], some, names)
        words = [title if j == 0 else "", place if i == 0 else ""]
        grid[i, j].set_title(plain("\n".join(filter(None, words))), fontsize=8.5, loc="left", color=INK)
    for axes, place in zip(grid[0], places, strict=True):
        shares = (counts["kept"] / counts["size"])[counts["asked"] == place]
        axes.set_ylim(0, 1.12 * shares.max() or 1)
    figure.supxlabel("encoder layer", fontsize=8.5, color=INK)
    figure.supylabel("share of weights kept", fontsize=8.5, color=INK)
    handles, labels = _legend(grid)
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(handles)), fontsize=8, frameon=False)
    return figure


def _density_rows(counts: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """A title and its strategies for each row: those whose layers differ by themselves, the others together."""
    shares = (counts["kept"] / counts["size"]).groupby([counts["strategy"], counts["trial_id"]]).agg(["min", "max"])
    even = (shares["max"] - shares["min"] <= 0.02 * shares["max"]).groupby("strategy").all()
    rows = [(str(strategy), [str(strategy)]) for strategy in even.index[~even]]
    alike = [str(strategy) for strategy in even.index[even]]
    if len(alike) > 1:
        return [*rows, (f"{len(alike)} strategies, the same share in every layer", alike)]
    return [*rows, *((f"{strategy}, the same share in every layer", [strategy]) for strategy in alike)]


def _density_panel(axes: Axes, some: pd.DataFrame, names: pd.DataFrame) -> None:
    tidy(axes)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _depth_ticks(axes, names, most=6)
    if some.empty:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", fontsize=8, color=GREY)
        return
    sums = some.groupby(["kind", "place"])[["kept", "size"]].sum()
    for number, kind in enumerate(_in_order(names["kind"])):
        if kind in sums.index:
            line = sums.loc[kind]
            axes.plot(line.index, line["kept"] / line["size"], **_look_of(kind, number))
    axes.axhline(some["kept"].sum() / some["size"].sum(), color=GREY, linewidth=1, linestyle="--", zorder=1)


def _legend(grid: NDArray[Any]) -> tuple[list[Any], list[str]]:
    """Every kind once, wherever it is drawn, and the dashed line."""
    found: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found["whole network"] = Line2D([], [], color=GREY, linestyle="--", linewidth=1)
    return list(found.values()), list(found)
