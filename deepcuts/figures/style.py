"""Defines how every figure looks: ink, an arm's colour and marker, canvases without global state, saving."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, wraps
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from deepcuts.analysis.arm_names import label_of
from deepcuts.names import natural
from deepcuts.pruning.criteria import NOT_PRUNED

INK, GREY, FAINT = "#222222", "#6b6b6b", "#dddddd"
# Around a value that is as expected, white: orange below it, blue above; safe for the colour blind.
DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#b35806", "#f1a340", "#ffffff", "#67a9cf", "#08306b"])
_TICKS: dict[str, Any] = {"color": GREY, "labelcolor": INK, "labelsize": "small", "major.size": 3}
_P = ParamSpec("_P")
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
    "MagInit": ("#FFB487", "H"),
    "SynFlow": ("#F000FF", "8"),
    "GraSP": ("#00E100", "*"),
    "Random": ("#7F7F7F", "o"),
}
_DASHES: dict[str, Dashes] = {
    "Layer": (0, ()),
    "Global": (0, (5, 1.5)),
    "Row": (0, (6, 1.5, 1, 1.5)),
    "Lamp": (0, (2.5, 1)),
    "Erk": (0, (9, 1.5)),
    "Owl": (0, (6, 1.2, 1, 1.2, 1, 1.2)),
    "NM24": (0, (8, 1.2, 2.5, 1.2)),
    "Neuron": (0, (4, 1.2, 1, 1.2, 1, 1.2)),
}
_CONTROLS: dict[str, Dashes] = {"shuffle": (0, (1, 1.2)), "invert": (0, (1, 3.5))}
# The lines of networks that are not pruned, and of the most frequent class.
LEVEL_DASHES: dict[str, Any] = {"dense": "--", "unpruned": ":", "majority": (0, (6, 1.5, 1, 1.5, 1, 1.5))}
# How bright a colour is for the first arm that has it, and for the others: darker below 1, paler above.
_SHADES = (1.0, 0.5, 1.45, 0.75)


@dataclass(frozen=True)
class Look:
    """The look of an arm: its colour and marker; dashes by scope; a control is dotted and hollow."""

    color: str
    marker: str
    dashes: Dashes
    hollow: bool

    @property
    def text(self) -> tuple[float, ...]:
        """The colour, darkened to be readable as text on white."""
        return tuple(0.72 * part for part in to_rgb(self.color))


def looks(arms: Iterable[str]) -> dict[str, Look]:
    """Return the look of each arm of a figure.

    A label has one colour in all figures of a store, and a strategy in every figure of every store: that of its
    criterion. Any other label gets a colour that no label beside it has, as long as there are enough: that of its
    criterion where it begins with a strategy, if it is the first, else one that follows from its name. The labels
    beside it are those of the store, where `figure_options` names them, and then those of the figure.

    Arms of one label that differ in their settings have its colour in several shades, and markers of their own.
    """
    names = sorted({*map(str, arms)}, key=natural)
    of_label = _of_labels({label_of(name) for name in names})
    times, found = Counter[str](), dict[str, Look]()
    for name in names:
        label = label_of(name)
        found[name] = _again(name, of_label[label], times[label])
        times[label] += 1
    return found


def _of_labels(labels: set[str]) -> dict[str, Look]:
    """Return the look of each label."""
    store = {*_options.get().arms}
    found: dict[str, Look] = {}
    used = Counter[str]()
    for names in (store, labels - store):
        fixed = {name: look for name in names if (look := _of_strategy(name)) is not None}
        used.update({look.color for look in fixed.values()})
        found |= fixed
        for name in sorted(names - set(fixed), key=lambda name: (_criterion(name) not in LOOKS, natural(name))):
            color, marker = min(_wanted(name), key=lambda one: used[one[0]])
            found[name] = _again(name, Look(color, marker, *_drawn_as(name)), used[color])
            used[color] += 1
    return found


def _again(name: str, look: Look, times: int) -> Look:
    """Return a look that was used so many times before: in another shade, and with another marker.

    Ink has no shades: there it is in other dashes.
    """
    if not times:
        return look
    if look.color == INK:
        return replace(look, dashes=list(_DASHES.values())[times % len(_DASHES)])
    others = sorted({each for _, each in LOOKS.values()} - {look.marker})
    shade = _SHADES[times % len(_SHADES)]
    toward = 1.0 if shade > 1 else 0.0
    share = shade - 1 if shade > 1 else 1 - shade
    red, green, blue = (part + (toward - part) * share for part in to_rgb(look.color))
    return replace(look, color=to_hex((red, green, blue)), marker=others[(_number(look.color) + times) % len(others)])


def _of_strategy(arm: str) -> Look | None:
    """Return the look of a strategy, and of networks that are not pruned; None for any other arm."""
    if arm.split(" ")[0] in NOT_PRUNED:
        return Look(INK, "o", _DASHES["Layer"], hollow=False)
    known = None if " " in arm else LOOKS.get(_criterion(arm))
    return Look(*known, *_drawn_as(arm)) if known else None


def _criterion(arm: str) -> str:
    """Return the criterion of the strategy that an arm's name begins with; nothing where it begins with none."""
    base = arm.split(" ")[0].partition("+")[0]
    return next((base.removeprefix(scope) for scope in _DASHES if base.startswith(scope)), "")


