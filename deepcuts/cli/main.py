"""The command line: what each verb takes. What it does is in `commands`, `single` and `views`,
imported when it is called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import deepcuts

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

_EPILOG = """\
exit codes: 0 done; 1 done, but something failed, is missing or damaged, and is named; 2 bad input, nothing written;
130 and 143 stopped by SIGINT and SIGTERM, with what was under way saved.

start here: deepcuts run sweeps/quickstart.yaml --store results
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(_verb(args.verb)(args))
    except ValueError as error:
        print(f"deepcuts: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"deepcuts: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("deepcuts: interrupted", file=sys.stderr)
        return INTERRUPTED


_MODULES = {"run": "deepcuts.sweep.launch", "plan": "deepcuts.sweep.launch", "run-one": "deepcuts.cli.sweeps"}
_MODULES |= dict.fromkeys(("cache", "compact", "doctor"), "deepcuts.cli.upkeep")


def _verb(name: str):  # type: ignore[no-untyped-def]
    module = _MODULES.get(name, "deepcuts.cli.views")
    imported = __import__(module, fromlist=[name])
    verb = name.replace("-", "_")
    return getattr(imported, f"{verb}_verb", None) or getattr(imported, verb)


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise argparse.ArgumentTypeError(
                f"cannot read {part!r}; write KEY=VALUE,KEY=VALUE as in dataset=stsb,seed=0"
            )
        pairs[key.strip()] = value.strip()
    return pairs


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours above 0")
    return hours


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepcuts",
        description="Pruning sweeps for BERT-style models: fine-tune, score, prune, rewind, retrain; into Parquet.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"deepcuts {deepcuts.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("run", "run what is missing of a sweep, with live progress"),
        ("plan", "say what `run` would do: done, to run, failed before; shared work, time, disk"),
    ):
        _sweep_arguments(verbs.add_parser(name, help=text, description=text), run=name == "run")
    _run_one_arguments(verbs)
    for name, text in (
        ("status", "how far each sweep of a store is"),
        ("show", "one trial: everything, with its traceback and the command that runs it again"),
        ("table", "results: mean and 95 %% interval over seeds"),
        ("curves", "a figure: the metric against sparsity, a line per strategy"),
        ("iou", "figures: the overlap of masks between trials, over all and layer by layer"),
        ("compare", "paired statistics: strategies against a baseline over seeds, or two trials over examples"),
        ("report", "one HTML page of everything, to open offline and pass on"),
        ("export", "the pruned network of a trial as a transformers folder with a model card"),
        ("cache", "what the shared stages hold, who needs it, and what can go"),
        ("compact", "merge the rows of completed trials into one file per table"),
        ("doctor", "find what is broken in a store, and with --fix set it aside"),
        ("query", "SQL over the tables trials, metrics, predictions, masks, sweeps (read-only)"),
    ):
        verb = verbs.add_parser(name, help=text, description=text.replace("%%", "%"))
        verb.add_argument("store_uri", metavar="STORE", help="a folder, or a file, s3, gs or abfs URI")
        _publish_arguments(verb, name)
        _view_arguments(verb, name)
    return parser


def _sweep_arguments(verb: argparse.ArgumentParser, run: bool) -> None:
    verb.add_argument("sweep", metavar="SWEEP.yaml", help="the sweep file (README: The sweep file)")
    _store_arguments(verb)
    verb.add_argument(
        "--only", type=_pairs, default={}, metavar="KEY=VALUE,...", help="just the trials with dataset=stsb,seed=0"
    )
    verb.add_argument("--retry-failed", action="store_true", help="run also what failed for reasons of its own")
    verb.add_argument(
        "--json", action="store_true", help="print the plan as JSON" + (" (with --dry-run)" if run else "")
    )
    verb.add_argument("--address", help="a running Ray cluster: auto, or HOST:PORT; without it Ray starts here")
    if not run:
        return
    verb.add_argument("--max-hours", type=_hours, metavar="H", help="after H hours start nothing new, save, exit 130")
    verb.add_argument("--dry-run", action="store_true", help="as the verb plan")


def _store_arguments(verb: argparse.ArgumentParser) -> None:
    default = os.environ.get("DEEPCUTS_STORE") or "results"
    verb.add_argument(
        "--store", default=default, metavar="URI", help="the store (default: DEEPCUTS_STORE, else ./results)"
    )
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, as in retrain.epochs=3"
    )


