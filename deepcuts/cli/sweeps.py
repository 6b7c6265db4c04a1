"""The verbs that plan and run: a whole sweep on Ray, or one trial in this process. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import deepcuts
from deepcuts.cli.arguments import INTO, JSON, ONLY, OUTPUT, STORE, SWEEP, TRIAL, argument, existing, opened, verb
from deepcuts.cli.drawing import figure_file, say_wrote
from deepcuts.cli.printing import DONE, INCOMPLETE, print_degenerate, print_json, print_records, print_results
from deepcuts.wording import duration, place_in_words

if TYPE_CHECKING:
    from deepcuts.experiment.spec import TrialSpec
    from deepcuts.store.store import Store
    from deepcuts.sweep.launched import Launched
    from deepcuts.sweep.planned import SweepPlan

RETRY = argument("--retry-failed", action="store_true", help="also run trials that failed by themselves")
CRITERIA_FILE = argument(
    "--criteria",
    action="append",
    default=[],
    metavar="FILE.py",
    help="the file with a criterion of your own, where a store names the trial",
)
ADDRESS = argument("--address", help="use a running Ray cluster: auto, or HOST:PORT (default: start Ray here)")


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours above 0")
    return hours


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    return {"only": args.only, "retry_failed": args.retry_failed, "address": args.address}


@verb(
    "run",
    "run what is missing from a sweep, with live progress",
    SWEEP,
    *INTO,
    ONLY,
    RETRY,
    argument("--json", action="store_true", help="print the plan as JSON (with --dry-run)"),
    ADDRESS,
    argument(
        "--max-hours", type=_hours, metavar="H", help="after H hours save what is running, and exit with code 130"
    ),
    argument("--dry-run", action="store_true", help="only print the plan, as the verb plan does"),
)
def run_verb(args: argparse.Namespace) -> int:
    """Run what is missing of a sweep; 0 when every wanted trial is completed."""
    if args.dry_run:
        return plan_verb.run(args)
    if args.json:
        raise ValueError("--json prints a plan: give --dry-run with it, or `deepcuts table STORE --json` after the run")
    sweep = deepcuts.read_sweep(args.sweep, args.set)
    launched = deepcuts.run(
        sweep, opened(args.store), **_chosen(args), max_hours=args.max_hours, on_plan=_say_what_is_odd
    )
    for error in launched.errors:
        print(f"deepcuts: {error}", file=sys.stderr)
    _print_results(launched)
    print(f"\n{launched}")
    if launched.signal is not None:
        return 128 + launched.signal
    return INCOMPLETE if launched.failed or launched.left else DONE


def _print_results(launched: Launched) -> None:
    from deepcuts.analysis.arms import levels_only

    if launched.completed:
        ids = [trial.trial_id for trial in launched.completed]
        trials = levels_only(deepcuts.trials(launched.plan.store, trial_id=ids))
        print_results(deepcuts.table(trials))
        print_degenerate(launched.plan.store, trials)


def _say_what_is_odd(planned: SweepPlan) -> None:
    """Name what the sweep asks for in vain: what is there twice, and settings that change nothing."""
    for name in planned.prepared.spec.repeated():
        print(f"deepcuts: asked for more than once, run once: {name}", file=sys.stderr)
    for name in planned.file.without_effect():
        print(f"deepcuts: has no effect: {name}", file=sys.stderr)


@verb(
    "plan",
    "print what `run` would do: trials done, to run and failed before; shared work, time, disk",
    SWEEP,
    *INTO,
    ONLY,
    RETRY,
    argument("--json", action="store_true", help="print the plan as JSON"),
    ADDRESS,
    argument("--on", metavar="MACHINE", help="plan for another machine: cpu, gpu, or a kind of GPU such as a100"),
)
def plan_verb(args: argparse.Namespace) -> int:
    """Say what `run` would do."""
    sweep, on = deepcuts.read_sweep(args.sweep, args.set), getattr(args, "on", None)  # `run` has no --on
    planned = deepcuts.plan(sweep, opened(args.store), **_chosen(args), on=on)
    _say_what_is_odd(planned)
    if args.json:
        print_json(planned.rows())
        for fact in planned.facts:
            print(f"deepcuts: {fact}", file=sys.stderr)
    else:
        print(planned)
        plain = all(row["arm"] == row["strategy"] for row in planned.rows())
        print_records([{key: row[key] for key in row if key != "arm" or not plain} for row in planned.rows()])
    return DONE


@verb(
    "run-one",
    "run one trial in this process, without Ray, to debug it",
    argument("source", metavar="SWEEP.yaml|STORE", help="a sweep file, or a store that has the trial's row"),
    TRIAL,
    *INTO,
    CRITERIA_FILE,
)
def run_one_verb(args: argparse.Namespace) -> int:
    """Run one trial, saying how far it is; a failed one prints its traceback."""
    from deepcuts.experiment.grid import describe
    from deepcuts.names import find_id

    options: dict[str, Any] = {}
    if Path(args.source).suffix in (".yaml", ".yml"):
        if args.criteria:
            raise ValueError(f"--criteria {args.criteria[0]!r}: a sweep file names them itself, with its key criteria")
        sweep = deepcuts.read_sweep(args.source, args.set)
        store, spec = opened(args.store), sweep.here()
        trials, labels = spec.trials(), spec.labels
        options = {"sweep": sweep.name, "threads": sweep.file.resources.cpus, "keep_model": sweep.file.keep_models}
        options |= {"checkpoint_minutes": sweep.file.checkpoint_minutes, "capture": sweep.file.capture}
    else:
        store = existing(args.source)
        trials, labels = _recorded(store)
        options = {"criteria": args.criteria}
    by_id = {trial.trial_id: trial for trial in trials}
    trial = by_id[find_id(args.trial, by_id)]
    arm = labels.get(trial.trial_id)
    told = _Told(f"{trial.trial_id}: {describe(trial, arm)}")
    row = deepcuts.run_trial(trial, store, wanted=trials, on_progress=told, arm=arm, **options)
    if row["status"] != "completed":
        print(row["traceback"], file=sys.stderr)
        return INCOMPLETE
    shown = ("metric", "dense", "pruned", "rewound", "retrained", "sparsity", "compression_achieved", "total_seconds")
    print_records([{key: row.get(key) for key in shown}])
    return DONE


@verb(
    "sensitivity",
    "prune one tensor, kind or layer at a time, retrain nothing, and show what each costs: a table and a figure",
    STORE,
    TRIAL,
    argument(
        "--sparsity", type=float, nargs="+", default=[0.5], metavar="S", help="the fractions to prune (default: 0.5)"
    ),
    argument(
        "--by", default="tensor", choices=("tensor", "kind", "layer"), help="what to prune together (default: tensor)"
    ),
    CRITERIA_FILE,
    OUTPUT,
    JSON,
)
def sensitivity_verb(args: argparse.Namespace) -> int:
    """Prune each part of a trial's fine-tuned network alone, by the trial's own scores."""
    store, out = existing(args.store_uri), figure_file(args, "sensitivity.png")
    told = _Evaluations(sys.stderr if args.json else sys.stdout)
    made = deepcuts.sensitivity(store, args.trial, args.sparsity, args.by, criteria=args.criteria, on_evaluation=told)
    if args.json:
        print_json(made)
    else:
        columns = ["part", "tensors", "size", "sparsity", "kept", "metric", "dense", "pruned", "drop"]
        print_records(made.sort_values("drop", ascending=False, kind="stable")[columns])
    if out:
        deepcuts.save_figure(deepcuts.plot_sensitivity(made), out)
        say_wrote(args, out)
    return DONE


class _Evaluations:
    """Prints first how many evaluations there are and how long they may take, then every ten seconds how far it is."""

    def __init__(self, to: TextIO) -> None:
        self.to = to
        self.said = 0.0

    def __call__(self, done: int, total: int, seconds: float) -> None:
        if done and time.monotonic() - self.said < 10:
            return
        self.said = time.monotonic()
        about = f"about {duration((total - done) * seconds)} left" if done else f"about {duration(total * seconds)}"
        print(f"{done} of {total} evaluations, {about}", file=self.to, flush=True)


def _recorded(store: Store) -> tuple[list[TrialSpec], dict[str, str]]:
    """The trials whose rows are in a store, but for those that another version wrote, and the labels of their arms."""
    from deepcuts.experiment.spec import TrialSpec

    trials: list[TrialSpec] = []
    rows = store.read("trials", ["trial_id", "spec", "arm"]).table.to_pylist()
    for row in rows:
        with suppress(ValueError):
            trials.append(TrialSpec.model_validate_json(row["spec"] or ""))
    return trials, {row["trial_id"]: row["arm"] for row in rows}


class _Told:
    """Prints what a trial is, once it works, and how far it is: each epoch, and every ten seconds."""

    def __init__(self, trial: str) -> None:
        self.trial = trial
        self.last: dict[str, tuple[int, float]] = {}

    def __call__(self, stage: str, epoch: int, step: int) -> None:
        if not self.last:
            print(self.trial, flush=True)
        before = self.last.get(stage, (-1, 0.0))
        if epoch != before[0] or time.monotonic() - before[1] > 10:
            self.last[stage] = epoch, time.monotonic()
            place = {"stage": stage, "epoch": epoch, "step": step}
            print(f"  {place_in_words(place)}", flush=True)
