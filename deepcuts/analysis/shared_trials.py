"""Tells whose a trial is that two arms share: a first round of iterative pruning, or the source of a mask.

A first round prunes the fine-tuned network as a trial that prunes at once does: they are one experiment with one id,
and who asked for it first decides no more than whether its row says `rounds`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from deepcuts.experiment.spec import canonical

# The key of canonical settings that says how rounds prune.
_ROUNDS = '"rounds":'


def counted_at_once(trials: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """Return the settings of trials, of a first round without `rounds` where some trial of that arm prunes at once.

    Settings are canonical JSON. `trials` has the columns `model`, `dataset`, `strategy` and `spec`. Else a first round
    stays with the later ones.
    """
    if not any(_ROUNDS in text for text in settings):
        return list(settings)
    arms = list(trials[["model", "dataset", "strategy"]].itertuples(index=False, name=None))
    at_once = {(arm, text) for arm, text in zip(arms, settings, strict=True) if _ROUNDS not in text}
    found = []
    for arm, spec, text in zip(arms, trials["spec"], settings, strict=True):
        first = _ROUNDS in text and "rounds.rewind_head" not in text and _is_first(spec)
        alone = _without_rounds(text) if first else text
        found.append(alone if (arm, alone) in at_once else text)
    return found


def _without_rounds(text: str) -> str:
    return canonical({name: value for name, value in json.loads(text).items() if name.partition(".")[0] != "rounds"})


def _is_first(spec: str) -> bool:
    return '"chain":{' in spec and '"previous":{' not in spec


def lent(rows: pd.DataFrame) -> pd.Series:
    """Tell which trials have their label from an arm with rounds or with masks of others, which builds on them."""
    building = [some for some in rows["settings"].unique() if _ROUNDS in some or '"mask_from":' in some]
    builds = rows["settings"].isin(building)
    return ~builds & rows["label"].isin(set(rows.loc[builds, "label"]))
