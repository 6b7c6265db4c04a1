"""The verbs that look after a store: what is cached, what is broken, fewer files. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from deepcuts import cache as shared
from deepcuts import compact as merging
from deepcuts import doctor as health
from deepcuts.beats import alive
from deepcuts.cost import size
from deepcuts.output import DONE, INCOMPLETE, print_json, print_records
from deepcuts.store import Store


def _refuse_while_running(store: Store, why: str) -> None:
    """Raises ValueError while somebody is at work on the store."""
    if busy := alive(store):
        raise ValueError(f"store {store.uri!r} is in use: {len(busy)} beats are moving; {why} when they are through")


def cache(args: argparse.Namespace) -> int:
    """List the shared stages; with `--gc` remove those that no wanted trial needs."""
    store = Store(args.store_uri)
    if args.gc:
        _refuse_while_running(store, "collect")
    rows = shared.collect(store) if args.gc else shared.contents(store)
    if args.json:
        print_json(rows)
        return DONE
    print_records([row | {"bytes": size(row["bytes"])} for row in rows])
    total, needed = sum(row["bytes"] for row in rows), sum(row["bytes"] for row in rows if row["needed"])
    print(f"removed {size(total)}" if args.gc else f"{size(total)}, of which {size(total - needed)} can go (--gc)")
    return DONE


def compact(args: argparse.Namespace) -> int:
    """Merge the rows of completed trials."""
    store = Store(args.store_uri)
    _refuse_while_running(store, "compact")
    rows = merging.compact(store)
    if args.json:
        print_json(rows)
    elif rows:
        print_records(rows)
    else:
        print("nothing to merge")
    return DONE


def doctor(args: argparse.Namespace) -> int:
    """Name what is broken; with `--fix` set it aside."""
    store = Store(args.store_uri)
    if args.fix:
        _refuse_while_running(store, "mend")
    findings = health.examine(store, busy=not args.fix and bool(alive(store)))
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_records([asdict(finding) for finding in findings])
    if not findings:
        print(f"store {store.uri} is sound", file=sys.stderr)
        return DONE
    if args.fix:
        aside = health.mend(store, findings)
        print(f"set aside below {store.uri}/{aside}, or deleted; run the sweep again to make anew what is missing")
        return DONE
    print("deepcuts doctor --fix sets these aside or deletes them, as said", file=sys.stderr)
    return INCOMPLETE
