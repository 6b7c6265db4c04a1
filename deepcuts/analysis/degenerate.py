"""Finds what pruning has broken: networks that predict one class alone, tensors and attention heads without a weight.

A mean over seeds does not show any of it, so that the views name it beside their numbers.
"""

from __future__ import annotations

import pandas as pd
import pyarrow.dataset as ds

from deepcuts.analysis.arm_names import read_settings
from deepcuts.analysis.arms import in_order, with_arms
from deepcuts.analysis.density import density
from deepcuts.analysis.frames import mask_counts
from deepcuts.experiment.tasks import METRICS
from deepcuts.store.store import Store
from deepcuts.wording import counted, first_of, level

DEGENERATE_COLUMNS = ["trial_id", "kind", "what"]

# Dead heads are looked for in masks of at most this many weights together: 256 MB, read in about a second.
_MOST_WEIGHTS = 2_000_000_000
_MOST_LINES, _MOST_TENSORS = 12, 4


def degenerate(store: Store, trials: pd.DataFrame, kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a row for everything that is broken in the completed trials: `trial_id, kind, what`.

    `kind` is `one class` (on the validation split the network predicts a single class after the stage `what`, though
    the labels vary), `emptied` (no weight is left of the tensor `what`) or `dead heads` (`what` says how many of a
    layer's attention heads have no weight left; left out where masks are too large to be read for this).
    `kept` are rows of `density`, where there are any yet: then the heads are those of its trials, and no mask is read.

    >>> dc.degenerate(store, trials)
    """
    done = trials[trials["status"] == "completed"]
    counts = mask_counts(store, ["trial_id", "layer", "parameter", "size", "kept"], trial_id=list(done["trial_id"]))
    empty = counts[counts["kept"] == 0]
    emptied = pd.DataFrame(
        {"trial_id": empty["trial_id"], "kind": "emptied", "what": empty["layer"] + "." + empty["parameter"]}
    )
    parts = [_one_class(store, done[done["metric"].isin(METRICS["classification"])]), emptied]
    if kept is None and 0 < counts["size"].sum() <= _MOST_WEIGHTS:
        kept = density(store, sorted(counts["trial_id"].unique()))
    if kept is not None:
        parts.append(_dead_heads(kept))
    return pd.concat(parts, ignore_index=True)[DEGENERATE_COLUMNS]


def _one_class(store: Store, trials: pd.DataFrame) -> pd.DataFrame:
    columns = ["trial_id", "stage", "label", "prediction"]
    where = ds.field("trial_id").isin(list(trials["trial_id"])) & (ds.field("split") == "validation")
    rows = store.read("predictions", columns, where).table
    ends = [(column, end) for column in ("label", "prediction") for end in ("min", "max")]
    found = rows.group_by(["trial_id", "stage"]).aggregate(ends).to_pandas()
    one = (found["prediction_min"] == found["prediction_max"]) & (found["label_min"] < found["label_max"])
    return found[one].assign(kind="one class", what=found["stage"])


def _dead_heads(frame: pd.DataFrame) -> pd.DataFrame:
    """Count dead heads in each attention layer; a layer that is empty as a whole is named as that."""
    dead = frame[(frame["dead_heads"] > 0).fillna(False) & (frame["kept"] > 0)]
    what = [f"{row.dead_heads} of {row.heads} in {row.layer}" for row in dead.itertuples()]
    return pd.DataFrame({"trial_id": dead["trial_id"], "kind": "dead heads", "what": what})


def degenerate_in_words(frame: pd.DataFrame, trials: pd.DataFrame) -> list[str]:
    """Say in a sentence for each arm and level what is broken, and each of it in how many of its trials.

    That a network predicts one class alone is said of fine-tuned and retrained ones: pruned ones that are not retrained
    (yet, or by `retrain.epochs=0`) often do.

    >>> dc.degenerate_in_words(dc.degenerate(store, trials), trials)
    """
    rows = with_arms(trials[trials["status"] == "completed"])
    rows = rows.assign(asked=[level(*each) for each in zip(rows["compression"], rows["sparsity_asked"], strict=True)])
    retrains = {text: read_settings(text).get("retrain.epochs") != 0 for text in rows["settings"].unique()}
    rows = rows.assign(retrains=rows["settings"].map(retrains))
    told = ["trial_id", "model", "dataset", "arm", "asked", "compression", "sparsity_asked", "dense_id", "retrains"]
    found = frame.merge(rows[told], on="trial_id")
    trained = (found["what"] == "dense") | ((found["what"] == "retrained") & found["retrains"])
    found = found[(found["kind"] != "one class") | trained]
    said = []
    of_dense = (found["kind"] == "one class") & (found["what"] == "dense")
    for (_, dataset), part in found[of_dense].groupby(["model", "dataset"]):
        networks = part["dense_id"].nunique()
        verb = "predicts" if networks == 1 else "predict"
        said.append(
            f"{dataset}: {counted(networks, 'fine-tuned network')} {verb} one class alone before any pruning: train"
            " longer, or at another learning rate (finetune.epochs, finetune.lr)"
        )
    place = ["model", "dataset", "arm", "asked"]
    found = in_order(found[~of_dense], ["model", "dataset", "arm", "compression", "sparsity_asked"])
    sizes = dict(rows.groupby(place).size().items())
    for key, part in found.groupby(place, sort=False):
        _, dataset, arm, asked = key
        kinds = [(_sentence(kind, some), some["trial_id"].nunique()) for kind, some in part.groupby("kind")]
        words = [words if sizes[key] == 1 else f"{words} ({trials} of {sizes[key]} trials)" for words, trials in kinds]
        said.append(f"{arm} {asked} on {dataset}: {'; '.join(words)}")
    return said if len(said) <= _MOST_LINES else [*said[:_MOST_LINES], f"and {len(said) - _MOST_LINES} more like these"]


def _sentence(kind: object, part: pd.DataFrame) -> str:
    if kind == "one class":
        return "predicts one class alone when retrained"
    if kind == "emptied":
        return f"no weight is left of {first_of(sorted(set(part['what'])), _MOST_TENSORS)}"
    worst = max(part["what"], key=lambda what: int(what.split()[0]))
    return f"attention heads without a weight, at most {worst}"
