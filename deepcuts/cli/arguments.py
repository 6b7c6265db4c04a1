"""Makes a function a verb of the command line, with its arguments beside it, and holds those that verbs share."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import deepcuts
from deepcuts.wording import STAGES

if TYPE_CHECKING:
    from deepcuts.store.store import Store

# A comma that is not within the brackets of an arm's name: LayerSNIP (finetune.lr=0.1, rewind=none).
COMMA = r",(?![^()]*\))"

Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Argument:
    """What `add_argument` of argparse takes."""

    names: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Verb:
    """One verb: what `--help` says of it, what it takes, and what it does; `run` returns the exit code."""

    name: str
    help: str
    arguments: tuple[Argument, ...]
    run: Run


class _Once(argparse.Action):
    """Stores the value of a flag, and refuses a second one: the first would be lost without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            parser.error(f"argument {option}: given more than once, the second time as {values!r}; it takes one value")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def argument(*names: str, **options: Any) -> Argument:
    """Describe an argument as `add_argument` of argparse does; a flag that takes one value takes it once."""
    if names[0].startswith("-") and "action" not in options:
        options["action"] = _Once
    return Argument(names, options)


def verb(name: str, text: str, *arguments: Argument) -> Callable[[Run], Verb]:
    """Make a function a verb of the command line, with the arguments that it takes."""
    return lambda run: Verb(name, text, arguments, run)


def opened(uri: str | None) -> Store:
    """Open the store at a URI, or where none is given the one at DEEPCUTS_STORE, else ./results."""
    return deepcuts.Store(uri if uri is not None else os.environ.get("DEEPCUTS_STORE") or "results")


def existing(uri: str | None) -> Store:
    """Open a store that is there. Raises ValueError where there is nothing, or a folder of other things."""
    store = opened(uri)
    store.check_exists()
    return store


class _Selection(argparse.Action):
    """Gathers the KEY=VALUE pairs of every `--only`: a key that is given more than once keeps all its values."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        chosen: dict[str, list[str]] = {key: list(each) for key, each in getattr(namespace, self.dest).items()}
        for part in re.split(COMMA, values):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not key or not value:
                parser.error(
                    f"argument --only: cannot read {part!r}; write KEY=VALUE,KEY=VALUE as in dataset=stsb,seed=0,seed=1"
                )
            chosen.setdefault(key, []).append(value)
        setattr(namespace, self.dest, chosen)


SWEEP = argument("sweep", metavar="SWEEP.yaml", help="the sweep file (docs/sweep-file.md has every key)")
STORE = argument(
    "store_uri",
    metavar="STORE",
    nargs="?",
    help="a folder, or a file, s3, gs or abfs URI (default: DEEPCUTS_STORE, else ./results)",
)
TRIAL = argument("trial", metavar="TRIAL", help="the trial's id, or its first characters: 4 or more")
JSON = argument("--json", action="store_true", help="print a JSON list of objects, with null for what is undefined")
OUTPUT = argument("-o", "--output", metavar="FILE", help="the figure's file: .png, .svg or .pdf")
METRIC = argument("--metric", help="show another metric than the task's main one, such as macro_f1")
SPLIT = argument(
    "--split", default="validation", metavar="SPLIT", help="show another split, such as test (default: validation)"
)
STAGE = argument(
    "--stage",
    default="retrained",
    choices=STAGES,
    help="show the networks after this stage (default: retrained)",
)
ONLY = argument(
    "--only",
    action=_Selection,
    default={},
    metavar="KEY=VALUE,...",
    help="only the trials with, say, dataset=stsb,seed=0,seed=1: one of the values of each key",
)
# Which trials of a store a verb looks at.
WHICH = (
    argument(
        "--sweep",
        metavar="NAME",
        help="just the trials that this sweep wants (default: the newest; all: any; several: --only sweep=A,sweep=B)",
    ),
    ONLY,
)
# How a figure looks, for every verb that draws.
FIGURE = (
    argument("--width", type=float, metavar="INCHES", help="the width of the figure; 3.3 fits a column of a paper"),
    argument("--font-size", type=float, metavar="POINTS", help="the size of text (default: 10, or as in matplotlibrc)"),
    argument(
        "--arms", action="append", default=[], metavar="ARM,...", help="draw only these arms, named as in the legend"
    ),
    argument(
        "--label",
        action="append",
        default=[],
        metavar="ARM=NAME",
        help="draw an arm under another name, as in LayerSNIP=SNIP",
    ),
)
# What a verb takes that has a sweep file: where its trials go, and what is different this time.
INTO = (
    argument("--store", metavar="URI", help="the store (default: DEEPCUTS_STORE, else ./results)"),
    argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, as in retrain.epochs=3"),
)
