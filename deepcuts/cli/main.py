"""The command line: reads its arguments, calls the verb, and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import deepcuts
from deepcuts.cli import edits, publishing, sweeps, upkeep, views
from deepcuts.cli.arguments import Verb

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

VERBS = {
    each.name: each
    for module in (sweeps, views, publishing, upkeep, edits)
    for each in vars(module).values()
    if isinstance(each, Verb)
}

_EPILOG = """\
exit codes: 0 done; 1 done, but something failed, is missing or damaged, and is named; 2 bad input, nothing written;
3 Ray died under a sweep: what was saved is kept, and the same command goes on; 130 and 143 stopped by SIGINT and
SIGTERM, with what was under way saved.

start here: deepcuts run sweeps/quickstart.yaml --store results
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        return VERBS[args.verb].run(args)
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
