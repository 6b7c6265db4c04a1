"""Changes keys of a sweep that is still a mapping, as `--set retrain.epochs=3` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from deepcuts.experiment.yaml_errors import parse_yaml


def apply_change(raw: dict[str, Any], change: str) -> None:
    """Apply one `--set key.sub=value` to `raw`, in place. Raises ValueError for one that cannot be read."""
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ValueError(f"cannot read --set {change!r}; write key=value, as in retrain.epochs=3")
    *parents, last = _parts(raw, key.strip())
    for parent in parents:
        if raw.get(parent) is None:
            raw[parent] = {}
        raw = raw[parent]
        if not isinstance(raw, dict):
            raise ValueError(f"cannot read --set {change!r}: {parent!r} is {raw!r}, which has no keys")
    try:
        raw[last] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot read --set {change!r}: {getattr(error, 'problem', error)}") from None


def _parts(raw: Mapping[str, Any], key: str) -> list[str]:
    """Split the key of a change at its dots, but for those of an axis, and of an arm that `raw` has."""
    first, _, rest = key.partition(".")
    if first == "axes":
        return [first, rest] if rest else [first]
    labels = raw.get(first) if first == "strategies" else None
    begun = [each for each in labels if rest.startswith(f"{each}.")] if isinstance(labels, Mapping) else []
    label = max(begun, key=len, default="")
    return [first, label, *rest.removeprefix(f"{label}.").split(".")] if label else key.split(".")