def _wanted(arm: str) -> list[tuple[str, str]]:
    """Return the colours and markers that an arm would have, the first one first; the grey of random masks is last."""
    own = LOOKS.get(_criterion(arm))
    others = [each for each in LOOKS.values() if each not in (own, LOOKS["Random"])]
    first = _number(arm) % len(others)
    return [*([own] if own else []), *others[first:], *others[:first], LOOKS["Random"]]


def _drawn_as(arm: str) -> tuple[Dashes, bool]:
    """Return the dashes of an arm, and whether its markers are hollow."""
    base, _, control = arm.split(" ")[0].partition("+")
    scope = next((scope for scope in _DASHES if base.startswith(scope)), "Layer")
    return (_CONTROLS.get(control, _CONTROLS["shuffle"]), True) if control else (_DASHES[scope], False)


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


# How figures look, in matplotlib's own words: the user's matplotlibrc and rcParams come before it.
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": "small",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "figure.labelsize": "small",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "legend.title_fontsize": "small",
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    "text.color": INK,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in _TICKS.items()},
}


class _Options(NamedTuple):
    width: float | None
    font_size: float | None
    labels: Mapping[str, str]
    arms: Collection[str]
    note: str


_NO_OPTIONS = _Options(None, None, MappingProxyType({}), (), "")
_options = ContextVar("_options", default=_NO_OPTIONS)


@contextmanager
def figure_options(
    width: float | None = None,
    font_size: float | None = None,
    labels: Mapping[str, str] | None = None,
    arms: Collection[str] = (),
    note: str = "",
) -> Iterator[None]:
    """Give the figures that are made in this block another width (inches), size of text (points), or names of arms.

    Names and legends move where they fit. `labels` maps arms, as figures call them, to what they shall be called.
    `arms` are the labels of all arms of a store: each then has the same colour in all of its figures. A `note` is
    written below the figure.
    Raises ValueError for a width outside 2 to 40 and a size outside 3 to 40.

    >>> with dc.figure_options(width=3.3, font_size=8, labels={"LayerMagWeight": "Magnitude"}):
    ...     figure = dc.plot_curves(dc.curves(trials))
    """
    if width is not None and not 2 <= width <= 40:
        raise ValueError(f"width {width!r}: a figure is 2 to 40 inches wide; a column of a paper is about 3.3")
    if font_size is not None and not 3 <= font_size <= 40:
        raise ValueError(f"font size {font_size!r}: text has 3 to 40 points; captions of papers have about 8")
    token = _options.set(_Options(width, font_size, labels or {}, arms, note))
    try:
        yield
    finally:
        _options.reset(token)


