"""Reads YAML by the rules of version 1.2, and explains mistakes: the line, the value, the nearest known key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from deepcuts.names import nearest


class _Loader(yaml.SafeLoader):
    """Loads YAML 1.2's plain scalars and the merge key <<: only true and false are booleans, keys may not repeat."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is repeated", key.start_mark)
            seen.add(key.value)
        return node


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"({_FLOAT.pattern})$"), list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


def parse_yaml(text: str) -> Any:
    """Parse one YAML document, safely, with YAML 1.2's plain scalars. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader


def compose_yaml(text: str) -> yaml.Node | None:
    """Parse one document into nodes that know their lines. Raises yaml.YAMLError."""
    return yaml.compose(text, _Loader)


KeyPath = tuple[str, ...]

# The keys whose own keys are names that the file gives.
_NO_SECTION = ("datasets", "strategies", "overrides")

# The keys that take a list or a mapping.
_LIST_OR_MAPPING = (("datasets",), ("strategies",))

# Parts of a pydantic location that name a branch of a union, not a key of the file.
_READING = re.compile(r"(list|dict|nullable|constrained-int|literal|function-\w+)(\[.*\])?|\[key\]")
_WORDS = {
    "list_type": "must be a list, as in [a, b]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list, as in [a, b]",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text (quote it)",
    "too_short": "is empty: name at least one",
    "invalid_key": "keys must be text",
}


def unknown(what: str, name: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """Write `unknown key 'x'; did you mean 'y'? known: ...`; `elsewhere` are paths of keys that are called so."""
    near = nearest(name, known)
    if elsewhere:
        near = f"{near.removesuffix('?')} or " if near else "; did you mean "
        near += f"{' or '.join(elsewhere)}?"
    return f"unknown {what} {name!r}{near or ';'} known: {', '.join(known)}"


def misplaced(place: Sequence[str | int], why: str) -> PydanticCustomError:
    """Make the error of a validator of the whole file that knows the place of the mistake."""
    return PydanticCustomError("misplaced", "{why}", {"why": why, "place": [str(part) for part in place]})


def explained(
    source: str, tree: yaml.Node | None, error: ValidationError, known: Callable[[KeyPath], list[str]]
) -> list[str]:
    """Write a line for each mistake; it begins with the file `source` and the line in its `tree`, where it has them.

    `known` gives the keys that are allowed at a place.
    """
    problems = error.errors()
    wrong_type = ("list_type", "dict_type")  # of a list or a mapping, report only the form that was given
    deeper = {each["loc"][:1] for each in problems if each["type"] not in wrong_type}
    lines = []
    for problem in problems:
        place = tuple(str(part) for part in problem["loc"] if not _READING.fullmatch(str(part)))
        if problem["type"] == "misplaced":
            place += tuple(problem["ctx"]["place"])
        if problem["type"] in wrong_type and place in _LIST_OR_MAPPING and problem["loc"][:1] in deeper:
            continue
        line = _line(tree, place)
        begin = f"{source}{f':{line}' if line else ''}: " if source else ""
        lines.append(f"{begin}{_message(problem, place, known)}")
    return list(dict.fromkeys(lines))


def _message(problem: ErrorDetails, place: KeyPath, known: Callable[[KeyPath], list[str]]) -> str:
    where = ".".join(part if part.isprintable() else repr(part) for part in place)
    if problem["type"] == "extra_forbidden":
        *inside, key = place
        sections = [name for name in known((*inside,)) if name not in _NO_SECTION]
        elsewhere = [".".join((*inside, name, key)) for name in sections if key in known((*inside, name))]
        message = unknown("key", key, known((*inside,)), elsewhere)
        return f"{'.'.join(place[:-1])}: {message}" if place[1:] else message
    if problem["type"] == "missing":
        return f"{where}: is required and missing"
    if problem["type"] in ("value_error", "misplaced"):
        message = problem["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    if problem["input"] is None and problem["type"] in ("dict_type", "model_type", "list_type"):
        return f"{where}: is empty; give its values, or remove the key to get the default"
    if problem["type"] == "string_type" and place[:1] in _LIST_OR_MAPPING and isinstance(problem["input"], dict):
        return (
            f"{where}: in a list must be text, not {problem['input']!r}; to give settings, write all of {place[0]} as a"
            " mapping, without dashes, and null where there is nothing to give"
        )
    if problem["type"] == "too_short":
        return f"{where}: {_WORDS['too_short']}"
    plain = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {_WORDS.get(problem['type'], plain)}, not {problem['input']!r}"


def _line(tree: yaml.Node | None, place: KeyPath) -> int | None:
    line = None
    for part in place:
        if isinstance(tree, yaml.MappingNode):
            found = [(key, value) for key, value in tree.value if key.value == part]
            if not found:
                break
            line, tree = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(tree, yaml.SequenceNode) and part.isdigit() and int(part) < len(tree.value):
            tree = tree.value[int(part)]
            line = tree.start_mark.line + 1
        else:
            break
    return line
