"""Defines how every figure looks: ink, a strategy's colour and marker, canvases without global state, saving."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from deepcuts.names import layer_kind, natural

INK, GREY, FAINT = "#222222", "#6b6b6b", "#dddddd"
SUFFIXES = (".png", ".svg", ".pdf")

Dashes = tuple[float, tuple[float, ...]]

# A colour and a marker for each criterion, which therefore looks the same in every figure of every store. The colours
# are at least 39 apart in CIELAB (Euclidean; 2 can just be seen). They were found by a search that began with blue,
# vermillion and grey of Okabe and Ito 2008 ("Color Universal Design") and also counted distances as seen without
# green cones (Machado et al. 2009).
LOOKS = {
    "MagWeight": ("#0072B2", "o"),
    "SmoothGrad": ("#D2B400", "s"),
    "GradCAMShift": ("#00693C", "^"),
    "SmoothGradCAMShift": ("#FF87B4", "D"),
    "GradCAM": ("#D55E00", "v"),
    "SmoothGradCAM": ("#00C3C3", "P"),
    "MagGrad": ("#4B1EC3", "X"),
    "SNIP": ("#E12D4B", "<"),
    "Fisher": ("#5A4B0F", ">"),
    "Wanda": ("#87C34B", "h"),
    "MagAct": ("#FF87FF", "p"),
    "MagIncrease": ("#7D1E5A", "d"),
    "Random": ("#7F7F7F", "o"),
}
_DASHES: dict[str, Dashes] = {"Layer": (0, ()), "Global": (0, (5, 1.5)), "Row": (0, (6, 1.5, 1, 1.5))}
_SHUFFLED: Dashes = (0, (1, 1.2))
# How bright the colour of an arm with settings of its own is.
_SHADES = (0.45, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Look:
    """The look of an arm: colour and marker by criterion, dashes by scope; a control is dotted and hollow.

    Settings in its name change marker and brightness, so that arms of one strategy can be told apart.
    """

    color: str
    marker: str
    dashes: Dashes
    hollow: bool

    @property
    def text(self) -> tuple[float, ...]:
        """The colour, darkened to be readable as text on white."""
        return tuple(0.72 * part for part in to_rgb(self.color))


def look(arm: str) -> Look:
    """Return the look of an arm, from its name alone: it is the same whatever else a figure shows."""
    strategy, _, settings = arm.partition(" [")
    base, _, control = strategy.partition("+")
    scope = next((scope for scope in _DASHES if base.startswith(scope)), "Layer")
    criterion = base.removeprefix(scope)
    every = list(LOOKS.values())
    if criterion in LOOKS:
        color, marker = LOOKS[criterion]
    else:
        place = _number(criterion)
        color, marker = every[place % len(every)][0], every[place // len(every) % len(every)][1]
    if settings:
        place = _number(settings)
        red, green, blue = (_SHADES[place % len(_SHADES)] * part for part in to_rgb(color))
        color = to_hex((red, green, blue))
        others = sorted({each for _, each in every} - {marker})
        marker = others[place // len(_SHADES) % len(others)]
    return Look(color, marker, _SHUFFLED if control else _DASHES[scope], bool(control))


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def new_figure(width: float, height: float) -> Figure:
    """Make a figure, its size in inches, on its own canvas: pyplot's global state is not used."""
    figure = _Shown((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class _Shown(Figure):
    """A figure that a notebook shows without pyplot and its `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, dpi=100)
        return image.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (200 dpi), SVG or PDF, by the suffix; the same figure gives the same bytes.

    Raises ValueError for another suffix, OSError where the file cannot be written.

    >>> dc.save_figure(dc.plot_curves(dc.curves(trials)), "curves.svg")
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot write a figure as {suffix!r} ({str(path)!r}); choose {', '.join(SUFFIXES)}")
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "deepcuts"}):  # 42: text stays text
        figure.savefig(path, dpi=200, metadata=undated)


def plain(text: object) -> str:
    """Escape the dollar signs of a user's text, which matplotlib would read as mathematics."""
    return str(text).replace("$", r"\$")


def tidy(axes: Axes, grid: bool = True) -> None:
    """Style the frame, ticks and grid of a panel."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY, labelcolor=INK, length=3)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def line_style(style: Look) -> dict[str, Any]:
    """Return a look as arguments of `Axes.plot`."""
    return {
        "color": style.color,
        "linestyle": style.dashes,
        "linewidth": 1.5,
        "marker": style.marker,
        "markersize": 5,
        "markerfacecolor": "white" if style.hollow else style.color,
        "markeredgecolor": style.color if style.hollow else "white",
        "markeredgewidth": 1.0 if style.hollow else 0.5,
    }


# Layers

KIND_LOOKS = {
    "query": ("#0072B2", "o"),
    "key": ("#56B4E9", "v"),
    "value": ("#009E73", "^"),
    "attention output": ("#999933", "s"),
    "intermediate": ("#E69F00", "D"),
    "output": ("#D55E00", "P"),
    "pooler": ("#CC79A7", "X"),
}


def placed_layers(layers: pd.Series) -> pd.DataFrame:
    """Return every `layer` once, with its `depth`, `kind` and `place` on the axis; those without a depth come last."""
    names = pd.DataFrame({"layer": sorted(layers.unique(), key=natural)})
    names[["depth", "kind"]] = [layer_kind(layer) for layer in names["layer"]]
    outside = names["depth"].isna()
    names["place"] = names["depth"].astype(float)
    names.loc[outside, "place"] = names["place"].max(skipna=True) + 2 if not outside.all() else 0.0
    names.loc[outside, "place"] += np.arange(outside.sum())
    return names


def kind_style(kind: str, number: int) -> dict[str, Any]:
    """Return the style of a kind of layer as arguments of `Axes.plot`; unknown kinds get a colour by `number`."""
    every = list(KIND_LOOKS.values())
    color, marker = KIND_LOOKS.get(kind, every[number % len(every)])
    fine = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5, "linewidth": 1.4}
    return {"label": plain(kind), "color": color, "marker": marker, **fine}


def depth_ticks(axes: Axes, names: pd.DataFrame, most: int = 12) -> None:
    """Label the axis with up to `most` numbers of the encoder's layers, then the names of the layers outside it."""
    numbered = names.dropna(subset=["depth"])["place"].drop_duplicates().astype(int)
    step = max(1, -(-len(numbered) // most))
    outside = names[names["depth"].isna()]
    ticks = [*numbered[::step], *outside["place"]]
    axes.set_xticks(ticks, [str(place) for place in numbered[::step]] + [plain(kind) for kind in outside["kind"]])


def kinds_in_order(kinds: pd.Series) -> list[str]:
    """Return every kind once: those of KIND_LOOKS in its order, then the others."""
    present = list(dict.fromkeys(kinds))
    return [kind for kind in KIND_LOOKS if kind in present] + [kind for kind in present if kind not in KIND_LOOKS]
