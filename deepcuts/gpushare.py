"""How many trials fit on one GPU at a time, from the memory that trials of their kind took there."""

from __future__ import annotations

from dataclasses import dataclass

from deepcuts.cost import size
from deepcuts.plan import Plan
from deepcuts.spec import TrialSpec
from deepcuts.store import Store

# What is left free, and what a process takes of a GPU beside its tensors (CUDA's context and kernels).
HEADROOM, CONTEXT = 0.2, 600_000_000
MOST = 8


@dataclass(frozen=True)
class Share:
    """The most memory that a trial of the plan was seen to take, the memory of that GPU, and how many fit on it."""

    peak: int
    total: int
    device: str
    at_a_time: int

    def __str__(self) -> str:
        fits = f"resources.gpus={1 / self.at_a_time:g} would run {self.at_a_time} at a time"
        return f"peak {size(self.peak)} of {size(self.total)} ({self.device}): {fits}"


def recommended(plan: Plan, store: Store) -> Share | None:
    """The share of a GPU that the trials to run can do with; None on a CPU, where not all of what they do was
    measured, and where one of them needs a GPU of its own."""
    wanted: set[tuple[object, ...]] = set().union(*map(_parts, plan.to_run))
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
        kind = frozenset(_parts(trial))
        peak, total = row["peak_gpu_bytes"], row["gpu_bytes"]
        seen = (peak / total, peak, total, row["device"] or "GPU")
        kinds[kind] = max(kinds.get(kind, seen), seen)
    if not wanted <= set().union(*kinds):
        return None
    # A part takes no more than the least of the kinds of trials that it is in.
    _, peak, total, device = max(min(kinds[kind] for kind in kinds if part in kind) for part in wanted)
    at_a_time = fitting(peak, total)
    return Share(peak, total, device, at_a_time) if at_a_time > 1 else None


def fitting(peak: int, total: int) -> int:
    """How many trials of this peak fit on a GPU of so many bytes: 1, 2, 4, or 8, which keep it busy."""
    count = MOST
    while count > 1 and count * (peak * (1 + HEADROOM) + CONTEXT) > total:
        count //= 2
    return count


def _parts(trial: TrialSpec) -> set[tuple[object, ...]]:
    """What decides the memory of a trial: how each of its stages runs."""
    dense, score = trial.dense, trial.score
    about = (dense.model, dense.dataset, dense.device, dense.precision, dense.compile, dense.max_tokens)
    parts: set[tuple[object, ...]] = {
        (*about, each.optimizer, each.micro_batch or each.batch_size)
        for each in (dense.finetune, trial.retrain)
        if each is not None
    }
    if score.data != "none":
        parts.add((*about, score.data, score.micro_batch or score.batch_size, score.smoothing_passes))
    return parts
