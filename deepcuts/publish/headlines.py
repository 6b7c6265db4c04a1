"""Puts comparisons in words and bars: which arm is better where, by how much, and how certain that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from deepcuts.analysis.compare import more_seeds, short_verdict
from deepcuts.publish.html import Child, element, html_table
from deepcuts.records import records
from deepcuts.store.tables import Row
from deepcuts.wording import counted, level

if TYPE_CHECKING:
    import pandas as pd


# The verdicts, in the order in which arms are listed by them.
VERDICTS = ("better", "worse", "equivalent", "undecided")
_SIGNS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?"}
_WIDTH = 200


def headlines(comparisons: pd.DataFrame) -> Markup:
    """Make a card per dataset, with a sentence per arm over all compressions or sparsities."""
    groups: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in records(comparisons):
        place = groups.setdefault((row["dataset"], row["metric"], row["baseline"]), {})
        place.setdefault(row["strategy"], []).append(row)
    return element("div", *(_card(*place, strategies) for place, strategies in groups.items()), class_="cards")


def _card(dataset: str, metric: str, baseline: str, strategies: dict[str, list[Row]]) -> Markup:
    rows = sorted(strategies.items(), key=lambda each: _rank(each[1]))
    lines = (
        element("li", _badge(_leading(rows)), element("span", *sentence(rows)), class_="verdict") for _, rows in rows
    )
    return element(
        "article",
        element("h3", dataset),
        element("p", f"{metric} against {baseline}: the difference, its 95 % interval", class_="quiet"),
        element("ul", *lines, class_="verdicts"),
        class_="card",
    )


def _rank(rows: Sequence[Row]) -> int:
    return VERDICTS.index(_leading(rows))


def _leading(rows: Sequence[Row]) -> str:
    """Return the verdict that an arm is listed under: a decided one first, but undecided for better and worse."""
    found = {row["verdict"] for row in rows}
    if {"better", "worse"} <= found:
        return "undecided"
    return next(verdict for verdict in VERDICTS if verdict in found)


def _badge(verdict: str) -> Markup:
    return element("span", _SIGNS[verdict], class_=f"badge {verdict}", aria_hidden="true")


def sentence(rows: Sequence[Row]) -> list[Child]:
    """Write `LayerSNIP: better at 4x (+0.031, +0.010 to +0.052, 8 seeds); not enough seeds to tell at 2x (...)`."""
    parts = []
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: VERDICTS.index(row["verdict"])):
        groups.setdefault(_words(row), []).append(row)
    for words, points in groups.items():
        if points[0]["verdict"] == "undecided" and len(points) > 2:
            parts.append(f"{words} at {and_joined([_asked(row) for row in points])} ({_between(points)})")
        else:
            parts.append(f"{words} at {and_joined([_point(row) for row in points])}")
    return [element("strong", rows[0]["strategy"]), f": {'; '.join(parts)}."]


def _words(row: Row) -> str:
    return "not enough seeds to tell" if row["verdict"] == "undecided" else short_verdict(row)


def _asked(row: Row) -> str:
    return level(row["compression"], row["sparsity"])


def _between(rows: Sequence[Row]) -> str:
    """Sum up undecided comparisons: the range of their intervals, and the seeds that would decide."""
    lows, highs = ([row[end] for row in rows if row[end] is not None and row["n"] > 2] for end in ("low", "high"))
    known = [row for row in rows if row["seeds_needed"] is not None]
    needed = sorted(row["seeds_needed"] for row in known if row["seeds_needed"] > row["n"])
    seeds = max(row["n"] for row in rows)
    text = counted(seeds, "seed")
    if lows and highs:
        text = f"intervals within {_signed(min(lows))} to {_signed(max(highs))}, {text}"
    if needed:
        span = f"{needed[0]:.0f}" if needed[0] == needed[-1] else f"{needed[0]:.0f} to {needed[-1]:.0f}"
        text += f"; about {span} seeds would decide"
    return text


def and_joined(parts: Sequence[str]) -> str:
    """Join words as a sentence does: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _point(row: Row) -> str:
    if not row["n"]:
        return f"{_asked(row)} (no shared seed)"
    seeds = counted(row["n"], "seed")
    text = f"{_asked(row)} ({_signed(row['difference'])}, "
    text += seeds if row["low"] is None or row["n"] < 3 else f"{_signed(row['low'])} to {_signed(row['high'])}, {seeds}"
    if row["verdict"] == "undecided" and row["seeds_needed"] is not None:
        text += f"; {more_seeds(row)}"
    return f"{text})"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+z.3f}".replace("-", "−")


