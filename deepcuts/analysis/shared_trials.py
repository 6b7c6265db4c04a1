"""Tells whose a trial is that two arms share: a first round of iterative pruning, or the source of a mask.

A first round prunes the fine-tuned network as a trial that prunes at once does: they are one experiment with one id,
and who asked for it first decides no more than whether its row says `rounds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from deepcuts.experiment.spec import canonical

_Settings = Mapping[str, Any]


def counted_at_once(trials: pd.DataFrame, settings: Sequence[_Settings]) -> list[_Settings]:
    """Return the settings of trials, of a first round without `rounds` where some trial of that arm prunes at once.

    `trials` has the columns `model`, `dataset`, `strategy` and `spec`. Else a first round stays with the later ones.
    """
    if not any("rounds" in some for some in settings):
        return list(settings)
    arms = list(trials[["model", "dataset", "strategy"]].itertuples(index=False, name=None))
    at_once = {(arm, canonical(some)) for arm, some in zip(arms, settings, strict=True) if "rounds" not in some}
    found = []
    for arm, spec, some in zip(arms, trials["spec"], settings, strict=True):
        alone = {name: value for name, value in some.items() if name.partition(".")[0] != "rounds"}
        first = "rounds" in some and "rounds.rewind_head" not in some and _is_first(spec)
        found.append(alone if first and (arm, canonical(alone)) in at_once else some)
    return found


def _is_first(spec: str) -> bool:
    return '"chain":{' in spec and '"previous":{' not in spec


def lent(rows: pd.DataFrame) -> pd.Series:
    """Tell which trials have their label from an arm with rounds or with masks of others, which builds on them."""
    building = [some for some in rows["settings"].unique() if '"rounds":' in some or '"mask_from":' in some]
    builds = rows["settings"].isin(building)
    return ~builds & rows["label"].isin(set(rows.loc[builds, "label"]))
