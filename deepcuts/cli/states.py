"""The verbs that say how far a store is: of each sweep, and of one trial. Each returns the exit code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import deepcuts
from deepcuts.cli.arguments import JSON, STORE, TRIAL, argument, existing, opened, verb
from deepcuts.cli.printing import DONE, exit_code, print_as_asked, print_degenerate, print_json, print_records
from deepcuts.store.failures import (
    FAILURE_COLUMNS,
    fails_again,
    failures_in_words,
    run_one_command,
    stage_in_words,
)
from deepcuts.wording import counted

if TYPE_CHECKING:
    from deepcuts.store.store import Store


@verb(
    "status",
    "how far each sweep of a store is",
    STORE,
    argument("--watch", action="store_true", help="a live view, until Ctrl-C"),
    argument("--by-arm", action="store_true", help="a row for each arm of a sweep"),
    JSON,
)
def status_verb(args: argparse.Namespace) -> int:
    """How far every sweep of a store is; with --watch again and again, until Ctrl-C."""
    store = opened(args.store_uri) if args.watch else existing(args.store_uri)  # one may watch before the run begins
    if args.watch:
        from deepcuts.cli.watch import watch_store

        watch_store(store)
        return DONE
    frame = deepcuts.status(store, args.by_arm)
    if args.json or len(frame):
        print_as_asked(frame, args)
    else:
        print(f"store {store.uri} holds no sweep yet")
    if frame["failed"].any() and not args.json:
        for line in failures_in_words(_failures(store), store.uri):
            print(line)
    if (others := frame.attrs["unwanted"]) and not args.json:
        print(f"{counted(others, 'completed trial')} that no sweep wants now; the other views have them too")
    return exit_code(frame.attrs["damaged"])


def _failures(store: Store) -> list[dict[str, Any]]:
    """The rows of the trials that failed by themselves and that a sweep wants."""
    wanted = {row["trial_id"] for row in store.read("sweeps", ["trial_id"]).table.to_pylist()}
    rows = store.read("trials", FAILURE_COLUMNS).table.to_pylist()
    return [row for row in rows if row["failure"] == "trial" and row["trial_id"] in wanted]


@verb("show", "one trial: everything, with its traceback and the command that runs it again", STORE, TRIAL, JSON)
def show_verb(args: argparse.Namespace) -> int:
    """Everything about one trial."""
    store = existing(args.store_uri)
    frame = deepcuts.show(store, args.trial)
    row, code = frame.iloc[0].to_dict(), exit_code(frame.attrs["damaged"])
    if args.json:
        print_json(frame)
        return code
    known = {name: value for name, value in row.items() if value is not None}
    if row["status"] == "failed":
        print(f"failed in {stage_in_words(row['error_stage'])}: {row['error'] or 'no error was recorded'}\n")
    width = max(len(str(name)) for name in row)
    named = [name for name in ("trial_id", "sweep", "arm") if name in known]
    for name in sorted(dict.fromkeys([*named, *known]), key=lambda name: name == "spec"):  # the longest comes last
        if name != "traceback":
            print(f"{name:<{width}}  {known[name]}")
    if known.get("traceback"):
        print(f"\n{known['traceback']}")
    chain = deepcuts.rounds(store, row["trial_id"])
    if len(chain):
        print("\nrounds:")
        print_records(chain)
    print_degenerate(store, frame)
    if fails_again(row["error"]):
        print("\nit would fail the same way again, bit for bit: change the settings as the error says")
    print(f"\nrun it again, in this process: {run_one_command(row, store.uri)}")
    return code
