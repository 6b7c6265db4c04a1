"""Prints one trial of a store with how to run it again, and how trials failed: those that failed alike once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcuts.store.failures import (
    FAILURE_COLUMNS,
    fails_again,
    failures_in_words,
    run_one_command,
    stage_in_words,
)

if TYPE_CHECKING:
    from deepcuts.store.store import Store


def print_failures(store: Store) -> None:
    """Print how the trials that a sweep wants have failed by themselves; nothing where none has."""
    wanted = {row["trial_id"] for row in store.read("sweeps", ["trial_id"]).table.to_pylist()}
    rows = store.read("trials", FAILURE_COLUMNS).table.to_pylist()
    failed = [row for row in rows if row["failure"] == "trial" and row["trial_id"] in wanted]
    for line in failures_in_words(failed, store.uri):
        print(line)


def print_trial(row: Mapping[Any, Any]) -> None:
    """Print the row of a trial, a line for each value: first why it failed, if it did, and last its traceback."""
    if row["status"] == "failed":
        print(f"failed in {stage_in_words(row['error_stage'])}: {row['error'] or 'no error was recorded'}\n")
    known = {name: value for name, value in row.items() if value is not None}
    width = max(len(str(name)) for name in row)
    named = [name for name in ("trial_id", "sweep", "arm") if name in known]
    for name in sorted(dict.fromkeys([*named, *known]), key=lambda name: name == "spec"):  # the longest comes last
        if name != "traceback":
            print(f"{name:<{width}}  {known[name]}")
    if known.get("traceback"):
        print(f"\n{known['traceback']}")


def print_again(row: Mapping[Any, Any], uri: str) -> None:
    """Print the command that runs a trial again, and whether that helps."""
    if fails_again(row["error"]):
        print("\nit would fail the same way again, bit for bit: change the settings as the error says")
    print(f"\nrun it again, in this process: {run_one_command(row, uri)}")
