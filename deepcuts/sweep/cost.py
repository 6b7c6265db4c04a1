"""Estimates what a plan will take: time as the store measured it (or from FLOPs), bytes of disk, a share of a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deepcuts.experiment.settings import examples_at_once
from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import DenseSpec, TrialSpec
from deepcuts.pruning.compression import Counts
from deepcuts.store.store import Store
from deepcuts.sweep.devices import DEVICES, OTHER_CORE, STEP_SECONDS, UNKNOWN, Arithmetic, Device, core_speed
from deepcuts.sweep.pace import Pace, used_examples
from deepcuts.sweep.plan import Plan
from deepcuts.wording import counted, size_text

FLOAT = 4


@dataclass(frozen=True)
class Texts:
    """The examples of a dataset: those to train on, those evaluated after each epoch, and the mean tokens of one."""

    train: int
    evaluated: int
    tokens: float


# How much longer than a training step it takes to differentiate a batch twice.
CURVATURE = 3

# From the start of a launch to its first training step: Ray starts, and so do its workers (docs/performance.md).
START_SECONDS = 8.0
# What a trial is guessed to take besides training, scoring and evaluating: loading, making masks, storing; a number for
# each trial, and one for each parameter of its network (MiniLM on a core takes 1 s, docs/performance.md).
OTHER_SECONDS, PARAMETER_SECONDS = 0.5, 3e-8
# What evaluating an example takes of training on it: a forward pass alone.
EVALUATING = 1 / 3
# What a teacher's outputs for the training split take, as a part of an epoch: forward passes alone.
TEACHING = 1 / 3


@dataclass(frozen=True)
class Cost:
    """What a plan takes: seconds of work, seconds until the end, the basis of that estimate, and bytes of disk.

    `seconds` has the work of each stage, by the id of the fine-tuning, the scoring pass or the trial; `wall_seconds`
    are those until the last trial ends, `slots` at a time, with START_SECONDS before the first. `left_bytes` is how
    much larger the store is at the end, and `peak_bytes` how much larger it is at most on the way, with its
    checkpoints.
    """

    seconds: Mapping[str, float]
    slots: int
    wall_seconds: float
    gpu_hours: float
    basis: tuple[str, ...]
    left_bytes: int
    peak_bytes: int


def estimate(
    plan: Plan,
    counts: Mapping[str, Counts],
    texts: Mapping[str, Texts],
    store: Store,
    *,
    gpus: float,
    cpus: int,
    slots: int,
    keep_models: bool,
    on: str = "gpu",
) -> Cost:
    """Estimate the cost of the trials that are still to run, `slots` at a time.

    `texts` has those of each dataset, and `on` is one of ELSEWHERE: which GPU the trials run on, if they run on one.
    What the store has measured on such a device counts, else a guess.
    """
    together = shared(plan.to_run)
    measured, guessed = _measured(store, DEVICES.get(on)), set[str]()
    examples = {name: each.train for name, each in texts.items()}
    seconds: dict[str, float] = {}
    for trial in plan.to_run:
        dense, used = trial.dense, used_examples(trial, examples)
        found = measured.get(_kind(dense))
        if found is None:
            found, words = _guess(trial, counts[dense.dataset], texts[dense.dataset], used, on, gpus, cpus)
            guessed.add(words)
        unit = found.seconds
        seconds[trial.trial_id] = _epochs(trial) * used * unit + found.besides(trial)
        if dense.dense_id not in plan.dense_there:
            taught = TEACHING * together.teaches(trial)
            seconds[dense.dense_id] = (dense.finetune.epochs + taught) * used * unit
        for score in trial.passes:
            repeats = (
                score.smoothing_passes if score.data == "smoothed" else CURVATURE if score.data == "curvature" else 1
            )
            once = min(used, score.batches * score.batch_size) * repeats * unit
            seconds[trial.trial_id] += (trial.scoring_rounds - 1) * once  # those of later rounds are its own
            if score.score_id not in plan.scores_there:
                seconds[score.pass_id] = once
    kinds = {_kind(trial.dense) for trial in plan.to_run}
    basis = (*_measured_in_words(measured, kinds), *sorted(guessed))
    wall = Pace(plan.to_run, seconds, slots).seconds_left() + (START_SECONDS if plan.to_run else 0.0)
    left, passing = _bytes(plan, counts, keep_models, slots)
    return Cost(seconds, slots, wall, sum(seconds.values()) * gpus / 3600, basis, left, left + passing)


def _epochs(trial: TrialSpec) -> int:
    """Return for how many epochs a trial retrains."""
    return trial.retrain.epochs if trial.retrain else 0


def _guess(
    trial: TrialSpec, counts: Counts, texts: Texts, used: int, on: str, gpus: float, cpus: int
) -> tuple[_Seconds, str]:
    """Guess what trials of a kind take; say what it rests on."""
    dense = trial.dense
    speed, words = _guessed_speed(dense, on, gpus, cpus)
    flops = 6 * counts.prunable * min(texts.tokens, dense.max_tokens)
    step = STEP_SECONDS[dense.device] / dense.finetune.batch_size
    training = max(flops / speed, step)
    evaluation = EVALUATING * texts.evaluated * training
    other = OTHER_SECONDS + PARAMETER_SECONDS * counts.parameters
    return _Seconds(training + evaluation / used, {True: other + 2 * evaluation}), words  # when pruned, and rewound


def _guessed_speed(dense: DenseSpec, on: str, gpus: float, cpus: int) -> tuple[float, str]:
    """Guess the FLOP/s that a trial reaches in training, and say in words what that rests on."""
    begin = "a guess, until a trial of this model, data and precision has run on such a device: a training step reaches"
    if dense.device == "cpu":
        speed = cpus * (OTHER_CORE if on == "cpu" else core_speed())
        return speed, f"{begin} {speed / 1e12:.2g} TFLOP/s on {counted(cpus, 'CPU core')}; {_ROUGHLY}"
    arithmetic: Arithmetic = "bf16" if dense.precision == "bf16" else "tf32" if dense.tf32 else "fp32"
    device = DEVICES.get(on, UNKNOWN)
    speed = device.speed(arithmetic)
    words = f"{begin} {speed / 1e12:.2g} TFLOP/s in {arithmetic} on a GPU like the {device.name.upper()} (a part of its"
    return speed * min(1.0, max(gpus, 0.01)), f"{words} data sheet's peak); {_ROUGHLY}"


_ROUGHLY = "it may well take a third of that time, or three times as long"


# What decides the seconds per example: model, dataset, device type and precision.
_Kind = tuple[str, str, str, str]


@dataclass(frozen=True)
class _Seconds:
    """What trials of a kind take: seconds of training per example and epoch, and besides that of a trial.

    The latter by whether it retrains for an epoch at least. `devices` has the names of those that took them, if this
    was measured.
    """

    seconds: float
    by_retrains: Mapping[bool, float]
    devices: frozenset[str] = frozenset()

    def besides(self, trial: TrialSpec) -> float:
        """Return the seconds of a trial besides training and scoring; those of the other sort where none has run."""
        wanted = _epochs(trial) > 0
        return self.by_retrains.get(wanted, self.by_retrains.get(not wanted, OTHER_SECONDS))


def _measured_in_words(measured: Mapping[_Kind, _Seconds], kinds: Collection[_Kind]) -> list[str]:
    known = [measured[kind] for kind in kinds if kind in measured]
    devices = ", ".join(sorted({name for each in known for name in each.devices}))
    some = "" if len(known) == len(kinds) else f", for {len(known)} of {len(kinds)} datasets"
    return [f"measured by trials in this store, on {devices}{some}"] if known else []


def _kind(dense: DenseSpec) -> _Kind:
    return dense.model.name, dense.dataset, dense.device, dense.precision


def _measured(store: Store, device: Device | None) -> dict[_Kind, _Seconds]:
    """Return the medians of what the store has measured; with `device`, on a GPU of that kind alone.

    Of a kind whose trials have never retrained, nothing is known.
    """
    columns = ["trial_id", "status", "device", "spec"]
    parts = ["total_seconds", "finetune_seconds", "score_seconds", "retrain_seconds"]
    units: dict[_Kind, list[tuple[float, str]]] = {}
    besides: dict[_Kind, dict[bool, list[float]]] = {}
    steps = _steps_per_trial(store)
    for row in store.read("trials", [*columns, *parts]).table.to_pylist():
        if row["status"] != "completed" or row["retrain_seconds"] is None:
            continue
        try:
            spec = TrialSpec.model_validate_json(row["spec"] or "")
        except ValueError:  # a row that another version wrote
            continue
        name = row["device"] or spec.dense.device
        if device is not None and spec.dense.device == "cuda" and not device.is_called(name):
            continue
        kind, retrains = _kind(spec.dense), _epochs(spec) > 0
        if spec.retrain and retrains and row["retrain_seconds"] and row["trial_id"] in steps:
            seen = steps[row["trial_id"]] * spec.retrain.batch_size
            units.setdefault(kind, []).append((row["retrain_seconds"] / seen, name))
        total, *stages = (row[part] or 0.0 for part in (parts if retrains else parts[:-1]))
        if total:
            besides.setdefault(kind, {}).setdefault(retrains, []).append(max(0.0, total - sum(stages)))
    return {
        kind: _Seconds(
            median(seconds for seconds, _ in values),
            {retrains: median(of) for retrains, of in besides.get(kind, {}).items()},
            frozenset(name for _, name in values),
        )
        for kind, values in units.items()
    }


def _steps_per_trial(store: Store) -> dict[str, int]:
    """Return how many steps each trial retrained for, by id, of the trials that did."""
    table = store.read("metrics", ["trial_id", "stage", "step"]).table
    last = table.group_by(["trial_id", "stage"]).aggregate([("step", "max")]).to_pylist()
    return {row["trial_id"]: row["step_max"] for row in last if row["stage"] == "retrained" and row["step_max"]}


def _bytes(plan: Plan, counts: Mapping[str, Counts], keep_models: bool, slots: int) -> tuple[int, int]:
    """Return the bytes that stay, and the most that there are beside them for a while.

    Fine-tuned networks (also of the steps that trials rewind to), those that later rounds prune, scores, masks and kept
    models stay. Of each trial that runs there are a checkpoint and its successor, with two numbers of Adam for each
    weight.
    """
    left, dense, scores = 0, set(plan.dense_there), set(plan.scores_there)
    together, largest = shared(plan.to_run), 0
    for trial in plan.to_run:
        size = counts[trial.dense.dataset]
        network = FLOAT * size.parameters
        steps = len(together.snapshots(trial))
        largest = max(largest, (2 * 3 + steps) * network)
        if trial.dense.dense_id not in dense:
            dense.add(trial.dense.dense_id)
            left += (1 + steps) * network
        for score in trial.passes:
            if score.score_id and score.score_id not in scores:
                scores.add(score.score_id)
                left += FLOAT * size.prunable
        if trial.retrain is not None:
            kept = keep_models or trial.trial_id in together.networks
            left += size.prunable // 8 + (network if kept else 0)
    return left, largest * min(slots, len(plan.to_run))


def check_disk(store: Store, cost: Cost) -> None:
    """Raise ValueError where the disk of a local store lacks the bytes that the plan needs."""
    if not store.local:
        return
    folder = Path(store.root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < cost.peak_bytes:
        raise ValueError(
            f"store {store.uri!r}: the sweep needs about {size_text(cost.peak_bytes)} and {size_text(free)} are free;"
            " make room, choose another with --store, or run part of it with --only"
        )


# The share of a peak that is left free beside it, and the bytes of CUDA's own context and kernels in each process.
HEADROOM, CONTEXT = 0.2, 600_000_000
MOST_TRIALS_PER_GPU = 8


@dataclass(frozen=True)
class Share:
    """The most memory that a trial like the plan's took, the memory of that GPU (in bytes), and how many trials fit."""

    peak: int
    total: int
    device: str
    at_a_time: int

    def __str__(self) -> str:
        fits = f"resources.gpus={1 / self.at_a_time:g} would run {self.at_a_time} at a time"
        return f"peak {size_text(self.peak)} of {size_text(self.total)} ({self.device}): {fits}"


