"""Shows running sweeps live, from any machine that sees the store: it reads rows and beats, and writes nothing."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.store.failures import stage_in_words
from deepcuts.store.live import STALE_SECONDS, Watch
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.wording import duration, level, place_in_words

REFRESH_SECONDS = 2.0
MOST_RUNNING, MOST_ENDED = 24, 6

_COLUMNS = ["trial_id", "dataset", "arm", "strategy", "compression", "sparsity_asked", "seed", "status", "failure"]
_COLUMNS += ["error_stage", "error", "metric", "dense", "retrained", "total_seconds", "finished_at"]


@dataclass
class Seen:
    """What a store held at one look: rows by sweep and by trial, beats by trial and of each launch.

    `away` says why it could not be read.
    """

    sweeps: dict[str, list[Row]] = field(default_factory=dict)
    trials: dict[str, Row] = field(default_factory=dict)
    running: dict[str, Row] = field(default_factory=dict)
    launches: list[Row] = field(default_factory=list)
    away: str | None = None


class Watcher:
    """Looks at a store again and again, and remembers when each beat last moved."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watch = Watch(store, "")
        self._seen = Seen()

    def look(self) -> Seen:
        """Return what there is now; if the store cannot be read, what there was, and the reason."""
        try:
            self._seen = self._read()
        except OSError as error:
            self._seen.away = str(error).splitlines()[0]
        return self._seen

    def _read(self) -> Seen:
        seen = Seen()
        for row in self._store.read("sweeps").table.to_pylist():
            seen.sweeps.setdefault(row["sweep"], []).append(row)
        seen.trials = {row["trial_id"]: row for row in self._store.read("trials", _COLUMNS).table.to_pylist()}
        for key, state in self._watch.look().items():
            folder, _, name = key.partition("/")
            if folder == "running":
                seen.running[name.removesuffix(".json")] = state
        seen.launches = [state for state in self._watch.launches() if state["still"] < STALE_SECONDS]
        return seen


def watch_store(store: Store) -> None:
    """Show the store until Ctrl-C. Where the output is no terminal, print what has changed until nobody is at work."""
    watcher, console = Watcher(store), Console(width=None if sys.stdout.isatty() else 160)
    if not console.is_terminal:
        with suppress(KeyboardInterrupt):
            if _has_begun(watcher, store.uri):
                _print_changes(watcher, store.uri, console)
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                began = time.monotonic()
                live.update(watch_board(watcher.look(), store.uri), refresh=True)
                # Looking takes at most a fifth of the time, however large the store.
                time.sleep(max(REFRESH_SECONDS, 4 * (time.monotonic() - began)))
        except KeyboardInterrupt:
            return


def _print_changes(watcher: Watcher, uri: str, console: Console) -> None:
    """Print the board whenever a trial has ended, until no launch has been at work for as long as one may be silent."""
    shown, silent_since = None, time.monotonic()
    while True:
        seen = watcher.look()
        if (ended := len(seen.trials)) != shown:
            console.print(watch_board(seen, uri))
            shown = ended
        if seen.launches or seen.running:
            silent_since = time.monotonic()
        if not _waiting(seen) or time.monotonic() - silent_since > STALE_SECONDS:
            return
        time.sleep(REFRESH_SECONDS)


def _waiting(seen: Seen) -> bool:
    """Whether a sweep wants a trial that has not ended."""
    return any(row["trial_id"] not in seen.trials for rows in seen.sweeps.values() for row in rows)


def _has_begun(watcher: Watcher, uri: str) -> bool:
    """Wait until the store has a sweep, and say so; False where Ctrl-C ends the waiting."""
    seen = watcher.look()
    if not seen.sweeps:
        why = f" (it cannot be read just now: {seen.away})" if seen.away else ""
        sys.stderr.write(f"no run has begun in {uri} yet{why}: waiting for it, until Ctrl-C\n")
    try:
        while not seen.sweeps:
            time.sleep(REFRESH_SECONDS)
            seen = watcher.look()
    except KeyboardInterrupt:
        return False
    return True


