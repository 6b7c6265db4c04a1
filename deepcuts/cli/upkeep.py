"""The verbs that look after a store: what is cached, fewer files, what is broken. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

import deepcuts
from deepcuts.cli.arguments import JSON, STORE, argument, existing, verb
from deepcuts.cli.printing import DONE, INCOMPLETE, print_json, print_records
from deepcuts.names import COMPACTED
from deepcuts.wording import counted, duration, size_text

if TYPE_CHECKING:
    from deepcuts.store.doctor import Finding
    from deepcuts.store.store import Store


def refuse_while_running(store: Store, why: str) -> None:
    """Raise ValueError while somebody is at work on the store."""
    from deepcuts.store.live import at_work

    if busy := at_work(store):
        raise ValueError(
            f"store {store.uri!r} is in use (trials, stages and launches at work: {len(busy)}); {why} when they end"
        )


@verb(
    "cache",
    "list the shared stages, who needs them, and what can be removed",
    STORE,
    JSON,
    argument("--gc", action="store_true", help="remove what no wanted trial needs"),
)
def cache_verb(args: argparse.Namespace) -> int:
    """List the shared stages; with `--gc` remove those that no wanted trial needs."""
    store = existing(args.store_uri)
    if args.gc:
        refuse_while_running(store, "collect")
    rows = deepcuts.collect_garbage(store) if args.gc else deepcuts.shared_stages(store)
    if args.json:
        print_json(rows)
        return DONE
    if not rows:
        print("nothing to remove" if args.gc else "no shared stages are kept")
        return DONE
    print_records([row | {"bytes": size_text(row["bytes"])} for row in rows])
    total, needed = sum(row["bytes"] for row in rows), sum(row["bytes"] for row in rows if row["needed"])
    if args.gc:
        print(f"removed {size_text(total)}")
    else:
        free = f"{size_text(total - needed)} of it can go (--gc)" if needed < total else "all of it needed"
        print(f"{size_text(total)}, {free}")
    return DONE


@verb("compact", "merge the rows of completed trials into one file per table", STORE, JSON)
def compact_verb(args: argparse.Namespace) -> int:
    """Merge the rows of completed trials."""
    store = existing(args.store_uri)
    refuse_while_running(store, "compact")
    rows = deepcuts.compact(store)
    if args.json:
        print_json(rows)
    elif rows:
        print_records(rows)
    else:
        print("nothing to merge")
    return DONE


@verb(
    "doctor",
    "find what is damaged in a store, and with --fix set it aside",
    STORE,
    JSON,
    argument("--fix", action="store_true", help="set aside what is damaged; the same run command then makes it again"),
)
def doctor_verb(args: argparse.Namespace) -> int:
    """Name what is broken; with `--fix` set it aside."""
    from deepcuts.store.live import at_work

    store = existing(args.store_uri)
    if args.fix:
        refuse_while_running(store, "mend")
    findings, aside = _examined(store, busy=not args.fix and bool(at_work(store))), ""
    fresh = findings
    while args.fix and (mended := [finding for finding in fresh if finding.mend in ("set aside", "delete")]):
        aside = deepcuts.mend_store(store, mended)
        if not any(COMPACTED in finding.path for finding in mended):
            break
        fresh = [finding for finding in _examined(store, busy=False) if finding not in findings]
        findings += fresh
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_records([{"path": each.path, "problem": each.problem, "mend": each.mend} for each in findings])
    return _conclude(store, findings, args.fix, aside, sys.stderr if args.json else sys.stdout)


def _examined(store: Store, busy: bool) -> list[Finding]:
    """Examine a store, and say how much was read and how long it took."""
    from deepcuts.experiment.metrics import FUNCTIONS
    from deepcuts.store.doctor import bytes_of_store

    files, size = bytes_of_store(store)
    print(f"reading {size_text(size)} in {counted(files, 'file')}", file=sys.stderr)
    began = time.monotonic()
    findings = deepcuts.examine_store(store, busy, FUNCTIONS)
    print(f"every byte was read, in {duration(time.monotonic() - began)}", file=sys.stderr)
    return findings


def _conclude(store: Store, findings: list[Finding], fix: bool, aside: str, to: TextIO) -> int:
    """Say what is to be done now, and return the exit code; `to` is where it is said of what was mended."""
    if all(finding.mend == "none" for finding in findings):
        known = "" if not findings else ", as far as can be told of what has no checksum"
        print(f"store {store.uri} is sound{known}", file=sys.stderr)
        return DONE
    if fix:
        moved = f"set aside below {store.uri}/{aside.partition('/')[0]}, or deleted; " if aside else ""
        print(f"{moved}run the sweep again to make anew what is missing", file=to)
        return DONE
    if any(finding.mend in ("set aside", "delete") for finding in findings):
        print("deepcuts doctor --fix sets these aside or deletes them, as said", file=sys.stderr)
    else:
        print("run the sweep again to make anew what is missing", file=sys.stderr)
    return INCOMPLETE
