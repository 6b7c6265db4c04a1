"""Names arms by their labels, and by the fewest settings that tell apart those that are shown together."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcuts.experiment.spec import canonical
from deepcuts.pruning.criteria import NOT_PRUNED

_Settings = Mapping[str, Any]

# An arm as `with_arms` knows it: its label, strategy, and settings as text.
_Kind = tuple[str, str, str]

# What a name says that is no setting of a sweep file.
_NO_SETTINGS = {"code", "use"}


@lru_cache(maxsize=10_000)
def read_settings(text: str) -> _Settings:
    """Return the settings of a trial from the text that `with_arms` has of them."""
    return dict(json.loads(text))


class Named(NamedTuple):
    """The names of the arms of each task, and the settings in which arms differ that no name says."""

    names: list[list[str]]
    unsaid: list[str]


def named_arms(tasks: Sequence[Sequence[_Kind]], shown: Collection[str] = ()) -> Named:
    """Name the arms of each task (a model and a dataset): the label, and settings that tell arms apart.

    Arms whose label is their strategy are told from all others of their task that are called so, wherever both have a
    setting with different values; those of another label from the arms of that label alone. Networks that are not
    pruned are told from the former, but no name of these becomes longer by them: what only the names of such networks
    say is among what is `unsaid`. Of all settings that differ, names say the fewest that do so, the same in all tasks.
    Those `shown` elsewhere, as in a column, are not said, though they tell arms apart, too.
    """
    given = {label for label, strategy, _ in chain.from_iterable(tasks) if label != strategy}
    pools: dict[str | None, list[list[tuple[int, str, _Settings]]]] = {}
    for number, kinds in enumerate(tasks):
        for place, (label, strategy, text) in enumerate(kinds):
            settings = {"use": strategy, **read_settings(text)} if label in given else read_settings(text)
            pool = pools.setdefault(label if label in {*given, *NOT_PRUNED} else None, [[] for _ in tasks])
            pool[number].append((place, strategy, settings))
    names = [[""] * len(kinds) for kinds in tasks]
    arms = {key: [[arm[1:] for arm in some] for some in pool] for key, pool in pools.items()}
    plain = arms.get(None, [])
    told, unsaid, beside = set[str](), set[str](), set[str]()
    for key, pool in pools.items():
        if key in NOT_PRUNED and None in pools:
            said, others = _telling([own + more for own, more in zip(arms[key], plain, strict=True)], shown)
            beside |= {*said, *others}
        else:
            said, others = _telling(arms[key], shown)
            unsaid |= others
            told |= set(said) if key is None else set()
        for number, some in enumerate(pool):
            for (place, *_), words in zip(some, _said(arms[key][number], said), strict=True):
                names[number][place] = _name(tasks[number][place][0], words)
    return Named(
        [names if shown else _numbered(names) for names in names], sorted(unsaid | beside - told - _NO_SETTINGS)
    )


def _numbered(names: list[str]) -> list[str]:
    """Number names that are there twice."""
    return [
        f"{name} #{names[:place].count(name) + 1}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


_Arm = tuple[str, _Settings]  # a strategy and its settings


def _said(arms: Sequence[_Arm], names: Sequence[str]) -> list[_Settings]:
    """Return the settings of each arm that its name says, given the names of the settings to say."""
    shown = ({name: some[name] for name in names if name in some} for _, some in arms)
    return [
        {"settings": "unknown"} | some if lacks else some for lacks, some in zip(_unknown(arms), shown, strict=True)
    ]


def _unknown(arms: Sequence[_Arm]) -> list[bool]:
    """Tell which arms have no settings, though others of their strategy have: those made by hand."""
    specified = {strategy for strategy, some in arms if set(some) - _NO_SETTINGS}
    return [strategy in specified and not set(some) - _NO_SETTINGS for strategy, some in arms]


def _telling(tasks: Sequence[Sequence[_Arm]], shown: Collection[str]) -> tuple[list[str], set[str]]:
    """Return the fewest settings that tell the arms of each task apart, and the others in which they differ."""
    arms = [arm for of_task in tasks for arm in of_task]
    everywhere = set[str].intersection(*(set(some) for _, some in arms)) if arms else set()
    names = sorted({name for _, some in arms for name in some}, key=lambda name: _preference(name, everywhere))
    parts = [_differ(of_task, names) for of_task in tasks]
    differ = np.concatenate(parts)
    open_pairs = differ.any(1) & ~differ[:, [name in shown for name in names]].any(1)
    chosen: list[int] = []
    left = open_pairs.copy()
    while left.any():
        chosen.append(int(differ[left].sum(0).argmax()))  # the first of those that tell most pairs apart
        left &= ~differ[:, chosen[-1]]
    for place in tuple(chosen):
        others = [each for each in chosen if each != place]
        if differ[open_pairs][:, others].any(1).all():
            chosen = others
    said = {name for place, name in enumerate(names) if place in chosen}
    said |= {"code"} & set(names) - set(shown)
    known = [some for _, some in arms]
    differing = {names[place] for place in np.flatnonzero(differ.any(axis=0))}
    unsaid = {name for name in differing if not _follows(name, known)}
    return sorted(said), unsaid - said - set(shown)


def _preference(name: str, everywhere: Collection[str]) -> tuple[bool, bool, bool, bool, str]:
    """Order settings by how much they say: digests say little, as do settings that not all arms have.

    Retraining is as fine-tuning by default.
    """
    return name != "use", name.endswith(".digest"), name not in everywhere, name.startswith("retrain."), name


def _follows(name: str, settings: Sequence[_Settings]) -> bool:
    """Whether a setting of `retrain` is that of `finetune` in every arm, and so says nothing more."""
    section, _, key = name.partition(".")
    having = [some for some in settings if name in some]
    return section == "retrain" and all(some.get(f"finetune.{key}") == some[name] for some in having)


def _differ(arms: Sequence[_Arm], names: Sequence[str]) -> NDArray[np.bool_]:
    """Tell in which settings (N) the pairs (P) of a task's arms differ: (P, N), True where they do.

    Arms of one strategy differ, too, where only one of them has the setting.
    """
    read = [arm for arm, lacks in zip(arms, _unknown(arms), strict=True) if not lacks]
    if len(read) < 2 or not names:
        return np.zeros((0, len(names)), bool)
    codes = np.array([_codes([some.get(name, _MISSING) for _, some in read]) for name in names])
    kinds = _codes([strategy for strategy, _ in read])
    one, other = np.triu_indices(len(read), 1)
    both = (codes[:, one] >= 0) & (codes[:, other] >= 0) | (kinds[one] == kinds[other])
    return ((codes[:, one] != codes[:, other]) & both).T


_MISSING = object()


def _codes(values: Iterable[Any]) -> NDArray[np.int64]:
    """Number values so that equal ones have one number; -1 stands for one that is missing."""
    texts = [None if value is _MISSING else canonical({"": value}) for value in values]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    return np.array([-1 if text is None else numbers[text] for text in texts], np.int64)


def settings_in_words(settings: _Settings) -> str:
    """Write settings as names of arms and captions have them: `finetune.lr=2e-05, rewind=100`."""
    return ", ".join(f"{name}={_text(name, value)}" for name, value in settings.items())


def _name(label: str, settings: _Settings) -> str:
    return f"{label} ({settings_in_words(settings)})" if settings else label


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value[:8] if name.endswith(".digest") else value
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return json.dumps(value)


def label_of(name: str) -> str:
    """Return the label that the name of an arm begins with: what is before its settings in brackets, if any."""
    return re.sub(r" \([^()]*=.*\)( #\d+)?$", "", name)


def is_called(kind: _Kind, name: str) -> bool:
    """Whether a name means an arm: its label, or that with some of its settings in brackets, as a view has them."""
    label, strategy, text = kind
    if name == label:
        return True
    if not (name.startswith(f"{label} (") and name.endswith(")")):
        return False
    there = {"use": strategy, **read_settings(text)}
    pairs = [part.partition("=") for part in re.split(r", (?=[\w.]+=)", name[len(label) + 2 : -1])]
    return all(key in there and _text(key, there[key]) == value for key, _, value in pairs)
