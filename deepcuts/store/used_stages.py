"""Tells which shared stages each trial was made with, from its row and its spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow.dataset as ds

from deepcuts.store.store import Store

# The kind and the id of a shared stage.
StageKey = tuple[str, str]

# What Wanda's scores have in common with those of the trial's criterion, besides the fine-tuned network.
_ABOUT_SCORES = ("network", "prune_biases", "exclude")


def used_stages(store: Store) -> dict[str, set[StageKey]]:
    """Return the shared stages that each trial was made with, by the trial's id.

    They are the fine-tuned network (`dense`), its outputs where it taught (`teachers`), the scores of the criterion and
    for Owl Wanda's beside them (`scores`), and the network that the round before left (`rounds`).
    """
    columns = ["trial_id", "dense_id", "score_id", "previous"]
    used: dict[str, set[StageKey]] = {}
    for row in store.read("trials", columns).table.to_pylist():
        stages = {"dense": row["dense_id"], "scores": row["score_id"], "rounds": row["previous"]}
        used[row["trial_id"]] = {(kind, key) for kind, key in stages.items() if key}
    if store.artifacts("teachers"):
        for trial, spec in _specs(store).items():
            if (spec.get("retrain") or {}).get("distill"):
                used[trial] |= {("teachers", key) for kind, key in used[trial] if kind == "dense"}
    if of_owl := _specs(store, ds.field("scope") == "owl"):
        wanda = _wanda(store)
        for trial, spec in of_owl.items():
            mine = (key for key, meta in wanda.items() if _finds_outliers_for(spec, meta, used[trial]))
            used[trial] |= {("scores", key) for key in mine}
    return used


def _specs(store: Store, where: ds.Expression | None = None) -> dict[str, dict[str, Any]]:
    """Return the specs of trials by id, as JSON has them."""
    rows = store.read("trials", ["trial_id", "spec"], where).table.to_pylist()
    return {row["trial_id"]: json.loads(row["spec"]) for row in rows if row["spec"]}


def _wanda(store: Store) -> dict[str, dict[str, Any]]:
    metas = {key: store.artifact("scores", key) or {} for key in store.artifacts("scores")}
    return {key: meta for key, meta in metas.items() if meta.get("spec", {}).get("criterion") == "Wanda"}


def _finds_outliers_for(spec: Mapping[str, Any], meta: Mapping[str, Any], used: set[StageKey]) -> bool:
    """Whether the Wanda scores that a meta describes are those that a trial of Owl needs."""
    made, asked = meta["spec"], spec.get("outliers") or {}
    alike = all((made.get(name) or None) == (spec["score"].get(name) or None) for name in _ABOUT_SCORES)
    return ("dense", meta["dense_id"]) in used and alike and all(made.get(name) == asked[name] for name in asked)