def _run_one_arguments(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "run one trial in this process, without Ray: for debugging"
    verb = verbs.add_parser("run-one", help=text, description=text)
    verb.add_argument("source", metavar="SWEEP.yaml|STORE", help="a sweep file, or a store that has the trial's row")
    verb.add_argument("trial", metavar="TRIAL", help="its id, or 4 or more characters that only it begins with")
    _store_arguments(verb)


def _publish_arguments(verb: argparse.ArgumentParser, name: str) -> None:
    if name == "status":
        verb.add_argument("--watch", action="store_true", help="a live view, until Ctrl-C")
    if name == "report":
        verb.add_argument("-o", "--output", default="report.html", metavar="FILE", help="where to write the page")
        verb.add_argument("--baseline", metavar="STRATEGY", help="what the others are compared with")
    if name == "export":
        verb.add_argument("trial", metavar="TRIAL", help="its id, or 4 or more characters that only it begins with")
        verb.add_argument("folder", metavar="DIR", help="a new or empty folder")


def _view_arguments(verb: argparse.ArgumentParser, name: str) -> None:
    if name not in ("report", "export"):
        verb.add_argument("--json", action="store_true", help="print JSON: a list of objects, null for undefined")
    if name == "cache":
        verb.add_argument("--gc", action="store_true", help="remove what no wanted trial needs")
    if name == "doctor":
        verb.add_argument("--fix", action="store_true", help="set the bad aside; then the same run command completes")
    if name == "show":
        verb.add_argument("trial", metavar="TRIAL", help="its id, or 4 or more characters that only it begins with")
    if name == "query":
        verb.add_argument("sql", metavar="SQL", help='such as "select strategy, avg(retrained) from trials group by 1"')
        verb.add_argument("--csv", action="store_true", help="print CSV")
    if name in ("table", "curves", "iou", "compare", "report"):
        verb.add_argument("--sweep", metavar="NAME", help="just the trials that this sweep wants")
        verb.add_argument(
            "--only", type=_pairs, default={}, metavar="KEY=VALUE,...", help="just trials with dataset=stsb,seed=0"
        )
    if name in ("curves", "iou", "compare"):
        verb.add_argument("-o", "--output", metavar="FILE", help="where to draw: .png, .svg or .pdf")
    if name in ("curves", "compare"):
        _stage_arguments(verb)
    if name == "curves":
        verb.add_argument("--x", default="auto", choices=["auto", "sparsity", "compression", "epoch"], help="the axis")
        verb.add_argument(
            "--report",
            default="last",
            choices=["last", "best"],
            help="the last epoch of the stage, or as in the seed study: the best epoch of all stages, by accuracy"
            " (regression: squared error), which flatters",
        )
    if name == "compare":
        _compare_arguments(verb)
    if name == "iou":
        verb.add_argument("--trials", nargs="+", default=[], metavar="TRIAL", help="compare just these")
        verb.add_argument(
            "--common", action="store_true", help="of different models, the tensors that all of them have"
        )
        verb.add_argument("--by-kind", action="store_true", help="kinds of layers (query, key, ...), not every layer")


def _stage_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--metric", help="another metric than the task's main one, such as accuracy")
    verb.add_argument(
        "--stage", default="retrained", choices=["dense", "pruned", "rewound", "retrained"], help="after this stage"
    )


def _compare_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("trials", nargs="*", metavar="TRIAL", help="compare just these two, example by example")
    verb.add_argument(
        "--baseline", default="LayerMagWeight", metavar="STRATEGY", help="default: LayerMagWeight; also Dense, Unpruned"
    )
    verb.add_argument(
        "--margin", type=float, default=0.01, metavar="M", help="differences within M do not matter (default: 0.01)"
    )
    verb.add_argument(
        "--examples", action="store_true", help="intervals that hold for other validation examples too (slower)"
    )


if __name__ == "__main__":
    sys.exit(main())
