"""The verbs that look after a store: what is cached, what is broken, fewer files. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from deepcuts.cli.printing import DONE, INCOMPLETE, print_json, print_records
from deepcuts.store.cache import collect_garbage, shared_stages
from deepcuts.store.compact import compact
from deepcuts.store.doctor import examine_store, mend_store
from deepcuts.store.live import at_work
from deepcuts.store.store import Store
from deepcuts.wording import size_text


def _refuse_while_running(store: Store, why: str) -> None:
    """Raises ValueError while somebody is at work on the store."""
    if busy := at_work(store):
        raise ValueError(f"store {store.uri!r} is in use: {len(busy)} beats are moving; {why} when they are through")


def cache_verb(args: argparse.Namespace) -> int:
    """List the shared stages; with `--gc` remove those that no wanted trial needs."""
    store = Store(args.store_uri)
    if args.gc:
        _refuse_while_running(store, "collect")
    rows = collect_garbage(store) if args.gc else shared_stages(store)
    if args.json:
        print_json(rows)
        return DONE
    print_records([row | {"bytes": size_text(row["bytes"])} for row in rows])
    total, needed = sum(row["bytes"] for row in rows), sum(row["bytes"] for row in rows if row["needed"])
    print(
        f"removed {size_text(total)}"
        if args.gc
        else f"{size_text(total)}, of which {size_text(total - needed)} can go (--gc)"
    )
    return DONE


def compact_verb(args: argparse.Namespace) -> int:
    """Merge the rows of completed trials."""
    store = Store(args.store_uri)
    _refuse_while_running(store, "compact")
    rows = compact(store)
    if args.json:
        print_json(rows)
    elif rows:
        print_records(rows)
    else:
        print("nothing to merge")
    return DONE


def doctor_verb(args: argparse.Namespace) -> int:
    """Name what is broken; with `--fix` set it aside."""
    store = Store(args.store_uri)
    if args.fix:
        _refuse_while_running(store, "mend")
    findings = examine_store(store, busy=not args.fix and bool(at_work(store)))
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_records([asdict(finding) for finding in findings])
    if not findings:
        print(f"store {store.uri} is sound", file=sys.stderr)
        return DONE
    if args.fix:
        aside = mend_store(store, findings)
        print(f"set aside below {store.uri}/{aside}, or deleted; run the sweep again to make anew what is missing")
        return DONE
    print("deepcuts doctor --fix sets these aside or deletes them, as said", file=sys.stderr)
    return INCOMPLETE
