"""The command line: reads its arguments, calls the verb, and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import deepcuts
from deepcuts.cli import comparing, edits, publishing, sweeps, upkeep, views
from deepcuts.cli.arguments import Verb
from deepcuts.names import nearest
from deepcuts.sweep.machines import RayNotStarted

FAILED, BAD_INPUT, NO_RAY, INTERRUPTED = 1, 2, 3, 130

VERBS = {
    each.name: each
    for module in (sweeps, views, comparing, publishing, upkeep, edits)
    for each in vars(module).values()
    if isinstance(each, Verb)
}

_EPILOG = """\
exit codes: 0 done; 1 done, but something failed, is missing or damaged, and is named; 2 bad input, nothing written;
3 Ray did not start, or died under a sweep: what was saved is kept, and the same command goes on; 130 and 143 stopped
by SIGINT and SIGTERM, with what was under way saved.

start here: deepcuts run sweeps/quickstart.yaml --store results
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    args = _parsed(sys.argv[1:] if argv is None else argv)
    try:
        return VERBS[args.verb].run(args)
    except ValueError as error:
        print(f"deepcuts: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except RayNotStarted as error:
        print(f"deepcuts: error: {error}", file=sys.stderr)
        return NO_RAY
    except BrokenPipeError:  # the reader of our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else error
        print(f"deepcuts: error: {what}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("deepcuts: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; of an unknown verb or flag say which may be meant, and exit with code 2."""
    parser = _parser()
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        parser.error(f"unknown verb {verb!r}{nearest(verb, VERBS) or ';'} known: {', '.join(VERBS)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [name for each in VERBS[args.verb].arguments for name in each.names if name.startswith("--")]
        meant = nearest(unknown[0].partition("=")[0], flags) if unknown[0].startswith("-") else ""
        parser.error(
            f"{args.verb} takes no argument {unknown[0]!r}{meant or ';'}"
            f" `deepcuts {args.verb} --help` lists what it takes"
        )
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepcuts",
        description="Pruning sweeps for BERT-style models: fine-tune, score, prune, rewind, retrain; into Parquet.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"deepcuts {deepcuts.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        subparser = verbs.add_parser(name, help=verb.help, description=verb.help.replace("%%", "%"))
        for argument in verb.arguments:
            subparser.add_argument(*argument.names, **argument.options)
    return parser


if __name__ == "__main__":
    sys.exit(main())
