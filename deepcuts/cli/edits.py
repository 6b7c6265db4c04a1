"""The verbs that change what a store holds: remove, rename, merge. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys

import deepcuts
from deepcuts.cli.arguments import ONLY, STORE, argument, existing, verb
from deepcuts.cli.printing import DONE, INCOMPLETE, print_records
from deepcuts.cli.upkeep import refuse_while_running
from deepcuts.wording import counted, size_text

MOST_SHOWN = 20
YES = argument("--yes", action="store_true", help="remove without asking")
SWEEP_NAME = argument("--sweep", metavar="NAME", help="only the trials that this sweep wants")


@verb("rm", "remove trials, or a sweep with the trials that no other wants, for good", STORE, SWEEP_NAME, ONLY, YES)
def rm_verb(args: argparse.Namespace) -> int:
    """Remove what `--sweep` and `--only` choose, after showing it and asking."""
    from deepcuts.analysis.selection import chosen_trials

    if not args.sweep and not args.only:
        raise ValueError("say what to remove: --sweep NAME, --only KEY=VALUE,..., or both")
    if "sweep" in (args.only or {}):
        raise ValueError("--only sweep=NAME: say --sweep NAME, which leaves the trials that other sweeps want")
    store = existing(args.store_uri)
    refuse_while_running(store, "remove")
    columns = ["trial_id", "dataset", "arm", "compression", "sparsity_asked", "seed", "status"]
    chosen = chosen_trials(store, columns, args.sweep, args.only, steps=True)
    planned = deepcuts.plan_removal(store, list(chosen["trial_id"]), None if args.only else args.sweep)
    shown = chosen[chosen["trial_id"].isin(planned.trials)]
    print_records(shown[columns].head(MOST_SHOWN))
    if len(shown) > MOST_SHOWN:
        print(f"and {len(shown) - MOST_SHOWN} more")
    what = counted(len(planned.trials), "trial") + (f" and the sweep {planned.sweep}" if planned.sweep else "")
    with_stages = f", with {counted(len(planned.stages), 'shared stage')} ({size_text(planned.bytes)})"
    print(f"to remove: {what}{with_stages if planned.stages else ''}")
    if waiting := chosen.attrs["waiting"]:
        print(f"there is no trial yet with {', '.join(waiting)}")
    if stay := len(chosen) - len(shown):
        print(f"not to remove, as another sweep wants them: {counted(stay, 'trial')}")
    if not args.yes:
        if not _agreed():
            print("nothing was removed")
            return DONE
        refuse_while_running(store, "remove")  # a run may have begun while the question was open
    deepcuts.remove(store, planned)
    print(f"removed {what}")
    return DONE


def _agreed() -> bool:
    """Ask. Raises ValueError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ValueError("nobody is there to ask; give --yes to remove this")
    return input("remove this for good? [y/N] ").strip().lower() in ("y", "yes")


@verb(
    "rename",
    "rename a sweep of a store",
    argument("store_uri", metavar="STORE", help="a folder, or a file, s3, gs or abfs URI"),
    argument("sweep", metavar="SWEEP", help="its name now"),
    argument("name", metavar="NAME", help="its name from now on"),
)
def rename_verb(args: argparse.Namespace) -> int:
    """Rename a sweep in its table, its file and the rows of its trials."""
    store = existing(args.store_uri)
    refuse_while_running(store, "rename")
    rows = deepcuts.rename_sweep(store, args.sweep, args.name)
    wanted = sum(row["sweep"] == args.name for row in store.read("sweeps", ["sweep"]).table.to_pylist())
    print(
        f"renamed sweep {args.sweep} to {args.name}: it wants {counted(wanted, 'trial')} and has run {rows:,};"
        f" set name: {args.name} in its sweep file too"
    )
    return DONE


@verb(
    "merge",
    "copy into a store what another has and it lacks",
    argument("store_uri", metavar="STORE", help="the store to fill"),
    argument("other_uri", metavar="OTHER", help="the store to read; it stays as it is"),
)
def merge_verb(args: argparse.Namespace) -> int:
    """Merge two stores; name the trials that both have with other results."""
    store, other = existing(args.store_uri), existing(args.other_uri)
    for each in (store, other):
        refuse_while_running(each, "merge")
    merged = deepcuts.merge_stores(store, other)
    trials, sweeps = counted(len(merged.trials), "trial"), counted(len(merged.sweeps), "sweep")
    print(f"copied {trials}, {sweeps} and {counted(merged.artifacts, 'artifact')}")
    for trial_id in merged.conflicts:
        print(f"deepcuts: {trial_id} has other results in {other.uri}; kept as it was in {store.uri}", file=sys.stderr)
    return INCOMPLETE if merged.conflicts else DONE
