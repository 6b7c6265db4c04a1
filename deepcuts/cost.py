"""What a plan will take: time from what the store has measured (or from FLOPs), and bytes from the counts."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deepcuts.budget import Counts
from deepcuts.plan import Plan, shared
from deepcuts.spec import TrialSpec
from deepcuts.store import Store

# FLOP/s that a training step is guessed to reach where the store has measured nothing: per CPU core, and per GPU.
GUESSED_CPU, GUESSED_GPU = 2e10, 4e13
GUESSED_TOKENS = 32
FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Seconds of work on one trial's resources, seconds until the end, where they come from; and bytes of disk."""

    work_seconds: float
    wall_seconds: float
    gpu_hours: float
    basis: str
    bytes: int


def estimate(
    plan: Plan,
    counts: Mapping[str, Counts],
    examples: Mapping[str, Mapping[str, int]],
    store: Store,
    *,
    gpus: float,
    cpus: int,
    slots: int,
    keep_models: bool,
) -> Cost:
    """The cost of the trials that are still to run, `slots` at a time."""
    measured = _seconds_per_example(store, plan)
    seconds, together = 0.0, shared(plan.to_run)
    fine_tuned, scored = set(plan.dense_there), {*plan.scores_there, None}
    for trial in plan.to_run:
        dense = trial.dense
        used = min(dense.max_train_examples or math.inf, examples[dense.dataset]["train"])
        unit = measured.get((dense.model.name, dense.dataset, dense.device))
        if unit is None:
            speed = GUESSED_GPU * max(gpus, 0.01) if dense.device == "cuda" else GUESSED_CPU * cpus
            unit = 6 * counts[dense.dataset].prunable * min(GUESSED_TOKENS, dense.max_tokens) / speed
        work = (trial.retrain.epochs if trial.retrain else 0) * used
        if dense.dense_id not in fine_tuned:
            fine_tuned.add(dense.dense_id)
            work += dense.finetune.epochs * used
        if trial.score.data != "none" and trial.score.score_id not in scored:
            scored |= {score.score_id for score in together.partners(trial)}
            repeats = trial.score.smoothing_passes if trial.score.data == "smoothed" else 1
            work += min(used, trial.score.batches * trial.score.batch_size) * repeats
        seconds += work * unit
    kinds = {(t.dense.model.name, t.dense.dataset, t.dense.device) for t in plan.to_run}
    known = len(kinds & set(measured))
    basis = f"measured in this store for {known} of {len(kinds)} datasets" if known else "guessed from FLOPs"
    wall = seconds / max(1, min(slots, len(plan.to_run) or 1))
    return Cost(seconds, wall, seconds * gpus / 3600, basis, _bytes(plan, counts, keep_models, slots))


def _seconds_per_example(store: Store, plan: Plan) -> dict[tuple[str, str, str], float]:
    """Median seconds of retraining per example and epoch, by model, dataset and device type."""
    columns = ["trial_id", "dataset", "status", "retrain_seconds", "spec"]
    found: dict[tuple[str, str, str], list[float]] = {}
    steps = _steps_per_trial(store) if "completed" in plan.statuses.values() else {}
    for row in store.read("trials", columns).table.to_pylist():
        if row["status"] != "completed" or not row["retrain_seconds"] or row["trial_id"] not in steps:
            continue
        try:
            spec = TrialSpec.model_validate_json(row["spec"] or "")
        except ValueError:  # a row that another version wrote
            continue
        if spec.retrain is None or not spec.retrain.epochs:
            continue
        seen = steps[row["trial_id"]] * spec.retrain.batch_size
        key = spec.dense.model.name, row["dataset"], spec.dense.device
        found.setdefault(key, []).append(row["retrain_seconds"] / seen)
    return {key: median(values) for key, values in found.items()}


def _steps_per_trial(store: Store) -> dict[str, int]:
    """How many steps each trial retrained for, of those that did."""
    table = store.read("metrics", ["trial_id", "stage", "step"]).table
    last = table.group_by(["trial_id", "stage"]).aggregate([("step", "max")]).to_pylist()
    return {row["trial_id"]: row["step_max"] for row in last if row["stage"] == "retrained" and row["step_max"]}


def _bytes(plan: Plan, counts: Mapping[str, Counts], keep_models: bool, slots: int) -> int:
    """Fine-tuned networks, scores, masks, kept models, and the working checkpoints of `slots` trials at a time."""
    total, dense, scores = 0, set(plan.dense_there), set(plan.scores_there)
    for trial in plan.to_run:
        size = counts[trial.dense.dataset]
        if trial.dense.dense_id not in dense:
            dense.add(trial.dense.dense_id)
            total += FLOAT * size.parameters
        if trial.score.data != "none" and trial.score.score_id and trial.score.score_id not in scores:
            scores.add(trial.score.score_id)
            total += FLOAT * size.prunable
        if trial.retrain is not None:
            total += size.prunable // 8 + (FLOAT * size.parameters if keep_models else 0)
    largest = max((counts[trial.dense.dataset].parameters for trial in plan.to_run), default=0)
    return total + 2 * 3 * FLOAT * largest * min(slots, len(plan.to_run))


def check_disk(store: Store, cost: Cost) -> None:
    """Raises ValueError where a local store has not the bytes that the plan needs."""
    if not store.local:
        return
    folder = Path(store.root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < cost.bytes:
        raise ValueError(
            f"store {store.uri!r}: the sweep needs about {size(cost.bytes)} and {size(free)} are free; make room,"
            " choose another with --store, or run part of it with --only"
        )


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def local_slots(cpus: int, gpus: float, gpus_here: float) -> int:
    """How many trials this machine runs at a time."""
    by_cpu = (os.cpu_count() or 1) // max(1, cpus)
    return max(1, min(by_cpu, int(gpus_here / gpus)) if gpus else by_cpu)
