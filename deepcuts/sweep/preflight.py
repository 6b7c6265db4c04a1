"""Checks, before anything is launched, that a sweep's model and criteria can do what its trials need.

Trying it out loads torch and the weights, which takes seconds, so what passed is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

import deepcuts
from deepcuts.data.user_cache import cache_folder, write_cache
from deepcuts.experiment.own_criteria import CriteriaFile
from deepcuts.experiment.spec import TrialSpec, canonical
from deepcuts.model.weights import check_weights, model_commit
from deepcuts.pruning.own import load_criteria
from deepcuts.sweep.machines import wait_passively


def check_criteria(files: Sequence[CriteriaFile], biases: bool) -> None:
    """Check that every criterion of the user's own keeps the laws that hold for ours, and say which is being tried.

    Raises ValueError with the file, the line and what is wrong.
    """
    for file in files:
        key = {"criteria": file.digest, "biases": biases, "versions": [deepcuts.__version__, version("torch")]}
        path = _cache_file(key)
        if _read_cache(path) is not None:
            continue
        wait_passively()
        from deepcuts.pruning.laws import check_laws

        for name, row in load_criteria(file.path, file.text).items():
            _say(f"checking the criterion {name} of {file.path} ...")
            check_laws(file.path, name, row, biases)
        write_cache(path, b"[]")


def check_trials(trials: Sequence[TrialSpec], download: bool, files: Sequence[CriteriaFile] = ()) -> tuple[str, ...]:
    """Try out each kind of trial on two texts; return the facts that this shows of the model, a sentence each.

    `files` has the user's own criteria. Weights that are not on this machine are only checked with `download`, which
    fetches them; else that is one of the facts. Raises ValueError with the cause where the trials could not run.
    """
    kinds: dict[str, list[TrialSpec]] = {}
    for trial in trials:
        kinds.setdefault(canonical(_kind(trial)), []).append(trial)
    facts: dict[str, None] = {}
    for alike in kinds.values():
        facts |= dict.fromkeys(_checked(alike, download, files))
    return tuple(facts)


def _checked(trials: Sequence[TrialSpec], download: bool, files: Sequence[CriteriaFile]) -> list[str]:
    model = trials[0].dense.model
    if not check_weights(model) and not download:
        return [f"the weights of {model.name} are not on this machine: `run` downloads them, and checks them then"]
    path = _cache_path(trials)
    facts = _read_cache(path)
    if facts is None:
        if model.name != "toy":
            _say(f"checking the model {model.name} on {trials[0].dense.dataset} ...")
        from deepcuts.trial.tryout import try_out

        facts = try_out(trials, files)
        write_cache(_cache_path(trials), json.dumps(facts).encode())  # a download may have changed its key
    return facts


def _say(what: str) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(what)


def _kind(trial: TrialSpec) -> dict[str, object]:
    """Return what decides whether a trial can run, and what is said of it, besides the model and the criterion."""
    dense, task = trial.dense, trial.dense.task
    settings = dense.model_dump(mode="json", exclude=_NO_MATTER)
    decayed = dense.finetune.weight_decay > 0
    data = task.digest or task.model_dump(mode="json", exclude={"files"})
    about = {"kind": task.kind, "outputs": task.outputs, "texts": len(task.text)}
    return {**settings, **about, "decayed": decayed, "data": data}


_OF_SCORES = {"criterion", "own", "dropout", "count_padding", "prune_biases", "exclude"}
_NO_MATTER = {"model", "task", "seed", "max_train_examples", "tf32", "compile", "device", "finetune"}


def _cache_path(trials: Sequence[TrialSpec]) -> Path:
    model = trials[0].dense.model
    scores = [spec for trial in trials for spec in (trial.score, *trial.passes)]
    needs = {canonical(spec.model_dump(mode="json", include=_OF_SCORES)) for spec in scores}
    key = {
        "model": model.digest or [model.name, model_commit(model.name, model.revision)],
        "kind": _kind(trials[0]),
        "scores": sorted(needs),
        "versions": [deepcuts.__version__, *map(version, ("transformers", "torch", "tokenizers"))],
    }
    if masks := {canonical(_mask_key(trial)) for trial in trials if trial.mask_file is not None}:
        key["masks"] = sorted(masks)
    return _cache_file(key)


def _cache_file(key: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(canonical(key).encode()).hexdigest()[:32]
    return cache_folder("preflight") / f"{name}.json"


def _mask_key(trial: TrialSpec) -> dict[str, object]:
    assert trial.mask_file is not None
    level = {"compression": trial.compression, "sparsity": trial.sparsity}
    return {**level, "digest": trial.mask_file.digest, "trial": trial.mask_file.trial}


def _read_cache(path: Path) -> list[str] | None:
    """Return the facts in a file; None where it is missing or damaged."""
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, list) and all(isinstance(fact, str) for fact in facts) else None
