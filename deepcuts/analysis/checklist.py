"""Checks which recommendations for pruning experiments a store meets (frames in, frames out).

The recommendations are those of Blalock, Gonzalez Ortiz, Frankle and Guttag 2020, "What is the state of neural network
pruning?", arXiv 2003.03033, section 6 and the checklist of appendix B, in our words and as far as a store can show
them. Left out are those that it cannot show: whether claims stay within what was run, whether the code can be
downloaded, how results published by others were used; and Top-5 beside Top-1, as no task here has that many classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from deepcuts.analysis.arms import levels_only, with_arms, without_seed
from deepcuts.analysis.compare import lower_is_better
from deepcuts.pruning.criteria import NOT_PRUNED, SCOPES, is_control

Met = tuple[bool, str]

TASKS, COMPRESSIONS = 3, 5
# The fraction of the dense network's metric below which a pruned one has clearly declined.
_DECLINED = 0.9
# Under these scopes tensors keep different shares of their weights.
_UNEVEN = ("Global", "Lamp", "Erk", "Owl")
_CLASSIC = ("Fisher",)
_RECENT = {"Wanda": 2023, "SNIP": 2019}


def checklist(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per recommendation: the `item`, whether it is `met`, and `why`, with what would meet it.

    `trials` are the rows of `trials(store)`; failed ones do not count, nor do rounds that no sweep asks for as a level.
    A store without completed trials meets none.

    >>> dc.checklist(trials)
    """
    done = levels_only(trials[trials["status"] == "completed"])
    pruned = done[~done["strategy"].isin(NOT_PRUNED)]
    checks = {
        "the exact models, datasets and metrics": _named,
        f"at least {TASKS} pairs of dataset and model, toys not counted": _tasks,
        f"at least {COMPRESSIONS} operating points over a range of compressions": _compressions,
        "compressions up to where the network clearly declines": _extremes,
        "the raw metric at every point, not its loss alone": _raw,
        "compression ratio and theoretical speed-up of every pruned network": _costs,
        "the same metrics of the network before pruning, as a control": _dense,
        "all methods start from the same fine-tuned network": _same_start,
        "every method at every operating point: trade-off curves side by side": _side_by_side,
        "a magnitude baseline, global or uniform over layers": _magnitude,
        "a magnitude baseline with the same share of every layer": _magnitude_per_layer,
        "a random baseline over the whole network": _random,
        "a random baseline with the same share of every layer": _random_per_layer,
        "a method from before the 2010s": _classic,
        "a recently published method": _recent,
        "several seeds at every point: mean and sample standard deviation": _seeds,
        "the same libraries, hardware and precision for all": _same_setting,
        "libraries and hardware described": _described,
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


def _named(pruned: pd.DataFrame) -> Met:
    missing = [name for name in ("model", "dataset", "metric") if pruned[name].isna().any()]
    known = "; ".join(_listed(pruned[name].dropna().unique()) for name in ("model", "dataset", "metric"))
    return not missing, f"trials without a {_listed(missing)}" if missing else known


def _tasks(pruned: pd.DataFrame) -> Met:
    found = {(d, m) for d, m in zip(pruned["dataset"], pruned["model"], strict=True) if "toy" not in (d, m)}
    return len(found) >= TASKS, f"{len(found)}: {_listed(f'{d} with {m}' for d, m in found) or 'only toys'}"


def _compressions(pruned: pd.DataFrame) -> Met:
    by_task = pruned.assign(asked=pruned["compression"].fillna(-pruned["sparsity_asked"]))
    counts = by_task.groupby(["model", "dataset"])["asked"].nunique()
    achieved = pruned["compression_achieved"]
    why = f"{counts.min()} per dataset, {achieved.min():.3g} to {achieved.max():.3g} times smaller"
    return bool(counts.min() >= COMPRESSIONS), why


def _extremes(pruned: pd.DataFrame) -> Met:
    """A network at the level of the most frequent class has declined; from a dense one there, nothing can be seen."""
    task = pruned["dataset"] if pruned["model"].nunique() == 1 else pruned["dataset"] + " with " + pruned["model"]
    known = pruned.assign(task=task).dropna(subset=["dense", "retrained"])
    majority = known["majority"].astype(float) if "majority" in known else known["dense"].map(lambda _: float("nan"))
    dense = known["dense"].groupby(known["task"]).mean()
    useless = dense.index[dense <= majority.groupby(known["task"]).max()]
    if len(useless):
        what = "do no better than always predicting the most frequent class: fine-tune them better before pruning"
        return False, f"the fine-tuned networks of {_listed(useless)} {what}"
    share = (known["retrained"] / known["dense"]).where(known["dense"] > 0)
    errors = pd.Series([lower_is_better(str(each)) for each in known["metric"]], known.index, dtype=bool)
    share = share.mask(errors, 2 - share)  # which grow as the network declines
    lowest = share.mask(known["retrained"] <= majority, 0.0).groupby(known["task"]).min()
    missing = set(task) - set(lowest.index[lowest < _DECLINED])
    worse = f"{100 * (1 - _DECLINED):.3g} % worse than the dense network"
    if missing:
        return False, f"no strategy is {worse} on {_listed(missing)}: prune more"
    return True, f"on every dataset a strategy is {worse}, or at the score of the most frequent class"


def _raw(pruned: pd.DataFrame) -> Met:
    missing = int(pruned["retrained"].isna().sum())
    return not missing, f"{missing} trials have no metric" if missing else "every trial has its metric"


def _costs(pruned: pd.DataFrame) -> Met:
    missing = int(pruned[["compression_achieved", "flops", "flops_nonzero"]].isna().any(axis=1).sum())
    if missing:
        return False, f"{missing} of {len(pruned)} trials lack compression_achieved, flops or flops_nonzero"
    fewer = (pruned["flops"] / pruned["flops_nonzero"]).replace(float("inf"), float("nan"))
    return True, f"both are recorded; multiply-adds in theory up to {fewer.max():.3g} times fewer"


def _dense(pruned: pd.DataFrame) -> Met:
    missing = int(pruned["dense"].isna().sum())
    return not missing, f"{missing} trials have no dense metric" if missing else "every trial has its dense metric"


def _same_start(pruned: pd.DataFrame) -> Met:
    # Processors of two kinds give one fine-tuning other bits, and mostly another metric.
    task = ["model", "dataset", "seed"]
    counts = pruned.drop_duplicates([*task, "dense_id", "dense"]).groupby(task).size()
    if (counts != 1).any():
        model, dataset, seed = counts.index[counts != 1][0]
        return False, f"{dataset} with {model}, seed {seed}: {counts[counts != 1].iloc[0]} fine-tuned networks"
    return True, "one per model, dataset and seed"


def _side_by_side(pruned: pd.DataFrame) -> Met:
    """Shuffled controls and random masks are not methods and may be missing at some points."""
    methods = with_arms(pruned[~pruned["strategy"].map(is_control)])
    asked = methods["compression"].fillna(-methods["sparsity_asked"])
    points = asked.groupby([methods["model"], methods["dataset"], methods["arm"]]).nunique().rename("points")
    most = asked.groupby([methods["model"], methods["dataset"]]).nunique().rename("most")
    short = points.to_frame().join(most).query("points < most")
    if len(short):
        (_, dataset, arm), row = short.index[0], short.iloc[0]
        return False, f"{arm} has {row['points']} of {row['most']} points on {dataset} ({len(short)} such curves)"
    return points.groupby(
        ["model", "dataset"]
    ).size().min() > 1, f"{len(points)} curves with all points of their dataset"


def _strategies(pruned: pd.DataFrame, criteria: Iterable[str], scopes: Iterable[str], control: str = "") -> list[str]:
    wanted = {f"{scope}{criterion}{control}" for criterion in criteria for scope in scopes}
    return sorted(wanted & set(pruned["strategy"]))


def _has(found: list[str], propose: str) -> Met:
    return bool(found), _listed(found) if found else f"none: add {propose}"


def _magnitude(pruned: pd.DataFrame) -> Met:
    return _has(_strategies(pruned, ["MagWeight"], SCOPES.values()), "LayerMagWeight or GlobalMagWeight")


def _magnitude_per_layer(pruned: pd.DataFrame) -> Met:
    """LayerMagWeight keeps the same share of every layer, as Layer, Row, NM24 and Neuron do; none matches others."""
    names = [name for name in set(pruned["strategy"]) if "+" not in name]
    baselines = [f"{scope}{criterion}" for scope in _UNEVEN for criterion in ("Random", "MagWeight")]
    uneven = [name for name in names if name.startswith(_UNEVEN) and name not in baselines]
    if uneven:
        return (
            False,
            f"{_listed(uneven)}: none, and there is no strategy for it; the Layer ones have LayerMagWeight",
        )
    return _has(_strategies(pruned, ["MagWeight"], ["Layer", "Row", "NM24"]), "LayerMagWeight")


def _random(pruned: pd.DataFrame) -> Met:
    """Any scope counts: a random mask over the whole network keeps nearly the same fraction of every layer."""
    return _has(_strategies(pruned, ["Random"], SCOPES.values()), "GlobalRandom")


def _random_per_layer(pruned: pd.DataFrame) -> Met:
    """LayerRandom serves strategies that keep the same fraction of every layer; others need their own +shuffle."""
    names = set(pruned["strategy"])
    needed = [name for name in names if "+" not in name and not name.endswith("Random")]
    even = bool({"LayerRandom", "RowRandom", "NeuronRandom"} & names)
    alone = [n for n in needed if f"{n}+shuffle" not in names and (n.startswith(_UNEVEN) or not even)]
    if alone:
        return (
            False,
            f"{_listed(alone)}: none; add LayerRandom, or for {' or '.join(_UNEVEN)} strategies their own +shuffle",
        )
    return True, "every strategy has one beside it"


def _classic(pruned: pd.DataFrame) -> Met:
    found = _strategies(pruned, _CLASSIC, SCOPES.values())
    return _has(found, "LayerFisher (optimal brain damage, 1990)")


def _recent(pruned: pd.DataFrame) -> Met:
    found = _strategies(pruned, _RECENT, SCOPES.values())
    years = [f"{name} ({next(year for key, year in _RECENT.items() if name.endswith(key))})" for name in found]
    return _has(years, "RowWanda (2023)")


def _seeds(pruned: pd.DataFrame) -> Met:
    keys = ["model", "dataset", "arm", "compression", "sparsity_asked"]
    counts = with_arms(pruned).groupby(keys, dropna=False)["seed"].nunique()
    few = int((counts < 2).sum())
    if few:
        return False, f"{few} of {len(counts)} points have one seed, and so no spread"
    return True, f"{counts.min()} or more at every point: mean, deviation and interval are known"


def _same_setting(pruned: pd.DataFrame) -> Met:
    columns = ["deepcuts", "torch", "transformers", "device", "precision"]
    mixed = [f"{name} ({_listed(pruned[name].dropna().unique())})" for name in columns if pruned[name].nunique() > 1]
    return not mixed, f"mixed: {', '.join(mixed)}" if mixed else "one of each"


def _described(pruned: pd.DataFrame) -> Met:
    columns = ["deepcuts", "torch", "transformers", "device"]
    missing = [name for name in columns if pruned[name].isna().any()]
    if missing:
        return False, f"trials without {_listed(missing)}"
    return True, "; ".join(f"{name} {_listed(pruned[name].unique())}" for name in columns)


def _pinned(pruned: pd.DataFrame) -> Met:
    loose = set()
    for spec in pruned["spec"].dropna().map(without_seed).unique():
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
