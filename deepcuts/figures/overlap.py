"""Draws how far masks agree, over the whole network and per layer; `style.save_figure` writes the figures."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from deepcuts.analysis.arms import in_order, with_arms
from deepcuts.analysis.pairs import RELATIONS, related
from deepcuts.figures.layers import depth_ticks, placed_layers
from deepcuts.figures.style import (
    DIVERGING,
    FAINT,
    GREY,
    INK,
    Dashes,
    called,
    drawn,
    figure_width,
    legend,
    new_figure,
    plain,
    tidy,
    wrapping,
)
from deepcuts.names import natural
from deepcuts.pruning.criteria import is_control
from deepcuts.wording import counted, level

# Below this many inches panels are below each other.
_NARROW = 5.0
# How many pairs of levels are named in the note on the highest kappa.
_MOST_HIGHEST = 6
# Numbers are written into the cells where there are at most this many columns per inch of the figure.
_MOST_NUMBERS = 2.7

_CHANCE: Dashes = (0, (4, 1.5))
_HIGHEST: Dashes = (0, (1, 1))
_CONTROL: Dashes = (0, (4, 1.5, 1, 1.5))
_RELATION_LOOKS = {
    "other seed": ("#0072B2", "o"),
    "other strategy": ("#D55E00", "s"),
    "other settings": ("#E69F00", "P"),
    "other compression": ("#00693C", "^"),
    "other dataset": ("#7D1E5A", "D"),
    "all": (INK, "o"),
}


@drawn
def plot_overlap(frame: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Draw a heatmap of the whole network's kappa for all pairs in a frame of `overlap`.

    Trials (rows of the table `trials`) are grouped by dataset and by the compression or sparsity asked for. Kappa is 0
    where masks agree at chance level, and 1 where they are the same. Masks that keep different shares of the weights
    cannot reach 1; a note has the highest kappa that is possible for them. Raises ValueError for an empty frame.

    >>> dc.plot_overlap(dc.overlap(store), trials)
    """
    whole = frame[frame["layer"].isna()]
    if whole.empty:
        raise ValueError("there is no overlap to plot: no two trials have masks")
    ids = set(whole["trial_a"]) | set(whole["trial_b"])
    rows = with_arms(trials[trials["trial_id"].isin(ids)])
    rows = in_order(rows, ["dataset", "compression", "sparsity_asked", "arm", "seed"])
    place = {trial_id: number for number, trial_id in enumerate(rows["trial_id"])}
    kappa = np.full((len(rows), len(rows)), np.nan)
    a, b = whole["trial_a"].map(place), whole["trial_b"].map(place)
    kappa[a, b] = kappa[b, a] = whole["kappa"]
    size = min(9.0, 2.2 + 0.28 * len(rows))
    longest = rows["arm"].map(called).str.len().max()
    usual = size + 1.3 + 0.075 * longest
    narrow = figure_width(usual) < 0.75 * usual
    figure = new_figure(usual, size + 0.6)
    axes = figure.subplots()
    letters = max(10, int(0.3 * wrapping(figure))) if narrow else longest
    _heatmap(figure, axes, kappa, narrow)
    _trial_labels(axes, rows, letters, figure.get_figwidth() * (0.6 if narrow else 1))
    title = "\n".join(wrap("Mask overlap: Cohen's kappa, all layers", wrapping(figure) // 2))
    if narrow:  # the map is as wide as names leave room for, and the colours are below it
        figure.set_figheight(0.68 * figure.get_figwidth() + 1.6)
        figure.suptitle(title, fontsize="medium", fontweight="bold")
    else:
        axes.set_title(title)
    if note := _highest(whole, rows):
        words = "\n".join(wrap(note, int(0.9 * wrapping(figure))))
        if narrow:
            figure.supxlabel(words, fontsize="x-small", color=GREY)
        else:
            axes.set_xlabel(words, fontsize="x-small", color=GREY, loc="left", labelpad=8)
    return figure


def _highest(whole: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Say for which levels kappa cannot reach 1, and how far it can; nothing where it can everywhere."""
    asked = [level(*each) for each in zip(rows["compression"], rows["sparsity_asked"], strict=True)]
    order, levels = list(dict.fromkeys(asked)), dict(zip(rows["trial_id"], asked, strict=True))
    sides = [whole["trial_a"].map(levels).map(order.index), whole["trial_b"].map(levels).map(order.index)]
    first, second = (pd.concat(sides, axis=1).agg(end, axis=1) for end in ("min", "max"))
    highest = whole["kappa_highest"].groupby([first, second]).agg(["min", "max"])
    highest = highest[highest["min"] < 0.995]
    if highest.empty:
        return ""
    said = [f"{order[a]} with {order[b]}: {_span(low, high)}" for (a, b), low, high in highest.itertuples()]
    listed = f" Here {', '.join(said)}." if len(said) <= _MOST_HIGHEST else ""
    return f"Masks that keep shares p < q of a tensor reach at most 2p(1 - q)/(p + q - 2pq), not 1.{listed}"


def _span(low: float, high: float) -> str:
    return f"{low:z.2f}" if f"{low:z.2f}" == f"{high:z.2f}" else f"{low:z.2f} to {high:z.2f}"


def _heatmap(figure: Figure, axes: Axes, kappa: NDArray[np.float64], narrow: bool) -> None:
    """Draw kappa (T, T) in colour, less than by chance in orange, and as numbers if there is room.

    The scale is at the right, or below where the figure is narrow.
    """
    axes.set_facecolor(FAINT)
    image = axes.imshow(kappa, cmap=DIVERGING, norm=Normalize(-1, 1), interpolation="none")
    lowest = min(0.0, float(np.nanmin(kappa, initial=0.0)))
    if narrow:
        bar = figure.colorbar(image, ax=axes, location="bottom", pad=0.02, aspect=25)
        bar.ax.set_xlim(lowest, 1)
    else:
        bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, aspect=25)
        bar.ax.set_ylim(lowest, 1)
    bar.set_label("0: chance level    1: identical masks")
    bar.outline.set_visible(False)
    axes.spines[:].set(visible=True, color=GREY)
    if len(kappa) > _MOST_NUMBERS * figure.get_figwidth():
        return
    for (row, column), value in np.ndenumerate(kappa):
        if np.isfinite(value):
            color = "white" if value > 0.6 else INK
            axes.text(column, row, f"{value:z.2f}", ha="center", va="center", fontsize="xx-small", color=color)


def _trial_labels(axes: Axes, rows: pd.DataFrame, letters: int, inches: float) -> None:
    """Write each arm's name beside its trials and a heading above each group, with lines between.

    Names are wrapped after so many letters, and have room for their lines in a map of so many inches.
    """
    seeds = sorted(rows["seed"].unique())
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds)) if len(seeds) <= 8 else f"{seeds[0]} ... {seeds[-1]}"
        axes.set_ylabel(f"seeds {listed}, from top to bottom", fontsize="small", color=GREY)
    placed = rows.assign(group=_group(rows), place=range(len(rows)))
    spans = placed.groupby(["group", "arm"], sort=False)["place"].agg(["first", "last"])
    names = ["\n".join(wrap(called(arm), letters)) for _, arm in spans.index]
    room = (spans["last"] - spans["first"] + 1) / [1 + name.count("\n") for name in names]
    size = 0.8 * float(mpl.rcParams["font.size"])
    small = min(size, 400 / len(spans), 60 * inches * float(room.min()) / len(rows))
    axes.set_yticks(((spans["first"] + spans["last"]) / 2).tolist(), names, fontsize=small)
    groups = placed.groupby("group", sort=False)["place"].agg(["first", "last"])
    middles = ((groups["first"] + groups["last"]) / 2).tolist()
    axes.set_xticks(middles, [plain(name) for name in groups.index])
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


@drawn
def plot_layers(frame: pd.DataFrame, trials: pd.DataFrame | None = None) -> Figure:
    """Draw the overlap per layer from a frame of `overlap` against depth, a line for each thing that differs.

    With the rows of `trials` a line is the mean over the pairs that differ in one thing alone, as in `decompose`: the
    seed, the strategy, its settings, the compression or the dataset; of methods, or with a control (hollow, dotted).
    Pairs that differ in more are left out, unless there are no others. Dots are the kinds of layers (query, key ...)
    of the methods. The left panel has the IoU of the pruned places beside what chance gives, the right one kappa beside
    the highest that is possible. Raises ValueError for a frame without layers.

    >>> dc.plot_layers(dc.overlap(store), trials)
    """
    layers = frame[frame["layer"].notna()]
    if layers.empty:
        raise ValueError("there is no overlap per layer to plot: no two trials have masks")
    lines, names = _lines(layers, trials)
    placed = placed_layers(layers["layer"])
    points = lines.merge(placed[["layer", "kind", "place"]], on="layer")
    stacked = figure_width(7.2) < _NARROW
    figure = new_figure(7.2, (5.8 if stacked else 3.4) + 0.16 * points["line"].nunique())
    left, right = figure.subplots(*((2, 1) if stacked else (1, 2)))
    _layers_panel(left, points, placed, "pruned_iou", "IoU of pruned places")
    _layers_panel(right, points, placed, "kappa", "Cohen's kappa (0: chance level)")
    left.set_title("Mask overlap per layer")
    handles = [line for line in left.get_lines() if not str(line.get_label()).startswith("_")]
    for dashes, label in ((_CHANCE, "by chance (IoU)"), (_HIGHEST, "highest possible (kappa)")):
        handles.append(Line2D([], [], color=GREY, linestyle=dashes, linewidth=1, label=label))
    legend(figure, handles, title="\n".join(wrap(names, wrapping(figure))))
    return figure


def _lines(layers: pd.DataFrame, trials: pd.DataFrame | None) -> tuple[pd.DataFrame, str]:
    """Return the pairs that differ in one thing with their `relation`, `of` and `line`, and a sentence about them."""
    kept = related(layers, trials) if trials is not None else layers.head(0)
    if kept.empty:
        pairs = len(layers.drop_duplicates(["trial_a", "trial_b"]))
        return layers.assign(
            relation="all", of="methods", line=f"mean of {pairs} pairs" if pairs > 1 else "one pair"
        ), ""
    control = kept["strategy"].map(is_control) | kept["strategy_b"].map(is_control)
    kept = kept.assign(of=control.map({True: "controls", False: "methods"}))
    kept["relation"] = pd.Categorical(kept["relation"], RELATIONS, ordered=True)
    kept["of"] = pd.Categorical(kept["of"], ["methods", "controls"], ordered=True)
    parts = []
    for (relation, of), part in kept.groupby(["relation", "of"], observed=True, sort=True):
        pairs = len(part.drop_duplicates(["trial_a", "trial_b"]))
        parts.append(part.assign(line=f"{relation}, {of}, {counted(pairs, 'pair')}"))
    arms = pd.concat([kept[["arm", "of"]], kept[["arm_b", "of"]].set_axis(["arm", "of"], axis=1)])
    methods = sorted(set(arms.loc[arms["of"] == "methods", "arm"]), key=natural)
    controls = sorted(set(arms["arm"]) - set(methods), key=natural) if control.any() else []
    said = [
        f"{what}: {', '.join(map(called, names))}"
        for what, names in (("methods", methods), ("controls", controls))
        if names
    ]
    left_out = len(layers.drop_duplicates(["trial_a", "trial_b"])) - len(kept.drop_duplicates(["trial_a", "trial_b"]))
    differ = "differs in more than one thing is" if left_out == 1 else "differ in more than one thing are"
    more = [f"{counted(left_out, 'pair')} that {differ} left out"] if left_out else []
    return pd.concat(parts, ignore_index=True), "; ".join(said + more)


def _layers_panel(axes: Axes, points: pd.DataFrame, names: pd.DataFrame, measure: str, label: str) -> None:
    """Draw one measure against depth, a line per relation, beside what chance gives or the highest that is possible."""
    tidy(axes)
    beside, dashes = ("kappa_highest", _HIGHEST) if measure == "kappa" else (f"{measure}_chance", _CHANCE)
    for line, part in points.groupby("line", sort=False):
        color, marker = _RELATION_LOOKS[str(part["relation"].iloc[0])]
        hollow = part["of"].iloc[0] == "controls"
        style = {"color": color, "marker": marker, "linestyle": _CONTROL if hollow else "-"} | _marked(color, hollow)
        means = part.groupby("place")[[measure, beside]].mean()
        axes.plot(means.index, means[measure], label=str(line), **style)
        if measure != "kappa" or means[beside].min() < 0.995:
            axes.plot(means.index, means[beside], color=color, linewidth=1, linestyle=dashes, zorder=1)
        if not hollow and names["kind"].nunique() > names["place"].nunique():
            kinds = part.groupby(["kind", "place"], as_index=False)[measure].mean()
            axes.scatter(kinds["place"], kinds[measure], 5, color, alpha=0.45, linewidths=0, zorder=2)
    depth_ticks(axes, names)
    axes.set_xlabel("encoder layer")
    axes.set_ylabel(label)
    if measure == "kappa":
        axes.axhline(0, color=GREY, linewidth=1, zorder=1)


def _marked(color: str, hollow: bool) -> dict[str, Any]:
    edge = color if hollow else "white"
    return {
        "markersize": 5,
        "markerfacecolor": "white" if hollow else color,
        "markeredgecolor": edge,
        "markeredgewidth": 0.7,
    }
