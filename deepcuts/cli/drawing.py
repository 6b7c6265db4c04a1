"""Draws the figures of verbs, of the arms that the flags ask for and in the look that they ask for."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepcuts
from deepcuts.cli.arguments import COMMA, existing
from deepcuts.names import nearest

if TYPE_CHECKING:
    import pandas as pd

Meant = Callable[[str], list[str]]


def figure_file(args: argparse.Namespace, usual: str | None = None) -> Path | None:
    """Return the file of `--output`, else the usual one, before anything is computed for it; None: draw nothing.

    Where JSON is asked for, no figure is usual. Raises ValueError for a suffix that no figure has, and for a folder
    that is not there.
    """
    from deepcuts.figures.style import check_suffix

    name = args.output or (None if args.json else usual)
    if name is None:
        return None
    check_suffix(name)
    check_folder(name)
    return Path(name)


def check_folder(name: str) -> None:
    """Raise ValueError where the folder of an `--output` is not there."""
    if Path(name).is_dir() or not Path(name).absolute().parent.is_dir():
        raise ValueError(f"--output {name!r}: name a file, in a folder that is there")


def say_wrote(args: argparse.Namespace, files: object) -> None:
    """Say which figures were written, on stderr where JSON is on stdout."""
    print(f"wrote {files}", file=sys.stderr if args.json else sys.stdout)


@contextmanager
def as_asked(args: argparse.Namespace, frame: pd.DataFrame, known: Collection[str]) -> Iterator[list[str]]:
    """Draw in this block as the flags ask, and give the arms among the `known` ones that are to be drawn.

    `frame` has the trials that are shown (`shown_trials`). Raises ValueError for an unknown arm in `--arms` or
    `--label`, naming the nearest, and for a `--label` that is no ARM=NAME.
    """
    from deepcuts.analysis.arm_names import settings_in_words
    from deepcuts.analysis.selection import labels_of_store

    store = existing(args.store_uri)

    def meant(name: str) -> list[str]:
        return _meant(name, frame, known, args)

    chosen = [name.strip() for given in args.arms for name in re.split(COMMA, given)]
    arms = [arm for name in chosen for arm in _of_flag("--arms", name, meant, known)]
    labels = _labels(args.label, meant, known)
    shared = frame.attrs["shared"]
    note = f"all with {settings_in_words(shared)}" if shared else ""
    with deepcuts.figure_options(args.width, args.font_size, labels, labels_of_store(store), note):
        yield arms or list(known)


def _meant(name: str, frame: pd.DataFrame, known: Collection[str], args: argparse.Namespace) -> list[str]:
    """Return the known arms that a name means: one that is called so, or that views or sweeps call or called so."""
    from deepcuts.analysis.arms import arms_called
    from deepcuts.analysis.selection import formerly_called

    if name in known:
        return [name]
    found = arms_called(frame, name) or formerly_called(existing(args.store_uri), frame, name)
    return [arm for arm in found if arm in known]


def _of_flag(flag: str, name: str, meant: Meant, known: Collection[str]) -> list[str]:
    if not (found := meant(name)):
        raise ValueError(f"{flag}: unknown arm {name!r}{nearest(name, known) or ';'} known: {', '.join(sorted(known))}")
    return found


def _labels(given: list[str], meant: Meant, known: Collection[str]) -> dict[str, str]:
    """Return the arms that `--label` names, and what to call them: with their settings, where it names several.

    Both may contain a `=`: where several would do, the longest known arm is meant.
    """
    from deepcuts.analysis.arm_names import label_of

    found: dict[str, str] = {}
    for text in given:
        pairs = [(text[:place].strip(), text[place + 1 :].strip()) for place in range(len(text)) if text[place] == "="]
        whole = [(arm, name) for arm, name in pairs if arm and name]
        if not whole:
            raise ValueError(f"--label {text!r}: write ARM=NAME, as in LayerMagWeight=Magnitude")
        arm, name = ([pair for pair in whole if meant(pair[0])] or whole)[-1]
        arms = _of_flag("--label", arm, meant, known)
        found |= {each: name if len(arms) == 1 else name + each.removeprefix(label_of(each)) for each in arms}
    return found


def save_by_arm(args: argparse.Namespace, frame: pd.DataFrame, made: pd.DataFrame, plot: Callable[[Any], Any]) -> None:
    """Plot the rows of the arms that are asked for into the file of `--output`, where one is given, and say so."""
    if args.output:
        with as_asked(args, frame, list(made["arm"].unique())) as arms:
            deepcuts.save_figure(plot(made[made["arm"].isin(arms)]), args.output)
        sys.stderr.write(f"wrote {args.output}\n")
