"""Finds the trials that a view shows, says which they are, and where that is said; prints frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deepcuts.cli.arguments import existing
from deepcuts.cli.printing import DONE, INCOMPLETE, print_json, print_records, say_damaged

if TYPE_CHECKING:
    import pandas as pd

# The columns that tables, curves and comparisons are made of. A file of one trial is read twice as fast with these
# alone as with all that it has.
NEEDED = (
    *("trial_id", "sweep", "model", "dataset", "strategy", "arm", "compression", "sparsity_asked", "seed", "status"),
    *("metric", "dense", "pruned", "rewound", "retrained", "compression_achieved", "sparsity", "dense_id"),
    *("majority", "finished_at", "spec", "mask_from", "mask_trial", "device", "torch", "transformers"),
)


def trials_asked(args: argparse.Namespace) -> pd.DataFrame:
    """The trials to show, with their arms; say which these are. Raises ValueError where there are none."""
    from deepcuts.analysis.selection import shown_trials

    store = existing(args.store_uri)
    of_program = args.json or getattr(args, "csv", False)  # which finds an arm by the same name in all selections
    frame = shown_trials(store, NEEDED, args.sweep, args.only, anew=not of_program)
    if frame.empty:
        say_damaged(frame.attrs["damaged"])
        what = f"no trials of sweep {args.sweep!r}" if args.sweep else "no trials"
        raise ValueError(f"store {store.uri!r} holds {what} yet; `deepcuts run SWEEP.yaml` fills it")
    for line in frame.attrs["about"]:
        (sys.stderr if is_aside(args) else sys.stdout).write(f"{line}\n")
    return frame


def is_aside(args: argparse.Namespace) -> bool:
    """Whether stdout is for a program or a paper, so that what is said beside the results is for stderr."""
    return any(getattr(args, name, False) for name in ("json", "csv", "latex", "markdown"))


def code_of(damaged: Mapping[str, str]) -> int:
    return INCOMPLETE if say_damaged(damaged) else DONE


def print_frame(rows: pd.DataFrame, args: argparse.Namespace) -> None:
    print_json(rows) if args.json else print_records(rows)
