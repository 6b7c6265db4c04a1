"""Makes the transfer matrix: what a mask of one dataset or seed is worth on another (frames in, frames out).

A target is the dataset whose network is pruned and retrained; a source is whose mask it takes. The target's own mask
is the trial of the same arm that finds its mask there. `docs/statistics.md` explains what is computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from deepcuts.analysis.across import SIGNAL, chance_of
from deepcuts.analysis.arms import in_order, levels_only, replaced, with_arms
from deepcuts.analysis.curves import comparable, in_metric
from deepcuts.analysis.significance import FEWEST_OF_INTERVAL, half_width, within_bounds
from deepcuts.experiment.spec import canonical
from deepcuts.names import natural
from deepcuts.pruning.criteria import NOT_PRUNED, is_control
from deepcuts.records import records
from deepcuts.wording import Stage, counted, first_of, level

TRANSFER_COLUMNS = [
    *("model", "strategy", "arm", "control", "compression", "sparsity_asked", "source", "target", "own", "stage"),
    *("metric", "n", "mean", "low", "high", "seeds", "values"),
    *("pairs", "difference", "difference_low", "difference_high"),
]
TOO_FEW = "too few seeds"

# The settings, by their first part, that decide which mask is found; all others say what is done with it.
_FINDS = ("scoring", "criterion", "rounds")
_ASKED = ["compression", "sparsity_asked"]
_OF = ["model", "strategy", "arm"]
_CELL = [*_OF, "control", *_ASKED, "source", "target"]
_PLACE = [*_OF, "control", "asked", "target"]
# What tells whether two trials do the same with their masks, and on what.
_SAME = ["model", "target", "strategy", "control", "does"]
_CONTROLS = {"none": "as found", "shuffle": "shuffled", "invert": "lowest scores"}
_MOST_NAMED = 4


def transfer(
    trials: pd.DataFrame,
    stage: Stage = "retrained",
    metric: str | None = None,
    metrics: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Make the transfer matrix of the trials with `mask_from`, a row of TRANSFER_COLUMNS per cell and level.

    `trials` are the rows of `trials(store)`. `source` is whose mask is taken: a dataset, at the seed of the trial; or
    another seed of it (`sst2 seed 0`), or a file. `target` is the dataset of the network. Where `own` is true the mask
    is the target's own, found by the same strategy in the same settings. `control` is `shuffle` where the same masks
    are shuffled. A row has `n, mean` of the metric after `stage`, the 95 % t interval `low, high` within its bounds,
    and the `seeds` with their `values`. `difference` is that to the target's own mask, which is not shuffled, of the
    same seed, divided by how far the fine-tuned network is above chance: 0 as good as the own mask, -1 as much worse as
    chance is than the fine-tuned network. It is the mean over the `pairs` of seeds, with its 95 % t interval. Intervals
    are null below 3 seeds.

    Trials in different settings are never in one row: `arm` tells them apart, as views call the arm of the own masks
    (the strategy, where these have several names). `frame.attrs["missing"]` names what is not there. Empty where no
    completed trial takes the mask of another one; errors are those of `curves`.

    >>> dc.transfer(trials)[["arm", "control", "source", "target", "mean", "difference"]]
    """
    rows = comparable(in_metric(trials, stage, metric, metrics))
    rows = rows[~replaced(rows) & ~rows["strategy"].isin(NOT_PRUNED)].dropna(subset=[stage])
    rows = _prepared(rows, stage)
    given, own = rows[rows["mask_from"].notna()], rows[rows["mask_from"].isna()]
    if given.empty:
        frame = pd.DataFrame(columns=TRANSFER_COLUMNS)
        frame.attrs = {"missing": _failed(trials)}
        return frame
    given = given.assign(own_finds=_matching(given, own), plain_finds=_matching(given.assign(control="none"), own))
    given = _with_fixed_seeds(given.assign(arm=_matrices(given, own)))
    cells = pd.concat([given, _diagonal(given, own)], ignore_index=True)
    cells = cells.assign(difference=_differences(cells, own)).sort_values("seed")
    found = [_row(dict(zip(_CELL, key, strict=True)), part, stage) for key, part in cells.groupby(_CELL, dropna=False)]
    frame = _ordered(pd.DataFrame(found, columns=TRANSFER_COLUMNS))
    frame.attrs = {"missing": [*_missing(frame), *_failed(trials)]}
    return frame