def drawn(plot: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Let a function plot in our style, as far as the user has no other, and with the options of `figure_options`."""

    @wraps(plot)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        size = _options.get().font_size
        with mpl.rc_context(_ours() | ({"font.size": size} if size else {})):
            return _noted(plot(*args, **kwargs))

    return styled


def _noted(figure: Figure) -> Figure:
    """Write the note of `figure_options` above the legend, or below a figure that has none."""
    if note := _options.get().note:
        lines = wrap(note, wrapping(figure))
        figure.set_figheight(figure.get_figheight() + 0.017 * mpl.rcParams["font.size"] * len(lines))
        if figure.legends:
            there = figure.legends[0].get_title().get_text()
            figure.legends[0].set_title("\n".join([*filter(None, [there]), *map(plain, lines)]))
        else:
            figure.supxlabel("\n".join([*filter(None, [figure.get_supxlabel()]), *map(plain, lines)]))
    return figure


def _ours() -> dict[Any, Any]:
    """Return what the user has not set: neither in a matplotlibrc, even to the default, nor since."""
    return {name: value for name, value in _STYLE.items() if not _is_set(name)}


def _is_set(name: Any) -> bool:
    return name in _of_file(mpl.matplotlib_fname()) or mpl.rcParams[name] != mpl.rcParamsDefault[name]


@cache
def _of_file(path: str) -> frozenset[str]:
    return frozenset(mpl.rc_params_from_file(path, fail_on_error=False, use_default_template=False))


def figure_width(usual: float) -> float:
    """Return the width in inches that was asked for, or the usual one."""
    return _options.get().width or usual


def new_figure(width: float, height: float) -> Figure:
    """Make a figure, its usual size in inches, on its own canvas: pyplot's global state is not used.

    Where another width was asked for, the height changes with its square root: legends need the room.
    """
    asked = figure_width(width)
    figure = _Shown((asked, height * (asked / width) ** 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def called(arm: object) -> str:
    """Return what an arm is called in figures; matplotlib leaves out names that begin with an underscore."""
    name = plain(_options.get().labels.get(str(arm), arm))
    return f" {name}" if name.startswith("_") else name


def letters(figure: Figure, size: str) -> float:
    """Return about how many letters fit beside each other."""
    points = FontProperties(size=size).get_size_in_points()
    return 72 * float(figure.get_figwidth()) / (0.56 * points)


def wrapping(figure: Figure) -> int:
    """Return after how many letters a small text is wrapped."""
    return max(20, int(letters(figure, "small")))


def legend(figure: Figure, handles: Sequence[Line2D], loc: Any = "outside lower center", title: str = "") -> None:
    """Add a legend of lines with labels, in as many columns as there is room for, at most 4."""
    longest = max(len(str(line.get_label())) for line in handles)
    columns = int(letters(figure, "small") / (longest + 7))
    figure.legend(handles=handles, loc=loc, ncols=max(1, min(4, len(handles), columns)), title=title)


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
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(check_suffix(path))
    with mpl.rc_context(_ours() | {"svg.hashsalt": "deepcuts"}):
        figure.savefig(path, metadata=undated)


def check_suffix(path: str | Path) -> str:
    """Return the suffix of a figure's file in lower case. Raises ValueError for one that cannot be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot write a figure as {suffix!r} ({str(path)!r}); choose {', '.join(SUFFIXES)}")
    return suffix


def plain(text: object) -> str:
    """Escape the dollar signs of a user's text, which matplotlib would read as mathematics."""
    return str(text).replace("$", r"\$")


def tidy(axes: Axes, grid: bool = True) -> None:
    """Add horizontal lines to a panel, unless the user has chosen."""
    if grid and not _is_set("axes.grid"):
        axes.grid(axis="y")


def line_style(style: Look) -> dict[str, Any]:
    """Return a look as arguments of `Axes.plot`: a control's marker is hollow, or half so where masks are inverted."""
    half = style.hollow and style.dashes == _CONTROLS["invert"]
    return {
        "color": style.color,
        "linestyle": style.dashes,
        "marker": style.marker,
        "fillstyle": "left" if half else "full",
        "markerfacecolor": style.color if half or not style.hollow else "white",
        "markerfacecoloralt": "white",
        "markeredgecolor": style.color if style.hollow else "white",
        "markeredgewidth": 1.0 if style.hollow else 0.5,
    }
