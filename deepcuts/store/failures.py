"""Says how trials have failed, those that failed alike together, and how to run one again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from deepcuts.wording import STEPS, counted

# The columns of `trials` that a failure is told from.
FAILURE_COLUMNS = ("trial_id", "failure", "error_stage", "error")
_MOST = 10  # kinds of failures that are listed


def failures_in_words(rows: Iterable[Mapping[str, Any]], uri: str) -> list[str]:
    """Write two lines for each kind of failure, the most frequent first: what happened, and where to see one of them.

    `rows` are failed trials with FAILURE_COLUMNS. Errors are of one kind where they differ in their numbers alone.
    """
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        error = str(row["error"]).splitlines()[0] if row["error"] else "no error was recorded"
        kinds.setdefault((stage_in_words(row["error_stage"]), re.sub(r"\d+(\.\d+)?", "0", error)), []).append(row)
    lines = []
    ordered = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    for (stage, _), alike in ordered[:_MOST]:
        first = alike[0]
        error = str(first["error"] or "no error was recorded").splitlines()[0]
        lines.append(f"  {counted(len(alike), 'trial')} failed in {stage}: {error}")
        lines.append(
            f"    see {'it' if len(alike) == 1 else 'one'}: deepcuts show {shlex.quote(uri)} {first['trial_id']}"
        )
    if more := ordered[_MOST:]:
        lines.append(f"  and {counted(sum(len(alike) for _, alike in more), 'trial')} with other errors")
    return lines


def stage_in_words(stage: object) -> str:
    """How the stage in which a trial failed is said: `fine-tuning` for `dense`."""
    return STEPS.get(str(stage), str(stage))


def fails_again(error: str | None) -> bool:
    """Whether a trial would fail the same way again: a number was not finite, and its numbers are the same bits."""
    return error is not None and ("not finite" in error or " are NaN" in error)


def run_one_command(row: Mapping[Any, Any], uri: str) -> str:
    """Write the command that runs a trial again; `row` has its `trial_id` and `spec`.

    Where the trial is scored by a criterion of the user's own, the command names the file as it was called then.
    """
    command = f"deepcuts run-one {shlex.quote(uri)} {row['trial_id']}"
    try:
        own = json.loads(row.get("spec") or "{}")["score"]["own"]
    except (ValueError, KeyError, TypeError):  # a row that another version wrote
        own = None
    return f"{command} --criteria {shlex.quote(own['file'])}" if own else command
