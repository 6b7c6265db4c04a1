"""Asks how much each part of a trial's network matters, in this process and without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Literal, get_args

import pandas as pd

from deepcuts.experiment.own_criteria import CriteriaFile
from deepcuts.experiment.spec import TrialSpec
from deepcuts.names import find_id, nearest
from deepcuts.store.store import Store
from deepcuts.sweep.machines import MOST_CPUS, local_gpus, usable_cpus, wait_passively
from deepcuts.sweep.single import criteria_files

By = Literal["tensor", "kind", "layer"]
SENSITIVITY_COLUMNS = [
    *("trial_id", "dataset", "strategy", "seed", "by", "part", "depth", "kind", "tensors", "size", "kept", "sparsity"),
    *("metric", "dense", "pruned", "drop"),
]


def sensitivity(
    store: Store,
    trial_id: str,
    sparsities: Sequence[float] = (0.5,),
    by: By = "tensor",
    *,
    threads: int | None = None,
    criteria: Sequence[str | Path | CriteriaFile] = (),
    on_evaluation: Callable[[int, int, float], None] = lambda done, total, seconds: None,
) -> pd.DataFrame:
    """Prune each part of a trial's fine-tuned network alone, and return the metric before any retraining.

    A part is a `tensor`, all tensors of a `kind` (`query`) or all those of a `layer`. Of each of its tensors those with
    the highest scores of the trial's own criterion stay, as many as a sparsity says; the rest of the network is as it
    was fine-tuned. The scope of the trial has no influence. A row has the `part`, its `depth` and `kind`, its `size`
    and how much is `kept`, the `metric` of the validation split `dense` and `pruned`, and their difference `drop`.

    The network and the scores come from the store, and the data from where the trial had it. Scores that need no data
    are not stored: where the trial's criterion is such a one of your own, `criteria` has its file. `trial_id` is an id
    or 4 characters or more that only it begins with. `on_evaluation` hears how many evaluations are done, how many
    there are, and the seconds of the last one; first of all those of the network as it is, as number 0.

    Raises ValueError for an unknown trial, one that prunes nothing, a later round of iterative pruning or a trial with
    the mask of another one, which do not score that network, a sparsity outside 0 to 1, where `cache --gc` has removed
    the network or the scores, and where the file of a criterion is needed and not given, or breaks a law.

    >>> frame = dc.sensitivity(store, trials[trials["strategy"] == "LayerMagWeight"]["trial_id"].iloc[0], [0.5, 0.9])
    >>> frame.sort_values("drop")[["part", "sparsity", "dense", "pruned"]]
    """
    if by not in get_args(By):
        raise ValueError(f"by: unknown part {by!r}{nearest(by, get_args(By)) or ';'} known: {', '.join(get_args(By))}")
    if wrong := [each for each in sparsities if not 0 <= each < 1]:
        raise ValueError(f"sparsity {wrong[0]!r} is not the share of weights to prune, from 0 to below 1")
    if not sparsities:
        raise ValueError("no sparsity is given; give one or more, such as 0.5")
    trial = _trial_in(store, trial_id)
    _check_stages(store, trial)
    files = criteria_files(trial, criteria, store) if trial.score.data == "none" else ()
    wait_passively()
    from deepcuts.trial.context import Context
    from deepcuts.trial.pruned_alone import prune_each_alone

    context = Context(store, threads or min(MOST_CPUS, usable_cpus()), criteria=files)
    rows = list(prune_each_alone(trial, context, list(dict.fromkeys(sparsities)), by, on_evaluation))
    frame = pd.DataFrame(rows).assign(
        trial_id=trial.trial_id, dataset=trial.dense.dataset, strategy=trial.strategy, seed=trial.dense.seed, by=by
    )
    frame["depth"] = frame["depth"].astype("Int64")
    return frame.assign(drop=frame["dense"] - frame["pruned"])[SENSITIVITY_COLUMNS]


def _trial_in(store: Store, trial_id: str) -> TrialSpec:
    """Return the spec of a trial that prunes. Raises ValueError for another, or one that this version cannot read."""
    specs = {row["trial_id"]: row["spec"] for row in store.read("trials", ["trial_id", "spec"]).table.to_pylist()}
    key = find_id(trial_id, specs)
    try:
        trial = TrialSpec.model_validate_json(specs[key] or "")
    except ValueError:
        trial = None
    if trial is None or trial.trial_id != key:
        raise ValueError(
            f"trial {key!r} was made by another version of deepcuts, and this one cannot find its scores; run the sweep"
            " again with this version, and give a trial of that"
        )
    if not trial.prunes:
        raise ValueError(f"trial {key!r} ({trial.strategy}) prunes nothing, so it has no scores; give one that prunes")
    if trial.previous is not None or trial.mask_given:
        what = "takes its mask from elsewhere" if trial.mask_given else f"is round {trial.round} of iterative pruning"
        raise ValueError(
            f"trial {key!r} {what}, so it has no scores of its fine-tuned network; give one that prunes that by its own"
            " scores, such as a first round"
        )
    if trial.dense.device == "cuda" and not local_gpus():
        raise ValueError(f"trial {key!r} is of a sweep on GPUs, and there is no usable GPU here")
    return trial


def _check_stages(store: Store, trial: TrialSpec) -> None:
    """Raise ValueError where the store has no longer the fine-tuned network or the scores of a trial."""
    missing = [] if store.artifact("dense", trial.dense.dense_id) else ["the fine-tuned network"]
    if trial.score.data != "none" and not store.artifact("scores", str(trial.score.score_id)):
        missing.append(f"the scores of {trial.score.criterion}")
    if missing:
        own = "" if trial.score.own is None else f" --criteria {trial.score.own.file}"
        raise ValueError(
            f"{' and '.join(missing)} of trial {trial.trial_id!r} are not in store {store.uri!r}: `deepcuts cache --gc`"
            f" removes what no trial needs any more; `deepcuts run-one {quote(store.uri)} {trial.trial_id}{own}` makes"
            " them again"
        )
