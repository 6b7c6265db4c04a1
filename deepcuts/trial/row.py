"""Makes rows of `trials`: what a trial is, and how it failed. Loads no torch, so that the driver can write them too."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import deepcuts
from deepcuts.experiment.spec import TrialSpec, canonical
from deepcuts.store.tables import Row


def identity_columns(trial: TrialSpec, sweep: str, arm: str | None = None) -> Row:
    """Return the columns that are known before anything runs, with the versions of the code that is installed here.

    `arm` is what the sweep calls the trial's strategy with its settings; by default it is the strategy.
    """
    dense = trial.dense
    return {
        "trial_id": trial.trial_id,
        "sweep": sweep,
        "model": dense.model.name,
        "dataset": dense.dataset,
        "strategy": trial.strategy,
        "criterion": trial.score.criterion,
        "scope": trial.scope,
        "control": trial.control if trial.prunes else None,
        **trial.level_columns,
        "rewind": None if trial.retrain is None else str(trial.rewind),
        "seed": dense.seed,
        "head_from": "weights" if dense.keep_head else "seed",
        "metric": dense.task.main_metric,
        "dense_id": dense.dense_id,
        "score_id": None if trial.mask_given else trial.score.score_id,
        "precision": dense.precision,
        "deepcuts": deepcuts.__version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "git_commit": _git_commit(),
        "spec": canonical(trial.model_dump(mode="json")),
        **_place_columns(trial),
        "arm": arm or trial.strategy,
    }


def _place_columns(trial: TrialSpec) -> Row:
    """Return which round of what a trial is, and whose mask it takes; null where it is and does nothing of the kind."""
    chain, source, file = trial.chain, trial.mask_of, trial.mask_file
    row: Row = {}
    if chain is not None:
        row |= {"rounds": chain.rule, "round": trial.round, "step": chain.step}
    if trial.previous is not None:
        row["previous"] = trial.previous.trial_id
    if source is not None:
        row |= {"mask_from": f"{source.dense.dataset} seed {source.dense.seed}", "mask_trial": source.trial_id}
    if file is not None:
        row |= {"mask_from": f"file {file.digest[:16]}", "mask_trial": file.trial}
    return row


@cache
def _git_commit() -> str | None:
    """Return the commit of this checkout, with `-dirty` where tracked files of the package differ from it.

    None where the package is installed without a checkout. Looked up once: the code that runs is the code of then.
    """
    folder = Path(deepcuts.__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    return commit and commit + ("-dirty" if _git(folder, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None where it prints nothing, or is not installed."""
    with suppress(OSError):
        found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return found.stdout.strip() or None
    return None


def failure_columns(failure: Literal["trial", "infrastructure"], stage: str, error: str, traceback: str) -> Row:
    """Return the columns of a trial that failed by itself, or because the machines around it failed."""
    return {"status": "failed", "failure": failure, "error_stage": stage, "error": error, "traceback": traceback}
