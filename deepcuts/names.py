"""Resolves names: the nearest known one to what a person typed, an id by its prefix, depth and kind of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

SHORTEST_PREFIX, SHORTEST_WORD = 4, 3

# Begins the names of files that hold the merged rows of many trials; a sweep's name may not begin with it.
COMPACTED = "compact-"

# Readers of the store skip names that begin with . or _, and take those that begin with COMPACTED for merged rows.
NAME_PATTERN = re.compile(rf"(?!{COMPACTED})[A-Za-z0-9-][A-Za-z0-9._-]{{0,63}}")


def valid_name(name: str) -> str:
    """Return the name of a sweep or dataset. Raises ValueError for one that no file can have."""
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid name; use 1 to 64 of A-Z a-z 0-9 . _ -, and do not begin with . or _ or"
            f" {COMPACTED}"
        )
    return name


# What `--only` selects: for each key a value, or several of which one must match.
Selection = Mapping[str, str | Sequence[str]]

# The last parts of a layer's name in the encoders of BERT, RoBERTa, ELECTRA, MiniLM, and of DistilBERT.
LAYER_KINDS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention output",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
    "pooler.dense": "pooler",
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "attention output",
    "ffn.lin1": "intermediate",
    "ffn.lin2": "output",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest known name, or nothing where none is near."""
    near = _nearest(name.casefold(), {each.casefold(): each for each in reversed(list(known))})
    return f"; did you mean {near!r}?" if near else ""


def _nearest(name: str, known: dict[str, str]) -> str | None:
    """Find the name that is written in another case, that contains what was typed, is spelt like it, or shares a word.

    `known` maps names in lower case to names; of several that would do, the one that was listed first counts.
    """
    listed = list(reversed(known.values()))
    if len(name) >= SHORTEST_WORD and name not in known:
        containing = [each for each in listed if name in each.casefold()]
        beginning = [each for each in containing if each.casefold().startswith(name)]
        if containing:
            return min(beginning, key=len, default=containing[0])
    if near := get_close_matches(name, known, 1, 0.6 if len(name) > SHORTEST_WORD else 0.5):
        return known[near[0]]
    for each in listed:  # magnitude begins with the Mag of LayerMagWeight
        words = re.findall("[A-Z][a-z]+", each)[1:]
        if any(len(word) >= SHORTEST_WORD and name.startswith(word.casefold()) for word in words):
            return each
    return None


def find_id(prefix: str, known: Iterable[str]) -> str:
    """Return the known id that equals `prefix`, or the only one that begins with it (4 characters or more).

    Raises ValueError for an unknown id (naming the nearest) and for a prefix that is too short or not unique.
    """
    ids = sorted(set(known))
    if prefix in ids:
        return prefix
    found = [known_id for known_id in ids if known_id.startswith(prefix)]
    if not found:
        raise ValueError(f"unknown trial {prefix!r}{nearest(prefix, ids) or ';'} the store has {len(ids)} trials")
    if len(prefix) < SHORTEST_PREFIX:
        raise ValueError(f"trial {prefix!r} is too short; give {SHORTEST_PREFIX} characters or more")
    if len(found) > 1:
        raise ValueError(f"trial {prefix!r} may be any of {', '.join(found[:5])}; give more characters of the id")
    return found[0]


def chosen_values(only: Selection) -> dict[str, tuple[str, ...]]:
    """Return the values that each key of a selection may have, as in `{"seed": "0"}` or `{"seed": ["0", "1"]}`."""
    return {key: (value,) if isinstance(value, str) else tuple(value) for key, value in only.items()}


def selection_text(only: Selection) -> str:
    """Write a selection as `--only` takes it."""
    return ",".join(f"{key}={value}" for key, values in chosen_values(only).items() for value in values)


def selected(key: str, values: Sequence[str], known: Sequence[object]) -> list[bool]:
    """Tell which of the known values of a key a selection names.

    Values match as in `is_value`, and a trial by 4 or more characters that only its id begins with. Raises ValueError
    for a value that matches none, naming what there is.
    """
    if key in ("trial", "trial_id"):
        ids = {find_id(value, [str(each) for each in known]) for value in values}
        return [each in ids for each in known]
    for value in values:
        if not any(is_value(each, value) for each in known):
            there = sorted({str(each) for each in known if each is not None}, key=natural)
            shown = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
            raise ValueError(
                f"--only {key}={value}: no trial has it{nearest(value, there) or ';'} the trials have {shown}"
            )
    return [any(is_value(each, value) for value in values) for each in known]


def is_value(value: object, text: str) -> bool:
    """Tell whether a text names a value; numbers match however they are written (0.5 and .50)."""
    try:
        return str(value) == text or (isinstance(value, int | float) and float(value) == float(text))
    except ValueError:
        return False


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that puts layer.2 before layer.10."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdigit() else (1 << 62, part) for part in parts)


def layer_kind(layer: str) -> tuple[int | None, str]:
    """Return the depth and kind of a layer from its module's name; the depth is None outside the numbered layers.

    `bert.encoder.layer.3.attention.self.query` is (3, 'query'). A layer that LAYER_KINDS lacks keeps its own name.
    """
    numbered = re.match(r"(?:.*?\.)??(\d+)\.(.*)", layer)
    if numbered:
        return int(numbered[1]), LAYER_KINDS.get(numbered[2], numbered[2])
    tail = ".".join(layer.split(".")[-2:])
    return None, LAYER_KINDS.get(tail, tail)


def block_of(tensor: str) -> str | None:
    """Return the numbered layer of the encoder that a tensor belongs to; None for one outside, as in the pooler.

    `bert.encoder.layer.3.output.dense.weight` is in `bert.encoder.layer.3`.
    """
    numbered = re.match(r"(?:.*?\.)??\d+(?=\.)", tensor)
    return numbered[0] if numbered else None


def names_tensor(glob: str, tensor: str) -> bool:
    """Tell whether a glob matches the name of a tensor, or consecutive parts of it between dots.

    `pooler` and `*.pooler.*` match `bert.pooler.dense.weight`; `layer.1` matches a tensor of layer 1, none of layer 10.
    """
    parts = tensor.split(".")
    ends = range(1, len(parts) + 1)
    return any(fnmatchcase(".".join(parts[first:end]), glob) for end in ends for first in range(end))