def recommended(plan: Plan, store: Store) -> Share | None:
    """Return the share of a GPU that is enough for each trial to run.

    None on a CPU, where something that they do was never measured, and where one of them needs a whole GPU.
    """
    wanted: set[tuple[object, ...]] = set().union(*map(_memory_parts, plan.to_run))
    if not any(trial.dense.device == "cuda" for trial in plan.to_run):
        return None
    kinds: dict[frozenset[tuple[object, ...]], tuple[float, int, int, str]] = {}
    columns = ["trial_id", "status", "peak_gpu_bytes", "gpu_bytes", "device", "spec"]
    for row in store.read("trials", columns).table.to_pylist():
        if row["status"] != "completed" or not row["peak_gpu_bytes"] or not row["gpu_bytes"]:
            continue
        try:
            trial = TrialSpec.model_validate_json(row["spec"] or "")
        except ValueError:  # a row that another version wrote
            continue
        if trial.trial_id != row["trial_id"]:  # likewise: what it ran is not what would run today
            continue
        kind = frozenset(_memory_parts(trial))
        peak, total = row["peak_gpu_bytes"], row["gpu_bytes"]
        seen = (peak / total, peak, total, row["device"] or "GPU")
        kinds[kind] = max(kinds.get(kind, seen), seen)
    if not wanted <= set().union(*kinds):
        return None
    # A part takes no more memory than the least of all kinds of trials that contain it.
    _, peak, total, device = max(min(kinds[kind] for kind in kinds if part in kind) for part in wanted)
    at_a_time = fitting(peak, total)
    return Share(peak, total, device, at_a_time) if at_a_time > 1 else None


def fitting(peak: int, total: int) -> int:
    """Return how many trials of this peak fit on a GPU of `total` bytes: 1, 2, 4, or 8, which keep it busy."""
    count = MOST_TRIALS_PER_GPU
    while count > 1 and count * (peak * (1 + HEADROOM) + CONTEXT) > total:
        count //= 2
    return count


def _memory_parts(trial: TrialSpec) -> set[tuple[object, ...]]:
    """Return what decides the memory of a trial: how each of its stages runs."""
    dense = trial.dense
    about = (dense.model, dense.dataset, dense.device, dense.precision, dense.compile, dense.max_tokens)
    parts: set[tuple[object, ...]] = {
        (*about, each.optimizer, examples_at_once(each)) for each in (dense.finetune, trial.retrain) if each is not None
    }
    parts |= {(*about, score.data, examples_at_once(score), score.smoothing_passes) for score in trial.passes}
    return parts
