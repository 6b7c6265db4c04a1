"""Names the arms of a sweep, strategies with settings of their own, and multiplies them by the axes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from deepcuts.experiment.spec import used_keys
from deepcuts.experiment.yaml_errors import explained
from deepcuts.pruning.criteria import CRITERIA, NOT_PRUNED, Needs, parse_strategy

# What an arm may set besides `use`: those of these names that are keys of `Settings`. To add one, add it there.
ARM_KEYS = ("scoring", "exclude", "rewind", "retrain", "start", "rounds", "mask_from")
# Of them, those that lie over the sweep's key by key; the others replace what the sweep has.
MERGED_KEYS = ("scoring", "retrain")

# Criteria by name, ours or with those of the user's own.
Criteria = Mapping[str, Needs]

# What an arm may be called. Commas separate the values of --only, = belongs to axes, a figure's legend leaves out what
# begins with _, and the rest could break a file's name, a figure, LaTeX or a page.
LABEL_PATTERN = r"[0-9A-Za-zÀ-ɏΆ-ώ][0-9A-Za-zÀ-ɏΆ-ώ ._+()%-]{0,59}"


@dataclass(frozen=True)
class Arm:
    """A strategy, what it is called, its own settings, and by their paths those that the axes chose for it."""

    label: str
    strategy: str
    settings: Mapping[str, Any]
    chosen: Mapping[str, Any]


def check_label(label: str, use: str | None, criteria: Criteria = CRITERIA) -> None:
    """Raise ValueError for a label that no arm may have: one that names another strategy or cannot be written."""
    if use is not None and not re.fullmatch(LABEL_PATTERN, label):
        raise ValueError(
            f"{label!r} cannot be the name of an arm; use 1 to 60 letters, digits, spaces and . _ + - ( ) %, and begin"
            " with a letter or a digit"
        )
    if label.endswith(" ") or "  " in label:
        raise ValueError(f"{label!r} cannot be the name of an arm; write single spaces, and none at its end")
    if label.split(" ")[0] in NOT_PRUNED:
        raise ValueError(f"{label!r} cannot be the name of an arm: {' and '.join(NOT_PRUNED)} prune nothing")
    if use is not None and label != use and _is_strategy(label, criteria):
        raise ValueError(f"{label!r} is the name of a strategy, and this arm uses {use!r}; call it otherwise")


def _is_strategy(name: str, criteria: Criteria) -> bool:
    try:
        parse_strategy(name, criteria)
    except ValueError:
        return False
    return True


def changes(strategy: str, key: str, criteria: Criteria = CRITERIA) -> bool:
    """Whether a setting, given by its path as in `scoring.shift`, can change the trials of a strategy."""
    section, _, name = key.partition(".")
    criterion, scope, _ = parse_strategy(strategy, criteria)
    scored = [criterion, "Wanda"] if scope == "owl" else [criterion]
    return section != "scoring" or any(name in used_keys(criteria[each]) for each in scored)


def axis_keys(settings: type[BaseModel]) -> list[str]:
    """Return the keys that an axis may have, given what an arm may set: `rewind`, and `scoring.shift` by its path."""
    found = []
    for name, field in settings.model_fields.items():
        if name in ARM_KEYS:
            found += [] if name in MERGED_KEYS else [name]
            found += setting_paths(field.annotation, name)
    return found


def wrong_values(
    key: str, values: Sequence[Any], settings: type[BaseModel], known: Callable[[tuple[str, ...]], list[str]]
) -> Iterator[tuple[int, str]]:
    """Yield the place of each value of an axis that the key may not have, or that is repeated, and say what is wrong.

    Of a key within another one that replaces the sweep's, only the arms know the rest, so it is not checked here.
    """
    alone = key.partition(".")[0] in MERGED_KEYS or "." not in key
    for number, value in enumerate(values):
        try:
            if alone:
                settings(**at_path(key, value))
        except ValidationError as error:
            yield number, explained("", None, error, known)[0].removeprefix(f"{key}: ")
        if setting_text("", value) in [setting_text("", before) for before in values[:number]]:
            yield number, f"{value!r} is repeated; name each value once"


def multiplied(arms: Iterable[Arm], axes: Mapping[str, Sequence[Any]], criteria: Criteria = CRITERIA) -> list[Arm]:
    """Multiply each arm by the values of the axes that change it and whose key it does not set itself.

    Raises ValueError for an axis that changes no arm.
    """
    arms, used, made = list(arms), set[str](), []
    names = _short(axes)
    for arm in arms:
        keys = [key for key in axes if changes(arm.strategy, key, criteria) and not _sets(arm.settings, key)]
        used.update(keys)
        for values in product(*(axes[key] for key in keys)):
            chosen = dict(zip(keys, values, strict=True))
            label = " ".join([arm.label, *(setting_text(names[key], value) for key, value in chosen.items())])
            made.append(Arm(label, arm.strategy, arm.settings, chosen))
    for key in axes:
        if key not in used:
            raise ValueError(f"{key!r} changes no arm{_why(key, arms, criteria)}; remove it")
    return made


def _why(key: str, arms: Iterable[Arm], criteria: Criteria) -> str:
    if any(changes(arm.strategy, key, criteria) for arm in arms):
        return ": those that it could change set it themselves"
    name = key.partition(".")[2]
    using = [criterion for criterion, row in criteria.items() if name in used_keys(row)]
    return f": of the criteria only {', '.join(using)} use it" if using else ""


def _sets(settings: Mapping[str, Any], key: str) -> bool:
    """Whether an arm sets the key itself; what replaces all of a key, as `distill: null` does, sets what is in it."""
    section, *names = key.split(".")
    if section not in settings or section not in MERGED_KEYS:
        return section in settings
    there: Any = settings[section]
    for name in names:
        if not isinstance(there, Mapping):
            return True
        if name not in there:
            return False
        there = there[name]
    return True


def setting_paths(annotation: Any, begin: str) -> list[str]:
    """Return the paths below `begin` of the fields that a type has, if it is of settings: `retrain.distill.weight`."""
    found = []
    for part in (annotation, *get_args(annotation)):
        for name, field in part.model_fields.items() if isinstance(part, type) and issubclass(part, BaseModel) else ():
            found += [f"{begin}.{name}", *setting_paths(field.annotation, f"{begin}.{name}")]
    return found


def idle_settings(arms: Iterable[Arm], criteria: Criteria = CRITERIA) -> list[str]:
    """Name the settings of arms that cannot change their trials, such as a shift of a magnitude."""
    found = []
    for arm in arms:
        idle = [key for key in _flat(arm.settings) if not changes(arm.strategy, key, criteria)]
        if idle:
            found.append(f"{', '.join(idle)} of arm {arm.label!r}, because {arm.strategy} does not use it")
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`; mappings in both are merged, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def laid_over(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with an arm's own over them."""
    sections = {key: value for key, value in own.items() if key in MERGED_KEYS}
    return {**merged(settings, sections), **{key: value for key, value in own.items() if key not in sections}}


