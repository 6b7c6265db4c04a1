"""Finds pairs of trials that differ in one thing alone, and how far their masks agree (frames in, frames out)."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepcuts.analysis.arms import agree, differences, of_dense, with_arms
from deepcuts.analysis.overlap import MEASURES
from deepcuts.experiment.spec import canonical
from deepcuts.names import natural
from deepcuts.pruning.criteria import is_control

# A pair that differs in one of these and in nothing else shows the effect of that one on the mask.
RELATIONS = ("other seed", "other strategy", "other settings", "other compression", "other dataset")

_OF = ("methods", "controls")
_ASKED = ["compression", "sparsity_asked"]
_ARMS = ["arm", "arm_b"]
# What decides a mask, of the fields of a trial's spec; another trial that it is taken from has its own.
_OF_MASK = [
    "score",
    "previous",
    "mask_file",
    "scope",
    "control",
    "compression",
    "sparsity",
    "scoring_rounds",
    "outliers",
]


def related(overlap: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a frame of `overlap` whose two trials differ in one thing alone.

    Columns are added: that `relation` (one of RELATIONS); from the rows of `trials` what the first trial is, `model,
    dataset, strategy, arm, compression, sparsity_asked, seed`; and the same of the second one, but for the model, with
    `_b`. Trials that differ in a setting that both have (`arms.agree`) are no relatives; of two strategies, those are
    compared that both use, and of two datasets all but what the datasets are. Two arms of one strategy have `other
    settings`, where they prune the same fine-tuned network. Pairs that have one and the same mask, because both take it
    from one trial or differ after pruning alone, are left out: they agree by construction.
    """
    columns = ["model", "dataset", "strategy", "arm", *_ASKED, "seed"]
    named = with_arms(trials).set_index("trial_id")
    known = named[columns]
    asked = known["compression"].fillna(-known["sparsity_asked"])  # one number: no compression is negative
    pairs = overlap[["trial_a", "trial_b"]].drop_duplicates()
    differs = pd.DataFrame(
        {
            "other seed": _differ(known["seed"], pairs),
            "other strategy": _differ(known["strategy"], pairs),
            "other settings": _differ(known["arm"], pairs) & ~_differ(known["strategy"], pairs),
            "other compression": _differ(asked, pairs),
            "other dataset": _differ(known["dataset"], pairs),
        },
        index=pairs.index,
    )
    differs["other settings"] &= ~differs["other dataset"]  # arms are named within a dataset
    alone = (differs.sum(axis=1) == 1) & ~_differ(known["model"], pairs)
    chosen = pairs[alone].assign(relation=differs[alone].idxmax(axis=1))
    chosen = chosen[_alike(chosen, named["settings"]) & _differ(_mask_keys(named), chosen)]
    frame = overlap.merge(chosen, on=["trial_a", "trial_b"]).join(known, on="trial_a")
    other = known[["dataset", "strategy", "arm", *_ASKED, "seed"]].add_suffix("_b")
    return frame.join(other, on="trial_b")


def _alike(pairs: pd.DataFrame, settings: pd.Series) -> pd.Series:
    """Tell for each related pair whether its two trials agree in their settings."""
    kinds = list(zip(pairs["trial_a"].map(settings), pairs["trial_b"].map(settings), pairs["relation"], strict=True))
    found = {kind: _is_alike(*kind) for kind in set(kinds)}
    return pd.Series([found[kind] for kind in kinds], pairs.index, dtype=bool)


def _is_alike(ours: str, theirs: str, relation: str) -> bool:
    if relation == "other strategy":
        return agree(ours, theirs)
    if relation == "other settings":
        return agree(of_dense(ours), of_dense(theirs)) and differences(ours, theirs) > 0
    return agree(ours, theirs, apart_from="data") if relation == "other dataset" else ours == theirs


def _mask_keys(trials: pd.DataFrame) -> pd.Series:
    """Return what decides the mask of each trial, as a text that is equal for one and the same mask."""
    keys = {spec: _mask_key(spec) for spec in trials["spec"].dropna().unique()}
    known = (keys.get(spec, trial_id) for trial_id, spec in trials["spec"].items())
    return pd.Series(list(known), trials.index, dtype=object)


def _mask_key(spec: str) -> str:
    fields = json.loads(spec)
    while fields.get("mask_of"):
        fields = fields["mask_of"]
    return canonical({name: fields.get(name) for name in _OF_MASK})