def _prepared(rows: pd.DataFrame, stage: Stage) -> pd.DataFrame:
    """Return the rows with what cells are made of: the value, whose mask it is, and the settings in two parts."""
    parts = [strategy.partition("+") for strategy in rows["strategy"]]
    sources = rows["mask_from"] if "mask_from" in rows else pd.Series(None, rows.index, dtype=object)
    divided = [_divided(settings) for settings in rows["settings"]]
    compression, sparsity = rows["compression"].astype(float), rows["sparsity_asked"].astype(float)
    above = rows["dense"].astype(float) - chance_of(rows)
    return rows.assign(
        strategy=pd.Series([base for base, _, _ in parts], rows.index, dtype=object),
        control=pd.Series([control or "none" for _, _, control in parts], rows.index, dtype=object),
        target=rows["dataset"],
        mask_from=sources,
        source=pd.Series([source for source, _, _ in divided], rows.index, dtype=object),
        finds=pd.Series([finds for _, finds, _ in divided], rows.index, dtype=object),
        does=pd.Series([does for _, _, does in divided], rows.index, dtype=object),
        compression=compression,
        sparsity_asked=sparsity,
        asked=compression.fillna(-sparsity),  # one number: no compression is negative
        value=rows[stage].astype(float),
        above=above.where(above >= SIGNAL),
    )


@lru_cache(maxsize=10_000)
def _divided(settings: str) -> tuple[str | None, str, str]:
    """Return whose mask is taken, the settings that decide which mask is found, and those of what is done with it."""
    read = json.loads(settings)
    source = read.pop("mask_from", None)
    if source and source.startswith("file "):
        source = " ".join(word[:8] for word in source.split(" "))  # the digest and the id, as short as in views
    finds = {name: value for name, value in read.items() if name.split(".")[0] in _FINDS}
    return source, canonical(finds), canonical({name: each for name, each in read.items() if name not in finds})


def _matching(given: pd.DataFrame, own: pd.DataFrame) -> pd.Series:
    """Return with which settings the target's own mask was found that each given one is held against.

    They are those of the given mask, or where the target has no such trial (its `overrides` say otherwise, or the mask
    is of a file) the only ones that it has. None where there is none, or a choice of several.
    """
    there: dict[tuple[Any, ...], set[str]] = {}
    for *same, finds in own[[*_SAME, "finds"]].itertuples(index=False, name=None):
        there.setdefault(tuple(same), set()).add(finds)
    found = []
    for *same, finds in given[[*_SAME, "finds"]].itertuples(index=False, name=None):
        options = there.get(tuple(same), set())
        found.append(finds if finds in options else next(iter(options)) if len(options) == 1 else None)
    return pd.Series(found, given.index, dtype=object)


# Which cells are of one matrix


def _matrices(given: pd.DataFrame, own: pd.DataFrame) -> pd.Series:
    """Name the matrix of each trial, so that no cell has trials in different settings.

    All trials of a strategy are one matrix if that holds, else those with own masks of one arm, else those that agree
    in all settings.
    """
    keys = [*_SAME, "finds"]
    arms = dict(zip(own[keys].itertuples(index=False, name=None), own["arm"], strict=True))
    wanted = given.assign(control="none", finds=given["plain_finds"])[keys].itertuples(index=False, name=None)
    given = given.assign(named=pd.Series([arms.get(key) for key in wanted], given.index, dtype=object))
    names = pd.Series(None, given.index, dtype=object)
    for (_, strategy), of_strategy in given.groupby(["model", "strategy"]):
        if not _mixed(of_strategy):
            found = set(of_strategy["named"].dropna())
            names[of_strategy.index] = found.pop() if len(found) == 1 else strategy
            continue
        for name, of_arm in of_strategy.groupby(of_strategy["named"].fillna(of_strategy["arm"])):
            alike = of_arm.groupby(["finds", "does"], sort=True).ngroup()
            numbered = [f"{name} #{number + 1}" if number else str(name) for number in alike]
            names[of_arm.index] = numbered if _mixed(of_arm) else name
    return names


def _mixed(given: pd.DataFrame) -> bool:
    """Whether masks of one source were found in several settings, or a target does several things with its masks."""
    found = given.groupby("mask_from")["finds"].nunique().max()
    return bool(found > 1 or given.groupby("target")["does"].nunique().max() > 1)


