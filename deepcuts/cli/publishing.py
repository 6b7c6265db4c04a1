"""The verbs that make something to pass on: the report, and an exported network.

Each returns the exit code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import deepcuts
from deepcuts.cli.arguments import STORE, TRIAL, WHICH, argument, existing, verb
from deepcuts.cli.drawing import check_folder
from deepcuts.cli.printing import DONE, INCOMPLETE, say_damaged


@verb(
    "report",
    "write one HTML page of everything, which opens offline",
    STORE,
    *WHICH,
    argument("-o", "--output", default="report.html", metavar="FILE", help="where to write the page"),
    argument("--baseline", metavar="ARM", help="the arm to compare the others with"),
)
def report_verb(args: argparse.Namespace) -> int:
    """One HTML page of a store or of one sweep."""
    out = Path(args.output)
    check_folder(args.output)
    page = deepcuts.report(existing(args.store_uri), args.sweep, args.baseline, args.only)
    page.save(out)
    print(f"wrote {out} ({len(page.text.encode()) / 1e6:.1f} MB): open it in a browser; it needs no network")
    return INCOMPLETE if say_damaged(page.damaged) else DONE


@verb(
    "export",
    "write the pruned network of a trial as a transformers folder with a model card",
    STORE,
    TRIAL,
    argument("folder", metavar="DIR", help="a new or empty folder"),
    argument(
        "--shrink",
        action="store_true",
        help="leave out the feed-forward neurons that are pruned as a whole (by a Neuron strategy, for one): a smaller"
        " and faster network with the same outputs; its card says how much faster it was here",
    ),
)
def export_verb(args: argparse.Namespace) -> int:
    """The pruned network of a trial as a transformers folder."""
    try:
        row = deepcuts.export(existing(args.store_uri), args.trial, args.folder, shrink=args.shrink)
    except OSError as error:
        print(f"deepcuts: {error}", file=sys.stderr)
        return INCOMPLETE
    print(f"wrote {args.folder}: {row['arm']} on {row['dataset']}, {row['metric']} {row['retrained']:z.3f}")
    if args.shrink:
        print(
            f"{row['neurons']:,} of {row['full_neurons']:,} neurons in each feed-forward layer,"
            f" {row['speedup']:.2f} times as fast here; its README.md says how that was measured"
        )
    return DONE
