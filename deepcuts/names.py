"""Resolves names: the nearest known one to what a person typed, an id by its prefix, depth and kind of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

SHORTEST_PREFIX = 4

# Begins the names of files that hold the merged rows of many trials; a sweep's name may not begin with it.
COMPACTED = "compact-"

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
    near = get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def find_id(prefix: str, known: Iterable[str]) -> str:
    """Return the known id that equals `prefix`, or the only one that begins with it (4 characters or more).

    Raises ValueError for an unknown id (naming the nearest) and for a prefix that is too short or not unique.
    """
    ids = sorted(set(known))
    if prefix in ids:
        return prefix
    found = [known_id for known_id in ids if known_id.startswith(prefix)]
    if not found:
        raise ValueError(f"unknown trial {prefix!r}{nearest(prefix, ids)}; the store has {len(ids)} trials")
    if len(prefix) < SHORTEST_PREFIX:
        raise ValueError(f"trial {prefix!r} is too short; give {SHORTEST_PREFIX} characters or more")
    if len(found) > 1:
        raise ValueError(f"trial {prefix!r} may be any of {', '.join(found[:5])}; give more characters of the id")
    return found[0]


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