def with_settings_of(arm: Arm, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `base` with those of an arm over them: the values of the axes, then its own.

    A value at a path replaces no more than what is there: `rounds.keep` leaves `rounds.retrain` as it is.
    """
    settings = dict(base)
    for key, value in arm.chosen.items():
        settings = merged(settings, at_path(key, value)) if "." in key else settings | {key: value}
    return laid_over(settings, arm.settings)


def at_path(key: str, value: Any) -> dict[str, Any]:
    """Return `{"scoring": {"shift": 1}}` for `scoring.shift` and 1."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def differing_text(settings: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Write the settings that differ from the base's by their whole keys: `rewind=100 retrain.epochs=3`."""
    ours, theirs = _flat(settings), _flat(base)
    differing = [key for key in ours if key not in theirs or theirs[key] != ours[key]]
    return " ".join(setting_text(key, ours[key]) for key in differing)


def _flat(settings: Mapping[str, Any], begin: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{begin}{key}.") if isinstance(value, Mapping) else {f"{begin}{key}": value}
    return found


def _short(keys: Iterable[str]) -> dict[str, str]:
    """Map keys to their last parts, or to themselves where two have the same last part."""
    keys = list(keys)
    count = Counter(key.rpartition(".")[2] for key in keys)
    return {key: last if count[last := key.rpartition(".")[2]] == 1 else key for key in keys}


def setting_text(name: str, value: Any) -> str:
    """Write a setting as labels have it: `shift=0.1`, without what LABEL_PATTERN leaves out, but for globs."""
    text = re.sub(r"[^0-9A-Za-zÀ-ɏΆ-ώ._+()%*?!\[\]-]+", " ", _text(value)).strip()
    return f"{name}={text}"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_text(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value)) or "none"
    return str(value)