# The value after retraining of each seed, by dataset, arm, and compression or else sparsity asked for.
SeedValues = Mapping[tuple[str, str, float | None, float | None], Mapping[int, float]]


def seed_values(trials: pd.DataFrame) -> SeedValues:
    """Collect the values whose differences are drawn where two seeds are too few for an interval."""
    found: dict[tuple[str, str, float | None, float | None], dict[int, float]] = {}
    for row in records(trials[["dataset", "arm", "compression", "sparsity_asked", "seed", "retrained"]]):
        if row["retrained"] is not None:
            key = (row["dataset"], row["arm"], *_level_key(row["compression"], row["sparsity_asked"]))
            found.setdefault(key, {})[row["seed"]] = row["retrained"]
    return found


def _level_key(compression: float | None, sparsity: float | None) -> tuple[float | None, float | None]:
    return (compression, None) if compression is not None else (None, sparsity and round(sparsity, 6))


def _differences(row: Row, values: SeedValues) -> list[float]:
    """Return the differences of a comparison of one or two seeds, in which an interval says nothing."""
    place = _level_key(row["compression"], row["sparsity"])
    ours, theirs = (values.get((row["dataset"], row[name], *place), {}) for name in ("strategy", "baseline"))
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs] if row["n"] < 3 else []


def all_comparisons(comparisons: pd.DataFrame, values: SeedValues) -> Markup:
    """Make the table of every comparison, drawn on one scale per dataset: its interval, or the dots of two seeds."""
    rows = records(comparisons)
    header = [
        "dataset",
        "pruned",
        "arm",
        "verdict",
        "difference",
        "95 % interval",
        "n",
        "corrected p",
        "seeds needed",
    ]
    baseline = ", ".join(dict.fromkeys(row["baseline"] for row in rows))
    caption = f"Differences from {baseline}, paired by seed. The bar is the 95 % interval, or the dots the differences"
    caption += " of two seeds; the line is no difference. The corrected p is that of the verdict: that there is a"
    caption += " difference, or that it is less than the margin"
    return html_table(caption, header, _cells(rows, values), ("difference", "n", "corrected p", "seeds needed"))


def _cells(rows: Sequence[Row], values: SeedValues) -> Iterator[list[Child]]:
    scales: dict[str, float] = {}
    for row in rows:
        names = ("low", "high", "difference") if row["n"] > 2 else ("difference",)
        ends = [abs(row[name]) for name in names if row[name] is not None]
        ends += [abs(value) for value in _differences(row, values)]
        scales[row["dataset"]] = max([scales.get(row["dataset"], 0.0), *ends])
    for row in rows:
        equivalent = short_verdict(row) == "equivalent"
        p, needed = row["p_within" if equivalent else "p_differs"], row["seeds_needed"]
        yield [
            row["dataset"],
            _asked(row),
            row["strategy"],
            element("span", _badge(row["verdict"]), f" {_words(row)}", class_="nowrap"),
            _signed(row["difference"]),
            _bar(row, scales[row["dataset"]], _differences(row, values)),
            str(row["n"]),
            None if p is None else f"{p:.3g}",
            None if needed is None else f"{needed:.0f}",
        ]


def _bar(row: Row, scale: float, seeds: Sequence[float]) -> Markup:
    """Draw the interval, or the differences of the few seeds there are, on an axis from -scale to +scale."""

    def place(value: float) -> str:
        return f"{_WIDTH / 2 + (_WIDTH / 2 - 6) * value / (scale or 1):.1f}"

    parts = [element("line", x1=_WIDTH / 2, x2=_WIDTH / 2, y1=0, y2=20, class_="zero")]
    if row["low"] is not None and row["n"] > 2:
        parts.append(element("line", x1=place(row["low"]), x2=place(row["high"]), y1=10, y2=10, class_="interval"))
    parts += [element("circle", cx=place(value), cy=10, r=3.5, class_="seed") for value in seeds]
    if row["difference"] is not None and not seeds:
        parts.append(element("circle", cx=place(row["difference"]), cy=10, r=4))
    label = "no interval" if row["low"] is None else f"{_signed(row['low'])} to {_signed(row['high'])}"
    if seeds:
        label = f"seeds: {', '.join(map(_signed, seeds))}"
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} 20",
        width=_WIDTH,
        height=20,
        class_=f"forest {row['verdict']}",
        role="img",
        aria_label=label,
    )