def _differ(values: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """Tell for each pair whether its two trials have different values."""
    ours, theirs = pairs["trial_a"].map(values), pairs["trial_b"].map(values)
    return pd.Series(ours.to_numpy() != theirs.to_numpy(), pairs.index)


def decompose(overlap: pd.DataFrame, trials: pd.DataFrame, by_arm: bool = False) -> pd.DataFrame:
    """Average how far masks agree, by the one thing in which their trials differ.

    A row has `model, dataset, relation, of, compression, sparsity_asked` (null if that is what differs), `layer` (null
    for the whole network; a kind of layer, if the frame is `overlap(store, by_kind=True)`), the number of `pairs` and
    the mean of each of the MEASURES. It answers whether another strategy, or other settings of one, change a mask more
    than another seed does.

    Rows `of` methods are over pairs of methods alone. Random and shuffled masks agree at chance level, and
    inverted ones less: the pairs with such a control have rows of their own, `of` controls. `arms` and `names` say
    which methods or controls they are, and how many. With `by_arm` each pair of arms has rows of its own, and `arm,
    arm_b` in place of these two: one arm twice where another seed, compression or dataset is what differs.

    >>> dc.decompose(dc.overlap(store), trials)
    >>> dc.decompose(dc.overlap(store), trials, by_arm=True)
    """
    frame = related(overlap, trials)
    for column in _ASKED:
        frame[column] = frame[column].where(frame["relation"] != "other compression")
    frame["dataset"] = frame["dataset"].where(frame["relation"] != "other dataset")
    controls = pd.DataFrame({side: frame[side].map(is_control) for side in ("strategy", "strategy_b")})
    frame["of"] = pd.Categorical(np.where(controls.any(axis=1), *_OF[::-1]), _OF)
    frame["relation"] = pd.Categorical(frame["relation"], RELATIONS)
    sorted_by = ["model", "dataset", "relation", "of", *_ASKED]
    keys = [*sorted_by, *(_ARMS if by_arm else []), "layer"]
    if by_arm:
        sides = zip(frame["arm"], frame["arm_b"], strict=True)
        frame[_ARMS] = pd.DataFrame([sorted(pair, key=natural) for pair in sides], frame.index, _ARMS)
        frame = frame.sort_values(_ARMS, key=lambda arms: arms.map(natural), kind="stable")
    groups = frame.groupby(keys, dropna=False, observed=True, sort=False)
    means = groups.agg(pairs=("trial_a", "size"), **{name: (name, "mean") for name in MEASURES}).reset_index()
    if not by_arm:
        kinds = [_named(part, control=key[3] == "controls") for key, part in groups]
        means.insert(len(keys), "arms", [len(names) for names in kinds])
        means.insert(len(keys) + 1, "names", [", ".join(names) for names in kinds])
    means = means.sort_values(sorted_by, kind="stable", ignore_index=True)
    return means.astype({"relation": str, "of": str})


def _named(pairs: pd.DataFrame, control: bool) -> list[str]:
    """Return the arms of the pairs that are controls, or those that are not."""
    sides = ((pairs["strategy"], pairs["arm"]), (pairs["strategy_b"], pairs["arm_b"]))
    arms = {arm for strategies, arms in sides for arm in arms[strategies.map(is_control) == control]}
    return sorted(arms, key=natural)


def nested(overlap: pd.DataFrame, trials: pd.DataFrame, masks: pd.DataFrame) -> pd.DataFrame:
    """Measure whether what a strategy keeps at a high sparsity is a part of what it keeps at a lower one.

    A row per layer of each pair that differs in compression alone: `model, dataset, strategy, arm, seed`, the trial ids
    `denser, sparser`, `layer`, and `share`: how much of what the sparser one keeps the denser one keeps too (1: nested;
    null: it keeps nothing).

    The frame is `overlap(store)`, layer by layer; `masks` are the rows of `frames.mask_counts`, whose counts turn the
    IoU back into the number of weights that both keep.

    >>> dc.nested(dc.overlap(store), trials, dc.mask_counts(store))
    """
    frame = related(overlap, trials)
    frame = frame[frame["relation"] == "other compression"]
    kept_a, kept_b = (_kept(frame[side], frame["layer"], masks) for side in ("trial_a", "trial_b"))
    iou = frame["kept_iou"].fillna(0.0).to_numpy(np.float64)
    both = np.rint(iou / (1 + iou) * (kept_a + kept_b))
    total = masks.groupby("trial_id")["kept"].sum()
    swap = frame["trial_a"].map(total) < frame["trial_b"].map(total)
    kept = np.where(swap, kept_a, kept_b)  # by the sparser one, which may keep more than the other in some layer
    return pd.DataFrame(
        {
            **{name: frame[name] for name in ("model", "dataset", "strategy", "arm", "seed")},
            "denser": frame["trial_b"].where(swap, frame["trial_a"]),
            "sparser": frame["trial_a"].where(swap, frame["trial_b"]),
            "layer": frame["layer"],
            "share": np.divide(both, kept, out=np.full(len(frame), np.nan), where=kept > 0),
        }
    ).reset_index(drop=True)


def _kept(trial_ids: pd.Series, layers: pd.Series, masks: pd.DataFrame) -> NDArray[np.float64]:
    """Return the weights that each trial keeps in its layer, or in the whole network if the layer is null."""
    whole = trial_ids.map(masks.groupby("trial_id")["kept"].sum())
    asked = pd.MultiIndex.from_arrays([trial_ids, layers])
    by_layer = masks.groupby(["trial_id", "layer"])["kept"].sum().reindex(asked)
    return np.where(layers.isna(), whole, by_layer).astype(np.float64)
