"""Says what `run` would do with a sweep: how many trials, on what data, for how long, on how much disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from deepcuts.data.facts import facts_in_words, inferred_in_words
from deepcuts.experiment.chain import is_step
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.store.failures import FAILURE_COLUMNS, fails_again
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.sweep.cost import START_SECONDS, Cost, recommended
from deepcuts.sweep.machines import Machines
from deepcuts.sweep.plan import Plan
from deepcuts.sweep.prepare import Prepared
from deepcuts.wording import counted, duration, size_text


@dataclass(frozen=True)
class SweepPlan:
    """What `run` would do. `str` of it is what the command line prints; `rows` has each trial with its state.

    `facts` are what trying the model out has shown of it, a sentence each.
    """

    prepared: Prepared
    store: Store
    todo: Plan
    gpus: float
    cost: Cost
    machines: Machines
    facts: tuple[str, ...] = ()

    @property
    def file(self) -> SweepFile:
        return self.prepared.spec.file

    @property
    def labels(self) -> Mapping[str, str]:
        """The label of each trial's arm, by the trial's id."""
        return self.prepared.spec.labels

    @cached_property
    def counts(self) -> str:
        """How many trials are wanted, done and to run."""
        todo = self.todo
        text = f"{len(todo.to_run)} of {len(todo.wanted)} trials to run"
        if todo.again:
            text += f" ({len(todo.again)} of them again: their networks are needed, and not in the store)"
        text += f", {len(todo.done) - len(todo.again)} done"
        if skipped := {trial.trial_id for trial in todo.failed} - {trial.trial_id for trial in todo.to_run}:
            errors = [row["error"] for row in self._failures() if row["trial_id"] in skipped]
            would = "would fail the same way again: `deepcuts status` says why"
            again = would if all(map(fails_again, errors)) else "--retry-failed runs them again"
            text += f", {len(skipped)} failed before ({again})"
        if todo.waiting:
            waits = "waits" if len(todo.waiting) == 1 else "wait"
            text += f", {len(todo.waiting)} {waits} for those that failed"
        return text

    def _failures(self) -> list[Row]:
        return self.store.read("trials", FAILURE_COLUMNS).table.to_pylist()

    def __str__(self) -> str:
        todo, cost = self.todo, self.cost
        lines = [f"sweep {self.file.name}, model {self.file.model}, store {self.store.uri}", f"  {self.counts}"]
        for dataset, counts in self.prepared.counts.items():
            ceiling = counts.parameters / (counts.parameters - counts.prunable)
            lines.append(
                f"  {dataset}: {self._examples(dataset)}; {counts.prunable:,} of {counts.parameters:,} parameters"
                f" prunable, largest compression {ceiling:.4f}"
            )
            lines += [f"    {note}" for note in counts.notes()]
            task, facts = self.prepared.spec.tasks[dataset], self.prepared.facts[dataset]
            told = inferred_in_words(self.file.dataset_rows()[dataset], task, facts)
            told += facts_in_words(facts, task, self.file.for_dataset(dataset).max_train_examples)
            lines += [f"    {line}" for line in told]
        lines += [f"  {fact}" for fact in self.facts]
        if not todo.to_run:
            return "\n".join([*lines, "  nothing to run"])
        passes = ", ".join(f"{count} {kind}" for kind, count in sorted(todo.passes().items())) or "none"
        tuned = counted(len(todo.fine_tunes()), "fine-tuning")
        lines.append(f"  shared work still to do: {tuned}; scoring passes: {passes}")
        if todo.steps:
            work = sum(self._own_seconds(trial) for trial in todo.steps)
            lines.append(f"  rounds on the way to these levels: {len(todo.steps)}, about {duration(work)} of work")
        if isinstance(self.file.strategies, dict) or self.file.axes:
            lines += _arms_in_words(todo, self.labels)
        hours = f" ({cost.gpu_hours:.1f} GPU-hours)" if self.gpus else ""
        at_a_time = f", {counted(cost.slots, 'trial')} at a time"
        lines.append(f"  about {duration(cost.wall_seconds)}{hours} on {self.machines.name}{at_a_time}")
        lines.append(f"    {START_SECONDS:.0f} s of it for Ray and its workers to start, on an idle machine")
        lines += [f"    {basis}" for basis in cost.basis]
        left = f"{size_text(cost.left_bytes)} of disk" if cost.left_bytes else "no more disk"
        lines.append(f"  {left} at the end, at most {size_text(cost.peak_bytes)} on the way")
        if (share := recommended(todo, self.store)) is not None:
            lines.append(f"  {share}")
        return "\n".join(lines)

    def _own_seconds(self, trial: TrialSpec) -> float:
        """The seconds of a round: its retraining, and the pass over the scoring batches that it alone needs."""
        passes = trial.passes if trial.previous else ()
        return sum(self.cost.seconds.get(key, 0.0) for key in (trial.trial_id, *(score.pass_id for score in passes)))

    def _examples(self, dataset: str) -> str:
        """The examples of each split, and of the training split how many are used."""
        there = self.prepared.examples[dataset]
        limit = self.file.for_dataset(dataset).max_train_examples
        used = {split: min(count, limit) if limit and split == "train" else count for split, count in there.items()}
        return ", ".join(
            f"{used[split]:,} {split}" if used[split] == count else f"{used[split]:,} of {count:,} {split}"
            for split, count in there.items()
        )

    def rows(self) -> list[Row]:
        """The wanted trials in order.

        A row has `trial_id, dataset, arm, strategy, compression, sparsity, seed, state`; where the sweep prunes in
        rounds also `round`, null for other trials, and whether it is a `step`, which no level asks for.
        """
        running = {trial.trial_id for trial in self.todo.to_run}
        chains = any(trial.chain for trial in self.todo.wanted)
        return [
            {
                "trial_id": trial.trial_id,
                "dataset": trial.dense.dataset,
                "arm": self.labels.get(trial.trial_id, trial.strategy),
                "strategy": trial.strategy,
                "compression": trial.compression,
                "sparsity": trial.sparsity,
                **({"round": trial.round if trial.chain else None, "step": is_step(trial)} if chains else {}),
                "seed": trial.dense.seed,
                "state": self._state(trial, trial.trial_id in running),
            }
            for trial in self.todo.wanted
        ]

    def _state(self, trial: TrialSpec, to_run: bool) -> str:
        if trial.trial_id in self.todo.waiting:
            return f"waits for {self.todo.waiting[trial.trial_id]}, which failed"
        status = self.todo.statuses.get(trial.trial_id)
        if status in ("completed", "failed") and to_run:
            return "to run again"
        before = {"completed": "done", "failed": "failed before", "interrupted": "to run (interrupted before)"}
        return before.get(status or "", "to run")


def _arms_in_words(todo: Plan, labels: Mapping[str, str]) -> list[str]:
    """Say of each arm how many of its trials are to run, and which scoring passes it adds or shares with others."""
    arms: dict[str, list[TrialSpec]] = {}
    for trial in todo.wanted:
        if trial.retrain is not None:
            arms.setdefault(labels.get(trial.trial_id, trial.strategy), []).append(trial)
    running = {trial.trial_id for trial in todo.to_run}
    passes = {
        arm: {
            score.pass_id: score.data
            for each in trials
            if each.trial_id in running
            for score in each.passes
            if score.score_id not in todo.scores_there
        }
        for arm, trials in arms.items()
    }
    width = max(map(len, arms), default=0)
    lines = ["  arms, which all prune the same fine-tuned networks:"]
    for arm, trials in arms.items():
        text = f"{sum(each.trial_id in running for each in trials)} of {len(trials)} to run"
        lines.append(f"    {arm:<{width}}  {text}, {_passes_in_words(arm, passes)}")
    return lines


def _passes_in_words(arm: str, passes: Mapping[str, Mapping[str, str]]) -> str:
    """Say which scoring passes an arm still needs, and whether other arms need them too."""
    if not passes[arm]:
        return "no scoring pass to make"
    count = Counter(passes[arm].values())
    text = f"scoring passes: {', '.join(f'{number} {kind}' for kind, number in sorted(count.items()))}"
    others = [other for other, needed in passes.items() if other != arm and set(needed) & set(passes[arm])]
    if not others:
        return f"{text}, for it alone"
    return f"{text}, shared with {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else "")
