"""Decides which trials of a sweep are left to run: wanted minus done (no Ray)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deepcuts.experiment.chain import is_step, selected_with_needs
from deepcuts.experiment.sharing import Shared, shared, snapshot_file
from deepcuts.experiment.spec import TrialSpec
from deepcuts.names import Selection, chosen_values, nearest, selected, selection_text
from deepcuts.store.networks import find_network
from deepcuts.store.store import Store
from deepcuts.wording import counted


@dataclass(frozen=True)
class Plan:
    """The wanted trials, and what the store holds of them. `to_run` is in the order of the sweep.

    `left_there` are the completed trials that others which run build on, and `waiting` has the trials that cannot run
    because one that they build on failed before: by id, that one's id.
    """

    wanted: tuple[TrialSpec, ...]
    statuses: Mapping[str, str]
    to_run: tuple[TrialSpec, ...]
    dense_there: frozenset[str] = frozenset()
    scores_there: frozenset[str] = frozenset()
    left_there: frozenset[str] = frozenset()
    waiting: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> list[TrialSpec]:
        return [trial for trial in self.wanted if self.statuses.get(trial.trial_id) == "completed"]

    @property
    def failed(self) -> list[TrialSpec]:
        """Trials that failed by themselves; they run again only when that is asked for."""
        return [trial for trial in self.wanted if self.statuses.get(trial.trial_id) == "failed"]

    @property
    def steps(self) -> list[TrialSpec]:
        """Rounds that are to run for later ones alone, and not as a level of their own."""
        return [trial for trial in self.to_run if is_step(trial)]

    @property
    def again(self) -> frozenset[str]:
        """Ids of completed trials that run once more, because their network is wanted and was not kept."""
        return frozenset(trial.trial_id for trial in self.to_run if self.statuses.get(trial.trial_id) == "completed")

    def fine_tunes(self) -> set[str]:
        """Dense ids of the fine-tunings that are still to be made."""
        return {trial.dense.dense_id for trial in self.to_run} - self.dense_there

    def passes(self) -> Counter[str]:
        """Count the passes over scoring batches that are still to be made, by kind."""
        missing = {
            score.pass_id: score.data
            for trial in self.to_run
            for score in trial.passes
            if score.score_id not in self.scores_there
        }
        return Counter(missing.values())


def make_plan(
    trials: Sequence[TrialSpec],
    store: Store,
    retry_failed: bool = False,
    keep_models: bool = False,
) -> Plan:
    """Plan to run what is not completed; trials that failed by themselves only with `retry_failed`.

    With `keep_models` a completed trial whose network was not kept runs again; so does the round before of a trial that
    is to run, where the store has lost its network. What builds on a failed trial waits. Raises OSError where the store
    cannot be read.
    """
    statuses = store.statuses()
    asked = {trial.trial_id for trial in trials if _is_left(trial, statuses, store, retry_failed, keep_models)}
    again, there = _lost_and_found(trials, asked, statuses, store)
    running = asked | again
    waiting: dict[str, str] = {}
    for trial in trials:  # sources come first
        if trial.builds_on is not None and trial.trial_id in running:
            source = trial.builds_on.trial_id
            if statuses.get(source) == "failed" and source not in asked:
                waiting[trial.trial_id] = source
            elif source in waiting:
                waiting[trial.trial_id] = waiting[source]
    to_run = [trial for trial in trials if trial.trial_id in running and trial.trial_id not in waiting]
    dense = {trial.dense.dense_id for trial in to_run}
    scores = {score.score_id for trial in to_run for score in trial.passes}
    return Plan(
        tuple(trials),
        statuses,
        tuple(to_run),
        frozenset(stored_dense(store, dense, shared(trials))),
        frozenset(key for key in scores if key and store.artifact("scores", key)),
        frozenset(there - running),
        waiting,
    )


def _is_left(
    trial: TrialSpec, statuses: Mapping[str, str], store: Store, retry_failed: bool, keep_models: bool
) -> bool:
    """Whether a trial is to run for its own sake."""
    status = statuses.get(trial.trial_id)
    if status == "completed":
        return keep_models and trial.retrain is not None and store.artifact("models", trial.trial_id) is None
    return status != "failed" or retry_failed


def _lost_and_found(
    trials: Sequence[TrialSpec], asked: Collection[str], statuses: Mapping[str, str], store: Store
) -> tuple[set[str], set[str]]:
    """Return the completed trials that some which run build on: those that lost their network, and the others."""
    lost, there = set[str](), set[str]()
    for trial in reversed(trials):  # a round that runs again needs the one before it
        source = trial.builds_on
        if source is None or not (trial.trial_id in asked or trial.trial_id in lost):
            continue
        key = source.trial_id
        if statuses.get(key) == "completed" and key not in lost and (key not in there or trial.previous):
            found = trial.previous is None or find_network(store, key) is not None
            (there if found else lost).add(key)
    return lost, there


def stored_dense(store: Store, dense_ids: Iterable[str], wanted: Shared) -> set[str]:
    """Return the fine-tuned networks that a store has with all steps that trials rewind to; others are made anew."""
    found = set()
    for key in dense_ids:
        meta = store.artifact("dense", key)
        if meta is not None and {snapshot_file(step) for step in wanted.steps.get(key, ())} <= set(meta["files"]):
            found.add(key)
    return found


def only_those(
    trials: Sequence[TrialSpec], only: Selection, labels: Mapping[str, str] | None = None
) -> list[TrialSpec]:
    """Select the trials that `--only key=value,...` names, one of the values of each key, and those that they build on.

    `labels` has those of the arms, by the trials' ids (default: the strategies).

    Raises ValueError for an unknown key, for a value that no trial of the sweep has, and if none is left.
    """
    known: dict[str, Callable[[TrialSpec], object]] = {
        "trial": lambda trial: trial.trial_id,
        "dataset": lambda trial: trial.dense.dataset,
        "arm": lambda trial: (labels or {}).get(trial.trial_id, trial.strategy),
        "strategy": lambda trial: trial.strategy,
        "seed": lambda trial: trial.dense.seed,
        "compression": lambda trial: trial.compression,
        "sparsity": lambda trial: trial.sparsity,
    }
    keep = [True] * len(trials)
    for key, values in chosen_values(only).items():
        if key not in known:
            raise ValueError(f"--only: unknown key {key!r}{nearest(key, known) or ';'} known: {', '.join(known)}")
        matches = selected(key, values, [known[key](trial) for trial in trials])
        keep = [one and other for one, other in zip(keep, matches, strict=True)]
    if not any(keep):
        raise ValueError(f"--only {selection_text(only)}: no trial of the sweep has all of these")
    return selected_with_needs(trials, keep)


def no_longer_wanted(sweep: str, trials: Iterable[TrialSpec], store: Store) -> list[str]:
    """Say in a sentence how many trials the sweep of this name wanted before and does not want now, if there are any.

    Running it replaces what it wants: a file that was edited, or a narrower run with `--set seeds=[0]`.
    """
    wanted = {trial.trial_id for trial in trials}
    rows = store.read("sweeps", ["sweep", "trial_id"]).table.to_pylist()
    gone = [row for row in rows if row["sweep"] == sweep and row["trial_id"] not in wanted]
    if not gone:
        return []
    return [
        f"sweep {sweep!r} no longer wants {counted(len(gone), 'trial')} that it wanted before: what is done stays in"
        " the store, but `status` and `--sweep` leave it out; to keep both, give this one a name of its own (--set"
        " name=NAME)"
    ]
