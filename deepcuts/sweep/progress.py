"""Shows a running sweep: a live board on a terminal or in a notebook, plain lines where the output goes elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepcuts.experiment.grid import describe
from deepcuts.experiment.spec import TrialSpec
from deepcuts.wording import STEPS, duration

# In a notebook: how often the board is shown anew, and how many of the last results it has.
NOTEBOOK_SECONDS = 1.0
LAST_SHOWN = 5


class Progress:
    """Counts the trials of a launch and shows where the running ones are. Nothing in here may fail a sweep."""

    def __init__(self, console: Console, total: int, already_done: int) -> None:
        self.console = console
        self.total, self.already_done = total, already_done
        self.completed: list[Mapping[str, Any]] = []
        self.failed: list[Mapping[str, Any]] = []
        self._running: dict[str, tuple[TrialSpec, str, int, int]] = {}
        self._began = time.monotonic()
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
        self._running[trial.trial_id] = trial, "starting", 0, 0
        self._refresh()

    def heard(self, trial_id: str, stage: str, epoch: int, step: int) -> None:
        if trial_id in self._running:
            self._running[trial_id] = self._running[trial_id][0], stage, epoch, step
        self._refresh()

    def _refresh(self) -> None:
        """Show the board in a notebook; a terminal does so by itself, and a file gets lines alone."""
        if self._cell is not None and self._cell.is_due():
            self._cell.show(self._board())

    def ended(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """Note that a trial has ended; `row` has the columns of its row in `trials`."""
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        failed = row.get("status") != "completed"
        (self.failed if failed else self.completed).append(row)
        count = f"[{self.already_done + len(self.completed)}/{self.total}]"
        stage = str(row.get("error_stage"))
        text = f"failed in {STEPS.get(stage, stage)}: {row.get('error')}" if failed else _result(row)
        line = Text.assemble((count, "dim"), f" {describe(running[0])}: ", (text, "red" if failed else ""))
        self._last.append(line)
        if self._cell is None or failed:  # a notebook shows the last lines on its board: a thousand would fill it
            self.say(line)
        self._refresh()

    def interrupted(self, trial_id: str) -> None:
        self._running.pop(trial_id, None)

    def eta_seconds(self) -> float | None:
        """Return the seconds to go at the pace so far; None before any trial has ended."""
        through = len(self.completed) + len(self.failed)
        left = self.total - self.already_done - through
        return (time.monotonic() - self._began) / through * left if through else None

    def _board(self) -> Group:
        eta = self.eta_seconds()
        done = self.already_done + len(self.completed)
        head = f"{done} of {self.total} done, {len(self._running)} running, {len(self.failed)} failed, "
        head += f"{duration(time.monotonic() - self._began)} so far, "
        head += f"about {duration(eta)} to go" if eta is not None else "time to go not known yet"
        table = Table.grid(padding=(0, 2))
        for trial, stage, epoch, step in list(self._running.values()):
            table.add_row(describe(trial), Text(_where(trial, stage, epoch, step), "cyan"))
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


def _where(trial: TrialSpec, stage: str, epoch: int, step: int) -> str:
    name = STEPS.get(stage, stage)
    if stage == "dense":
        return f"{name}, epoch {epoch + 1} of {trial.dense.finetune.epochs}, step {step}"
    if stage == "retrained" and trial.retrain is not None:
        return f"{name}, epoch {epoch + 1} of {trial.retrain.epochs}, step {step}"
    return f"{name}, batch {step} of at most {trial.score.batches}" if stage == "score" else name


def _result(row: Mapping[str, Any]) -> str:
    value = row["dense"] if row.get("retrained") is None else row["retrained"]
    text = f"{row['metric']} {value:.3f}"
    if row.get("retrained") is not None:
        text += f" (dense {row['dense']:.3f}), sparsity {row['sparsity']:.1%}"
    return f"{text}, {duration(row['total_seconds'])}"
