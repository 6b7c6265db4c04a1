"""Says in one sentence which arm wins where, as the verdicts and the means allow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepcuts.publish.headlines import and_joined
from deepcuts.records import Records
from deepcuts.wording import counted, level

# The most arms, and the most datasets, that the sentence names.
MOST_NAMED = 3

_Places = dict[str, dict[str, list[str]]]  # arm: dataset: levels


def answer(comparisons: Records, means: Records) -> str:
    """Write the sentence that begins the page.

    `comparisons` are rows of `compare`, `means` rows of `curves` after retraining in the task's main metric. Decided
    verdicts come first. Where nothing is decided it says so, and which mean is the highest: of one seed or of many,
    that is no verdict. Empty where there is nothing to compare.
    """
    if not comparisons:
        return ""
    rows, best = [row for row in comparisons if row["n"]], _highest(means)
    baseline = and_joined(list(dict.fromkeys(row["baseline"] for row in comparisons)))
    better, worse = (_places(row for row in rows if row["verdict"] == verdict) for verdict in ("better", "worse"))
    many = len({row["dataset"] for row in comparisons}) > 1
    if better:
        return f"{_listed('beats', better, baseline, many)}.{_open(rows)}"
    if not worse:
        return f"{_undecided(rows, baseline)}{f'; {_highest_words(best, many)}' if best else ''}."
    loses = "; ".join(f"{name} is worse {_where(worse[name], many)}" for name in _first(worse))
    left = len(worse) - MOST_NAMED
    more = f"; so {'is' if left == 1 else 'are'} {left} more" if left > 0 else ""
    return f"No arm beats {baseline}: {loses}{more}.{_open(rows)}"


def _places(rows: Any) -> _Places:
    found: _Places = {}
    for row in rows:
        found.setdefault(row["strategy"], {}).setdefault(row["dataset"], []).append(_level(row))
    return found


def _level(row: Mapping[str, Any]) -> str:
    return level(row["compression"], row.get("sparsity_asked", row.get("sparsity")))


def _first(places: _Places) -> list[str]:
    return sorted(places, key=lambda name: (-sum(map(len, places[name].values())), name))[:MOST_NAMED]


def _listed(verb: str, places: _Places, baseline: str, many: bool) -> str:
    parts = [f"{name} {verb} {baseline} {_where(places[name], many)}" for name in _first(places)]
    left = len(places) - len(parts)
    return "; ".join(parts) + (f"; so {'does' if left == 1 else 'do'} {left} more somewhere" if left else "")


def _where(datasets: Mapping[str, list[str]], many: bool) -> str:
    parts = [f"{f'on {name} ' if many else ''}at {and_joined(levels)}" for name, levels in datasets.items()]
    more = [f"on {len(parts) - MOST_NAMED} more datasets"] if len(parts) > MOST_NAMED else []
    return and_joined(parts[:MOST_NAMED] + more)


def _open(rows: Records) -> str:
    undecided = sum(row["verdict"] == "undecided" for row in rows)
    verb = "is" if undecided == 1 else "are"
    return f" {undecided} of {counted(len(rows), 'comparison')} {verb} undecided." if undecided else ""


def _undecided(rows: Records, baseline: str) -> str:
    if not rows:
        return "No two arms share a seed, so none can be compared"
    if all(row["verdict"] == "equivalent" for row in rows):
        return f"Every arm is equivalent to {baseline}"
    seeds = max(row["n"] for row in rows)
    few = f": {counted(seeds, 'seed')} cannot tell" if seeds < 6 else f" with {seeds} seeds"
    return f"No arm is shown to beat {baseline} yet{few}"


def _highest(means: Records) -> _Places:
    """Return where each arm alone has the highest mean of its task and level."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in means:
        groups.setdefault((row["dataset"], _level(row)), []).append(row)
    found = []
    for rows in groups.values():
        top = max(row["mean"] for row in rows)
        first = [row for row in rows if round(row["mean"] - top, 6) == 0]
        if len(first) == 1 and len(rows) > 1:
            found.append({**first[0], "strategy": first[0]["arm"]})
    return _places(found)


def _highest_words(best: _Places, many: bool) -> str:
    parts = [f"{name}'s {_where(best[name], many)}" for name in _first(best)]
    return f"the highest mean is {and_joined(parts)}"