def _with_fixed_seeds(given: pd.DataFrame) -> pd.DataFrame:
    """Return the trials, and those of the seed that others take their mask from with the source of these.

    Of `mask_from: {dataset: sst2, seed: 0}` the trial with the seed 0 is that of `mask_from: {dataset: sst2}`. It
    counts for both, and for the first alone where the second has no other.
    """
    others = given[given["source"] == given["mask_from"]]
    fixed = set(others[[*_PLACE, "source"]].itertuples(index=False, name=None))
    keys = given[[*_PLACE, "mask_from"]].itertuples(index=False, name=None)
    twice = pd.Series([key in fixed for key in keys], given.index) & (given["source"] != given["mask_from"])
    whole = twice.groupby([given[name] for name in (*_PLACE, "source")]).transform("all")
    again = given[twice]
    return pd.concat([given[~(twice & whole)], again.assign(source=again["mask_from"])])


def _diagonal(given: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with the own masks of all targets, at the levels at which these take others."""
    keys = [*_SAME, "arm", "own_finds"]
    matched = given.drop_duplicates([*keys, "plain_finds"])[[*keys, "plain_finds"]].dropna(subset=["own_finds"])
    rows = own.drop(columns="arm").assign(own_finds=own["finds"]).merge(matched, on=[*_SAME, "own_finds"])
    levels = given[[*_OF, "target", "asked"]].drop_duplicates()
    rows = rows.merge(levels, on=[*_OF, "target", "asked"])
    return rows.assign(source=rows["target"]).drop_duplicates(["trial_id", "arm"])


def _differences(cells: pd.DataFrame, own: pd.DataFrame) -> pd.Series:
    """Return how far each trial is from the one with the target's own mask and its seed, by the way above chance."""
    keys = [*_SAME, "finds", "asked", "seed"]
    values = dict(zip(own[keys].itertuples(index=False, name=None), own["value"], strict=True))
    wanted = cells.assign(control="none", finds=cells["plain_finds"])[keys].itertuples(index=False, name=None)
    theirs = np.array([values.get(key, float("nan")) for key in wanted])
    reference = cells["mask_from"].isna() & (cells["control"] == "none")
    return ((cells["value"] - theirs) / cells["above"]).mask(reference).round(12)


def _row(cell: dict[str, Any], part: pd.DataFrame, stage: Stage) -> dict[str, Any]:
    metric, differences = part["metric"].iloc[0], part["difference"].dropna()
    mean, half = _mean_and_half(part["value"])
    low, high = within_bounds([metric], mean - half, mean + half)
    difference, half = _mean_and_half(differences)
    return cell | {
        **{"own": bool(part["mask_from"].isna().all()), "stage": stage, "metric": metric, "n": len(part)},
        **{"mean": mean, "low": float(low[0]), "high": float(high[0])},
        **{"seeds": part["seed"].tolist(), "values": part["value"].tolist(), "pairs": len(differences)},
        **{"difference": difference, "difference_low": difference - half, "difference_high": difference + half},
    }


def _mean_and_half(values: pd.Series) -> tuple[float, float]:
    """Return the mean and half of Student's 95 % interval; NaN for what so few values do not have."""
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    spread = float(values.std()) if n >= FEWEST_OF_INTERVAL else float("nan")
    return mean, float(half_width(n, spread))


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort the rows: matrices by name, masks as found before shuffled ones, and sources in the order of targets."""
    controls = {name: place for place, name in enumerate(_CONTROLS)}
    frame = frame.assign(place=frame["control"].map(controls), depth=_depths(frame))
    return in_order(frame, ["model", "arm", "depth", "place", "target", "source"])[TRANSFER_COLUMNS]


def _depths(frame: pd.DataFrame) -> pd.Series:
    """Return numbers that are larger for levels that prune more."""
    return frame["compression"].astype(float).fillna(frame["sparsity_asked"].astype(float))


# In words


def matrices(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Split a frame of `transfer` by model, arm and level, the densest first."""
    keys = [*_OF, "compression", "sparsity_asked"]
    return [part for _, part in frame.groupby(keys, dropna=False, sort=False)]


def places_of(part: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the sources and the targets of a matrix, the targets' own masks first and in their order."""
    targets = sorted(part["target"].unique(), key=natural)
    others = sorted(set(part["source"]) - set(targets), key=natural)
    return [each for each in targets if each in set(part["source"])] + others, targets


def control_in_words(control: str) -> str:
    """Return how the masks of a control are called beside those that are taken as found."""
    return _CONTROLS.get(control, control)


def about_matrix(row: Any, several_models: bool = False) -> str:
    """Name a matrix: its arm and its level, and the model where there are several."""
    model = f"{row['model']} · " if several_models else ""
    return f"{model}{row['arm']} at {level(row['compression'], row['sparsity_asked'])}"


def _missing(frame: pd.DataFrame) -> Iterator[str]:
    """Name the cells, seeds and controls of a matrix that are not there."""
    models = frame["model"].nunique() > 1
    for whole in matrices(frame):
        about = about_matrix(whole.iloc[0], models)
        for control, part in whole.groupby("control", sort=False):
            what = about if control == "none" else f"{about}, {control_in_words(str(control))}"
            yield from (f"{what}: {line}" for line in _missing_cells(part, *places_of(whole)))
        strategy = str(whole["strategy"].iloc[0])
        if "shuffle" not in set(whole["control"]) and not is_control(strategy):
            yield f"{about}: no trial with the same masks shuffled; add an arm of {strategy}+shuffle with mask_from"


def _missing_cells(part: pd.DataFrame, sources: list[str], targets: list[str]) -> Iterator[str]:
    there = dict(zip(zip(part["source"], part["target"], strict=True), part["seeds"], strict=True))
    for target in targets:
        if (target, target) not in there:
            yield f"no trial of {target} with its own mask in these settings"
        lacking = [source for source in sources if source != target and (source, target) not in there]
        if lacking:
            yield f"no trial of {target} with the mask of {first_of(lacking, _MOST_NAMED)}"
        seeds = {seed for (_, on), some in there.items() if on == target for seed in some}
        for (source, on), some in there.items():
            fixed = re.fullmatch(rf"{re.escape(target)} seed (\d+)", source)  # where it is the own mask
            absent = seeds - set(some) - ({int(fixed.group(1))} if fixed else set())
            if on == target and absent:
                yield f"{target} with the mask of {source} lacks seed {first_of(sorted(absent), _MOST_NAMED)}"


def _failed(trials: pd.DataFrame) -> list[str]:
    """Name the trials that take the mask of another one and have failed, by dataset and arm."""
    rows = with_arms(levels_only(trials))
    if "mask_from" not in rows:
        return []
    failed = rows[(rows["status"] != "completed") & rows["mask_from"].notna()]
    counts = records(failed.groupby(["arm", "dataset"], sort=True).size().reset_index(name="n"))
    return [f"{counted(row['n'], 'trial')} of {row['arm']} on {row['dataset']} failed" for row in counts]


def transfer_cells(frame: pd.DataFrame, escaped: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a frame of `transfer` as a person reads it, as escaped text.

    A row per arm, level, source and target, with the masks as found and each control beside them: the mean, and the
    difference from the target's own mask, each with its interval or `too few seeds`.
    """
    controls = [name for name in _CONTROLS if name in set(frame["control"])]
    several = [name for name in ("model", "arm") if frame[name].nunique() > 1]
    header = [*several, "asked", "mask of", "on", "metric"]
    for control in controls:
        what = "" if control == "none" else f"{control_in_words(control)}: "
        header += [control_in_words(control), f"{what}seeds", f"{what}from own mask"]
    lines = []
    for _, part in frame.groupby([*_OF, *_ASKED, "target", "source"], dropna=False, sort=False):
        found = {row["control"]: row for row in records(part)}
        row = next(iter(found.values()))
        source = f"{row['source']} (own)" if row["own"] else row["source"]
        asked = level(row["compression"], row["sparsity_asked"])
        cells = [*(row[name] for name in several), asked, source, row["target"], row["metric"]]
        for control in controls:
            cells += _of_cell(found.get(control))
        lines.append([escaped(each) for each in cells])
    return [escaped(name) for name in header], lines


def _of_cell(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["–"] * 3
    mean = _interval_text(f"{row['mean']:z.3f}", row["low"], row["high"], "z.3f")
    if row["difference"] is None:
        return [mean, str(row["n"]), "–"]
    difference = f"{row['difference']:+z.3f}"
    return [mean, str(row["n"]), _interval_text(difference, row["difference_low"], row["difference_high"], "+z.3f")]


def _interval_text(text: str, low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return f"{text} ({TOO_FEW})"
    return f"{text} ({low:{form}} to {high:{form}})"


def largest_difference(frame: pd.DataFrame) -> float:
    """Return how far the largest difference of a frame is from 0, for a scale that all its matrices share."""
    return float(np.nanmax(frame["difference"].abs().to_numpy(np.float64), initial=0.0))