def watch_board(seen: Seen, uri: str) -> RenderableType:
    """Draw a bar for each sweep, the trials at work, and the trials that ended last."""
    parts: list[RenderableType] = [Text(f"{uri}  {time.strftime('%H:%M:%S')}", "dim")]
    if seen.away is not None:
        parts.append(Text(f"cannot be read just now, this is older: {seen.away}", "red"))
    if not seen.sweeps:
        parts.append(Text("no run has begun here yet: waiting for it"))
    else:
        parts.append(_sweeps(seen))
    names = {row["trial_id"]: row for rows in seen.sweeps.values() for row in rows}
    if seen.running:
        parts += [Text(), _running(seen, names)]
    ended = [row for row in seen.trials.values() if row["finished_at"] is not None]
    if ended:
        parts += [Text(), _ended(sorted(ended, key=lambda row: row["finished_at"], reverse=True)[:MOST_ENDED])]
    return Group(*parts)


def _sweeps(seen: Seen) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, rows in sorted(seen.sweeps.items()):
        states = [seen.trials.get(row["trial_id"], {}) for row in rows]
        done = sum(state.get("status") == "completed" for state in states)
        failed = sum(state.get("failure") == "trial" for state in states)
        working = sum(
            _alive(seen, row["trial_id"]) and state.get("status") != "completed"  # one that runs again is done
            for row, state in zip(rows, states, strict=True)
        )
        left = len(rows) - done - failed
        words = f"{done} of {len(rows)} done, {working} running, {failed} failed, {left - working} waiting"
        if left:
            words += f", {_to_go(seen, name, working)}"
        bar = ProgressBar(total=max(1, len(rows)), completed=done, width=30)
        table.add_row(Text(name, "bold"), bar, Text(words, "red" if failed else ""))
    return table


def _to_go(seen: Seen, sweep: str, working: int) -> str:
    """Say how long the launch of a sweep still takes, as it last wrote itself, counted down since that moved."""
    launches = [state for state in seen.launches if state.get("sweep") == sweep]
    if not launches and not working:
        return "nobody is at work on them"
    if not launches:  # an older version's
        return "time to go not known"
    return f"about {duration(max(0.0, min(state['to_go'] - state['still'] for state in launches)))} to go"


def _running(seen: Seen, names: Mapping[str, Row]) -> Table:
    table = Table("trial", "", "at", "host", "beat", box=None, pad_edge=False, header_style="dim")
    for key, state in list(seen.running.items())[:MOST_RUNNING]:
        cells = [key, _name(names.get(key)), place_in_words(state), state.get("host")]
        color = "green" if _alive(seen, key) else "red"
        table.add_row(*(Text(str(cell)) for cell in cells), Text(_beat(state["still"]), color))
    if len(seen.running) > MOST_RUNNING:
        table.add_row(Text(f"and {len(seen.running) - MOST_RUNNING} more", "dim"))
    return table


def _alive(seen: Seen, trial_id: str) -> bool:
    return trial_id in seen.running and bool(seen.running[trial_id]["still"] < STALE_SECONDS)


def _beat(still: float) -> str:
    if still < STALE_SECONDS:
        return "alive"
    return "its process is gone" if still == math.inf else f"no beat for {duration(still)}"


def _ended(rows: Sequence[Row]) -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        value = row["dense"] if row["retrained"] is None else row["retrained"]
        failed = row["status"] != "completed"
        words = (
            f"failed in {stage_in_words(row['error_stage'])}: {row['error']}"
            if failed
            else f"{row['metric']} {value:z.3f}"
        )
        at = row["finished_at"].strftime("%H:%M:%S UTC")
        table.add_row(Text(at, "dim"), Text(_name(row)), Text(words.splitlines()[0], "red" if failed else ""))
    return table


def _name(row: Row | None) -> str:
    if row is None:
        return "of no sweep here"
    pruned = row["strategy"] not in NOT_PRUNED
    asked = f" {level(row['compression'], row['sparsity_asked'])}" if pruned else ""
    return f"{row['dataset']} {row['arm'] or row['strategy']}{asked} seed {row['seed']}"
