"""Says how a launch ended: which trials are completed, which failed and why, which are left, and how to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote

from deepcuts.experiment.grid import describe
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.failures import FAILURE_COLUMNS, fails_again, failures_in_words
from deepcuts.store.tables import Row
from deepcuts.sweep.planned import SweepPlan
from deepcuts.wording import counted


@dataclass(frozen=True)
class OutsideError:
    """An error that stopped a trial from outside, such as a lost worker or a package that workers lack.

    A `lasting` one would come again with the next launch.
    """

    text: str
    lasting: bool


@dataclass(frozen=True)
class Launched:
    """What there is of a sweep after a launch. `str` of it says how many trials ended how, and how to go on.

    `signal` is the number of the signal that ended the launch early (None: it came to its end), and `errors` are what
    could not be written to the store. `outside` has, by trial, the errors that stopped some of those that are left from
    outside, and `failures` the rows of those that failed, with FAILURE_COLUMNS.
    """

    plan: SweepPlan
    completed: tuple[TrialSpec, ...]
    failed: tuple[TrialSpec, ...]
    left: tuple[TrialSpec, ...]
    signal: int | None = None
    errors: tuple[str, ...] = ()
    outside: Mapping[str, OutsideError] = field(default_factory=dict)
    failures: tuple[Row, ...] = ()

    def __str__(self) -> str:
        uri, wanted, labels = self.plan.store.uri, len(self.plan.todo.wanted), self.plan.labels
        shell = quote(uri)
        lines = [
            f"{len(self.completed)} of {wanted} trials completed, {len(self.failed)} failed, {len(self.left)} left;"
            f" store {uri}"
        ]
        lines += failures_in_words(self.failures, uri)
        stopped = {
            trial.trial_id: self.outside[trial.trial_id] for trial in self.left if trial.trial_id in self.outside
        }
        for error in dict.fromkeys(stopped.values()):
            ids = [trial_id for trial_id, each in stopped.items() if each == error]
            lines.append(
                f"  {counted(len(ids), 'trial')} stopped by an error from outside: {error.text}: deepcuts show {shell}"
                f" {ids[0]}"
            )
        waiting = self._waiting()
        for source in {each.trial_id: each for each in waiting.values()}.values():
            count = sum(each.trial_id == source.trial_id for each in waiting.values())
            wait = "1 waits" if count == 1 else f"{count} wait"
            told = describe(source, labels.get(source.trial_id))
            lines.append(f"  {wait} for {source.trial_id}, which failed: {told}")
        if self.signal is not None:
            lines.append("stopped early; what was under way is saved: run the same command again to go on")
            return "\n".join(lines)
        lasting = sum(error.lasting for error in stopped.values())
        if lasting:
            lines.append("running again will not help until that is mended (packages, code or disk of the workers)")
        if len(self.left) > lasting + len(waiting):
            lines.append("run the same command again to go on with what is left")
        hopeless = sum(fails_again(row["error"]) for row in self.failures)
        if hopeless:
            what = "what failed" if hopeless == len(self.failed) else f"{hopeless} of these"
            lines.append(f"{what} would fail the same way again, bit for bit: change the settings as the error says")
        if len(self.failed) > hopeless:
            then = ", then those that wait for them" if waiting else ""
            lines.append(f"run the same command with --retry-failed to try the failed ones again{then}")
        if not self.left and not self.failed:
            lines.append(f"next: deepcuts curves {shell}   deepcuts iou {shell}   deepcuts table {shell}")
        return "\n".join(lines)

    def _waiting(self) -> dict[str, TrialSpec]:
        """Return, by its id, the failed trial that each of those that are left builds on, where there is one."""
        failed, found = {trial.trial_id for trial in self.failed}, {}
        for trial in self.left:
            source = trial.builds_on
            while source is not None and source.trial_id not in failed:
                source = source.builds_on
            if source is not None:
                found[trial.trial_id] = source
        return found


def launched(
    planned: SweepPlan,
    signal: int | None = None,
    errors: tuple[str, ...] = (),
    outside: Mapping[str, OutsideError] | None = None,
) -> Launched:
    """Read from the store what there is of a sweep after a launch."""
    statuses = planned.store.statuses()
    by_status: dict[str, list[TrialSpec]] = {"completed": [], "failed": [], "left": []}
    for trial in planned.todo.wanted:
        status = statuses.get(trial.trial_id, "left")
        by_status[status if status in by_status else "left"].append(trial)
    completed, failed, left = map(tuple, by_status.values())
    ids = {trial.trial_id for trial in failed}
    rows = planned.store.read("trials", FAILURE_COLUMNS).table.to_pylist() if ids else []
    failures = tuple(row for row in rows if row["trial_id"] in ids)
    return Launched(planned, completed, failed, left, signal, errors, outside or {}, failures)
