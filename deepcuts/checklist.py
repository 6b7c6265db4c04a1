"""Which recommendations for experiments with pruning a store meets (frames in, frames out).

The recommendations are those of Blalock, Gonzalez Ortiz, Frankle and Guttag 2020, "What is the state of neural network
pruning?", arXiv 2003.03033, section 6 and the checklist of appendix B, in our words and as far as a store can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from deepcuts.curves import LEVELS

Met = tuple[bool, str]

TASKS, COMPRESSIONS = 3, 5
# The share of the dense network's metric below which a pruned one has clearly declined.
_DECLINED = 0.9
_CLASSIC, _RECENT = ("Fisher",), ("Wanda", "SNIP")


def checklist(trials: pd.DataFrame) -> pd.DataFrame:
    """A row per recommendation: the `item`, whether it is `met`, and `why`, with what would meet it.

    `trials` are the rows of `analysis.trials`; failed ones do not count. A store without completed trials meets none.
    """
    done = trials[trials["status"] == "completed"]
    pruned = done[~done["strategy"].isin(LEVELS)]
    checks = {
        f"at least {TASKS} pairs of dataset and model, toys not counted": _tasks,
        f"at least {COMPRESSIONS} compressions": _compressions,
        "compressions up to where the network clearly declines": _extremes,
        "size and operations of every pruned network": _costs,
        "the network before pruning as a control": _dense,
        "a magnitude baseline": _magnitude,
        "a random baseline": _random,
        "a random baseline with the same share of every layer": _random_per_layer,
        "a method from before 2010": _classic,
        "a recently published method": _recent,
        "several seeds at every point": _seeds,
        "the same libraries, hardware and precision for all": _same_setting,
        "models and datasets that can be found again": _pinned,
        "all hyper-parameters and the code": _recorded,
    }
    rows = []
    for item, check in checks.items():
        met, why = check(pruned) if len(pruned) else (False, "the store has no completed pruned trial")
        rows.append({"item": item, "met": met, "why": why})
    return pd.DataFrame(rows, columns=["item", "met", "why"]).astype({"met": bool})


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


def _tasks(pruned: pd.DataFrame) -> Met:
    found = {(d, m) for d, m in zip(pruned["dataset"], pruned["model"], strict=True) if "toy" not in (d, m)}
    return len(found) >= TASKS, f"{len(found)}: {_listed(f'{d} with {m}' for d, m in found) or 'toys alone'}"


def _compressions(pruned: pd.DataFrame) -> Met:
    by_task = pruned.assign(asked=pruned["compression"].fillna(-pruned["sparsity_asked"]))
    counts = by_task.groupby(["model", "dataset"])["asked"].nunique()
    achieved = pruned["compression_achieved"]
    why = f"{counts.min()} per dataset, {achieved.min():.3g} to {achieved.max():.3g} times smaller"
    return bool(counts.min() >= COMPRESSIONS), why


def _extremes(pruned: pd.DataFrame) -> Met:
    known = pruned.dropna(subset=["dense", "retrained"])
    lowest = (known["retrained"] / known["dense"]).where(known["dense"] > 0).groupby(known["dataset"]).min()
    missing = set(pruned["dataset"]) - set(lowest.index[lowest < _DECLINED])
    if missing:
        return False, f"no strategy falls below {_DECLINED:.0%} of the dense metric on {_listed(missing)}: prune more"
    return True, f"the metric falls to {lowest.max():.0%} of the dense one or below on every dataset"


def _costs(pruned: pd.DataFrame) -> Met:
    missing = int(pruned[["compression_achieved", "flops", "flops_nonzero"]].isna().any(axis=1).sum())
    if missing:
        return False, f"{missing} of {len(pruned)} trials lack compression_achieved, flops or flops_nonzero"
    fewer = (pruned["flops"] / pruned["flops_nonzero"]).replace(float("inf"), float("nan"))
    return True, f"parameters and operations are recorded; operations in theory {fewer.max():.3g} times fewer at most"


def _dense(pruned: pd.DataFrame) -> Met:
    missing = int(pruned["dense"].isna().sum())
    return not missing, f"{missing} trials have no dense metric" if missing else "every trial has its dense metric"


def _strategies(pruned: pd.DataFrame, criteria: Iterable[str], scopes: Iterable[str], control: str = "") -> list[str]:
    wanted = {f"{scope}{criterion}{control}" for criterion in criteria for scope in scopes}
    return sorted(wanted & set(pruned["strategy"]))


def _has(found: list[str], propose: str) -> Met:
    return bool(found), _listed(found) if found else f"none: add {propose}"


def _magnitude(pruned: pd.DataFrame) -> Met:
    return _has(_strategies(pruned, ["MagWeight"], ["Layer", "Global"]), "LayerMagWeight or GlobalMagWeight")


def _random(pruned: pd.DataFrame) -> Met:
    return _has(_strategies(pruned, ["Random"], ["Layer", "Global", "Row"]), "GlobalRandom")


def _random_per_layer(pruned: pd.DataFrame) -> Met:
    """For what keeps the same share of every layer LayerRandom is that; Global strategies need their masks shuffled."""
    names = set(pruned["strategy"])
    needed = [name for name in names if "+" not in name and not name.endswith("Random")]
    even = bool({"LayerRandom", "RowRandom"} & names)
    alone = [n for n in needed if f"{n}+shuffle" not in names and (n.startswith("Global") or not even)]
    if alone:
        return False, f"{_listed(alone)}: none; add LayerRandom, or for a Global strategy its own +shuffle"
    return True, "every strategy has one beside it"


def _classic(pruned: pd.DataFrame) -> Met:
    found = _strategies(pruned, _CLASSIC, ["Layer", "Global", "Row"])
    return _has(found, "LayerFisher (optimal brain damage, 1990)")


def _recent(pruned: pd.DataFrame) -> Met:
    return _has(_strategies(pruned, _RECENT, ["Layer", "Global", "Row"]), "RowWanda (2023)")


def _seeds(pruned: pd.DataFrame) -> Met:
    keys = ["model", "dataset", "strategy", "compression", "sparsity_asked"]
    counts = pruned.groupby(keys, dropna=False)["seed"].nunique()
    few = int((counts < 2).sum())
    if few:
        return False, f"{few} of {len(counts)} points have one seed, and so no spread"
    return True, f"{counts.min()} or more at every point: mean, deviation and interval are known"


def _same_setting(pruned: pd.DataFrame) -> Met:
    columns = ["deepcuts", "torch", "transformers", "device", "precision"]
    mixed = [f"{name} ({_listed(pruned[name].dropna().unique())})" for name in columns if pruned[name].nunique() > 1]
    return not mixed, f"mixed: {', '.join(mixed)}" if mixed else "one of each"


def _pinned(pruned: pd.DataFrame) -> Met:
    loose = set()
    for spec in pruned["spec"].dropna().unique():
        dense = json.loads(spec)["score"]["dense"]
        for name, source in ((dense["model"]["name"], dense["model"]), (dense["dataset"], dense["task"])):
            if not source.get("digest") and source.get("revision") == "main":
                loose.add(name)
    if loose:
        return False, f"no fixed revision: {_listed(loose)}; `revision` in the sweep file pins a commit"
    return True, "by revision or by a hash of their content"


def _recorded(pruned: pd.DataFrame) -> Met:
    missing = int(pruned["spec"].isna().sum())
    if missing:
        return False, f"{missing} trials lack their resolved settings"
    commits = pruned["git_commit"].dropna().unique()
    code = f"commit {_listed(commits)}" if len(commits) else f"deepcuts {_listed(pruned['deepcuts'].dropna().unique())}"
    return True, f"every trial has its resolved settings, and {code}"
