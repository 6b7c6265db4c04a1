"""Draws the metric of arms at a single level, a row for each: points of a curve would lie upon each other."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT

from deepcuts.analysis.significance import FEWEST_OF_INTERVAL
from deepcuts.figures.style import INK, LEVEL_DASHES, called, line_style, looks, new_figure, plain, tidy, wrapping
from deepcuts.names import natural
from deepcuts.wording import level


def has_one_level(frame: pd.DataFrame) -> bool:
    """Tell whether the arms of each panel of a frame of `curves` are all at one level."""
    return bool((frame.groupby(["model", "dataset", "metric"], dropna=False)["x"].nunique() == 1).all())


def plot_one_level(frame: pd.DataFrame) -> Figure:
    """Plot each arm of a frame of `curves` in a row: its mean, a dot per seed, and the 95 % t interval (from 3 seeds).

    A panel per dataset. The axis has every seed and the dense and unpruned networks, and the majority's score where
    that does not take most of the room; an interval that goes on beyond it ends in an arrowhead.
    """
    panels = list(frame.groupby(["model", "dataset", "metric"], dropna=False, sort=False))
    figure = new_figure(6.4, 1)
    names = [_names(part, wrapping(figure) // 2) for _, part in panels]
    lines = [7 + len(some) * (1.2 + max(name.count("\n") for name in some.values())) for some in names]
    figure.set_figheight(0.019 * mpl.rcParams["font.size"] * sum(lines))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=lines)
    for axes, ((model, dataset, metric), part), some in zip(grid.flat, panels, names, strict=True):
        first = part.iloc[0]
        place = level(*((None, first["x"]) if first["axis"] == "sparsity" else (first["x"], None)))
        title = f"{dataset} · {model}" if frame["model"].nunique() > 1 else dataset
        axes.set_title(plain(f"{title}, {place}"), pad=14)
        axes.set_xlabel(plain(f"{metric}, {first['stage']}"))
        _rows(axes, part, some)
        _beside(axes, part)
        _mark_cut(axes, part, some)
    return figure


def _names(part: pd.DataFrame, letters: int) -> dict[str, str]:
    """Map the arms, in order, to what stands beside their rows."""
    return {name: fill(called(name), letters) for name in sorted(part["arm"].unique(), key=natural)}


def _rows(axes: Axes, part: pd.DataFrame, names: Mapping[str, str]) -> None:
    tidy(axes)
    styles = looks(names)
    for height, name in enumerate(names):
        style = styles[name]
        for row in part[part["arm"] == name].to_dict("records"):
            axes.scatter(row["values"], [height] * len(row["values"]), 9, style.color, alpha=0.6, linewidths=0)
            if row["n"] >= FEWEST_OF_INTERVAL:
                axes.plot([row["low"], row["high"]], [height, height], color=style.color, linewidth=1.6)
            axes.plot(row["mean"], height, label=str(name), **line_style(style), zorder=3)
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _beside(axes: Axes, part: pd.DataFrame) -> None:
    """Draw lines for the networks that are not pruned, and for the most frequent class where there is room."""
    levels = levels_beside(part)
    networks = levels.loc[levels["name"] != "majority", "value"]
    shown = [*networks, *part["values"].explode().astype(float)]
    low, high = min(shown), max(shown)
    room = (high - low) or 0.1
    far = levels["name"].eq("majority") & ~levels["value"].between(low - room, high + room)
    levels = levels[~far]
    low, high = min([low, *levels["value"]]), max([high, *levels["value"]])
    axes.set_xlim(low - 0.05 * (high - low or 0.1), high + 0.05 * (high - low or 0.1))
    for name, value in levels.itertuples(index=False):
        axes.axvline(value, color=INK, linewidth=0.9, linestyle=LEVEL_DASHES[name], zorder=1)
    for text, value in level_names(levels, 0.3 * (high - low)):
        axes.annotate(
            text,
            (value, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right" if value > low + 0.5 * (high - low) else "left",
            fontsize="x-small",
            color=INK,
        )


def _mark_cut(axes: Axes, part: pd.DataFrame, names: Mapping[str, str]) -> None:
    """Put an arrowhead at the edge where an interval goes on beyond it."""
    styles, (left, right) = looks(names), axes.get_xlim()
    for height, name in enumerate(names):
        for row in part[(part["arm"] == name) & (part["n"] >= FEWEST_OF_INTERVAL)].to_dict("records"):
            for edge, marker, cut in ((left, CARETLEFT, row["low"] < left), (right, CARETRIGHT, row["high"] > right)):
                if cut:
                    axes.plot(edge, height, marker=marker, markersize=5, color=styles[name].color, clip_on=False)


def levels_beside(part: pd.DataFrame) -> pd.DataFrame:
    """Return the levels of networks that are not pruned, and of the most frequent class: `name, value`, ascending."""
    levels = part[list(LEVEL_DASHES)].melt(var_name="name").dropna()
    levels["value"] = levels["value"].astype(float).round(9)  # means of the same values, in another order
    return levels.drop_duplicates().sort_values("value")


def level_names(levels: pd.DataFrame, apart: float) -> list[tuple[str, float]]:
    """Return what is written at the levels, and where: one text for all that are not at least so far `apart`."""
    groups: list[list[tuple[str, float]]] = []
    for name, value in levels.itertuples(index=False):
        if groups and value - groups[-1][-1][1] < apart:
            groups[-1].append((name, value))
        else:
            groups.append([(name, value)])
    return [(_level_text(group), group[-1][1]) for group in groups]


def _level_text(group: list[tuple[str, float]]) -> str:
    """Name levels that are close, the highest first: `unpruned 0.873 · dense 0.853 to 0.861`."""
    values: dict[str, list[str]] = {}
    for name, value in reversed(group):
        values.setdefault(name, []).append(f"{value:z.3f}")
    ends = {name: list(dict.fromkeys([some[-1], some[0]])) for name, some in values.items()}
    return " · ".join(f"{name} {' to '.join(some)}" for name, some in ends.items())
