"""The verbs that hand results on: a page, a model, a live view. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deepcuts import views
from deepcuts.output import DONE, INCOMPLETE, say_damaged
from deepcuts.store import Store


def status(args: argparse.Namespace) -> int:
    """How far every sweep of a store is; with --watch again and again, until Ctrl-C."""
    if not args.watch:
        return views.status(args)
    from deepcuts.watch import watch

    watch(Store(args.store_uri))
    return DONE


def report(args: argparse.Namespace) -> int:
    """One HTML page of a store or of one sweep."""
    from deepcuts.report import report as make

    out = Path(args.output)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"--output {args.output!r}: name a file, such as report.html, in a folder that is there")
    text, damaged = make(Store(args.store_uri), args.sweep, args.baseline, args.only)
    out.write_text(text, "utf-8")
    print(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB): open it in a browser; it needs no network")
    return INCOMPLETE if say_damaged(damaged) else DONE


def export(args: argparse.Namespace) -> int:
    """The pruned network of a trial as a transformers folder."""
    from deepcuts.export import export as write

    try:
        row = write(Store(args.store_uri), args.trial, Path(args.folder))
    except OSError as error:
        print(f"deepcuts: {error}", file=sys.stderr)
        return INCOMPLETE
    print(f"wrote {args.folder}: {row['strategy']} on {row['dataset']}, {row['metric']} {row['retrained']:.3f}")
    return DONE
