"""Shows a running sweep: a live board on a terminal or in a notebook, plain lines where the output goes elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from io import StringIO
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepcuts.experiment.grid import describe
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.failures import stage_in_words
from deepcuts.sweep.pace import Pace
from deepcuts.wording import duration, place_in_words

# In a notebook: how often the board is shown anew, and how many of the last results it has.
NOTEBOOK_SECONDS = 1.0
LAST_SHOWN = 5
# The time to go is estimated at most this often, and takes at most a twentieth of the time.
ESTIMATE_SECONDS = 1.0


class Progress:
    """Counts the trials of a launch and shows where the running ones are. Nothing in here may fail a sweep."""

    def __init__(
        self, console: Console, total: int, already_done: int, pace: Pace, labels: Mapping[str, str] | None = None
    ) -> None:
        self.console = console
        self.total, self.already_done = total, already_done
        self.completed: list[Mapping[str, Any]] = []
        self.failed: list[Mapping[str, Any]] = []
        self._pace = pace
        self._labels = labels or {}  # of the arms, by trial
        self._running: dict[str, tuple[TrialSpec, Mapping[str, Any] | None]] = {}
        self._through: set[str] = set()
        self._began = time.monotonic()
        self._estimated = self._began, pace.seconds_left()
        self._next_estimate = 0.0
        self._last: deque[Text] = deque(maxlen=LAST_SHOWN)
        self._cell = _Cell() if console.is_jupyter else None
        self._live = Live(console=console, refresh_per_second=2, transient=True, get_renderable=self._board)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        if self._cell is not None:
            self._cell.show(self._board())

    def say(self, line: str | Text) -> None:
        """Print a line above the board."""
        if self._cell is None:
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)
        else:
            sys.stdout.write(f"{line}\n")

    def started(self, trial: TrialSpec) -> None:
        """Note that a worker has begun a trial, perhaps once more."""
        self._running[trial.trial_id] = trial, None
        self._pace.started(trial)
        self._refresh()

    def heard(self, trial_id: str, place: Mapping[str, Any]) -> None:
        """Note where a trial is, by its `place_of`."""
        if trial_id in self._running:
            self._running[trial_id] = self._running[trial_id][0], place
            self._pace.heard(trial_id, place)
        self._refresh()

    def _refresh(self) -> None:
        """Estimate anew when it is time to, and show the board in a notebook; a terminal does that by itself."""
        now = time.monotonic()
        if now >= self._next_estimate:
            self._estimated = now, self._pace.seconds_left()
            self._next_estimate = now + max(ESTIMATE_SECONDS, 20 * (time.monotonic() - now))
        if self._cell is not None and self._cell.is_due():
            self._cell.show(self._board())

    def ended(self, trial: TrialSpec, row: Mapping[str, Any]) -> None:
        """Note that a trial has ended; `row` has the columns of its row in `trials`."""
        self._running.pop(trial.trial_id, None)
        if trial.trial_id in self._through:
            return
        self._through.add(trial.trial_id)
        failed = row.get("status") != "completed"
        self._pace.ended(trial.trial_id, row.get("total_seconds"), not failed)
        (self.failed if failed else self.completed).append(row)
        count = f"[{self.already_done + len(self._through)}/{self.total}]"
        text = f"failed in {stage_in_words(row.get('error_stage'))}: {row.get('error')}" if failed else _result(row)
        line = Text.assemble((count, "dim"), f" {self._describe(trial)}: ", (text, "red" if failed else ""))
        self._last.append(line)
        if self._cell is None or failed:  # a notebook shows the last lines on its board: a thousand would fill it
            self.say(line)
        self._refresh()

    def _describe(self, trial: TrialSpec) -> str:
        return describe(trial, self._labels.get(trial.trial_id))

    def interrupted(self, trial_id: str) -> None:
        """Note that a trial was stopped, or lost its worker: it waits again."""
        if self._running.pop(trial_id, None) is not None:
            self._pace.interrupted(trial_id)

    def found(self, stages: Iterable[str], trials: Collection[str]) -> None:
        """Note what another launch has made: ids of stages, and of trials that are done."""
        self.already_done += len(trials)
        self._pace.found(stages, trials)

    def seconds_left(self) -> float:
        """Return the seconds to go, as last estimated and counted down since; without news not below half of it."""
        at, estimated = self._estimated
        return max(estimated / 2, estimated - (time.monotonic() - at))

    def _board(self) -> Group:
        running = list(self._running.values())
        done = self.already_done + len(self.completed)
        waiting = self.total - done - len(self.failed) - len(running)
        head = f"{done} of {self.total} done, {len(running)} running, {len(self.failed)} failed, {waiting} waiting, "
        head += f"{duration(time.monotonic() - self._began)} so far, about {duration(self.seconds_left())} to go"
        table = Table.grid(padding=(0, 2))
        for trial, place in running:
            table.add_row(self._describe(trial), Text("starting" if place is None else place_in_words(place), "cyan"))
        return Group(Text(head, "bold"), table, *(self._last if self._cell is not None else ()))


class _Cell:
    """The one output of a notebook's cell that the board is shown in, again and again."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0

    def is_due(self) -> bool:
        return time.monotonic() - self._shown > NOTEBOOK_SECONDS

    def show(self, board: Group) -> None:
        from IPython.display import display

        self._shown = time.monotonic()
        page = Console(file=StringIO(), width=120, color_system=None, force_jupyter=False)
        page.print(board)
        text = {"text/plain": page.file.getvalue()}  # type: ignore[attr-defined]
        if self._handle is None:
            self._handle = display(text, raw=True, display_id=True)
        else:
            self._handle.update(text, raw=True)


def _result(row: Mapping[str, Any]) -> str:
    value = row["dense"] if row.get("retrained") is None else row["retrained"]
    text = f"{row['metric']} {value:z.3f}"
    if row.get("retrained") is not None:
        text += f" (dense {row['dense']:z.3f}), sparsity {row['sparsity']:.1%}"
    return f"{text}, {duration(row['total_seconds'])}"
