"""Reads a sweep, from a YAML file or a dict, with changes to its keys.

Every mistake is refused by its key, with the nearest known one, and in a file with its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deepcuts.experiment.arms import merged
from deepcuts.experiment.changes import apply_change
from deepcuts.experiment.sweepfile import SweepFile, known_keys
from deepcuts.experiment.yaml_errors import compose_yaml, explained, parse_yaml

# `--set` texts (`finetune.epochs=3`), or a mapping that is merged over: nested mappings merge, lists replace.
Changes = Sequence[str] | Mapping[str, Any]


def read_sweep_file(path: Path, changes: Changes = ()) -> SweepFile:
    """Read the sweep file at `path`, with changes; its name is the stem of the file's name unless it gives one.

        read_sweep_file(Path("sweeps/quickstart.yaml"), {"seeds": [0, 1], "finetune": {"epochs": 1}})

    Raises ValueError with the file, the line, the value and the nearest known key of every mistake.
    """
    try:
        text = path.read_text("utf-8")
        raw, tree = parse_yaml(text), compose_yaml(text)
    except OSError as error:
        raise ValueError(f"cannot read the sweep file {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: malformed YAML: {getattr(error, 'problem', None) or error}") from None
    return _checked(raw, changes, path.stem, f"{path}", tree)


def parse_sweep(raw: Mapping[str, Any], changes: Changes = (), name: str = "sweep") -> SweepFile:
    """Check a sweep that is a mapping with the keys of a sweep file; it is left as it is.

        parse_sweep({"datasets": ["toy"], "strategies": ["LayerSNIP"], "compressions": [2]}, {"seeds": [0, 1]})

    `name` is the sweep's name unless the mapping gives one. Raises ValueError with the path of the key, the value and
    the nearest known key of every mistake.
    """
    return _checked(deepcopy(raw), changes, name, "", None)


def _checked(raw: Any, changes: Changes, name: str, source: str, tree: yaml.Node | None) -> SweepFile:
    """Apply the changes to `raw` and validate it; `source` (or nothing) and the lines of `tree` begin each error."""
    begin = f"{source}: " if source else ""
    if not isinstance(raw, Mapping):
        what = "nothing" if raw is None else type(raw).__name__
        raise ValueError(f"{begin}a sweep is a mapping of keys to values, not {what}")
    values = merged({"name": name} | dict(raw), changes if isinstance(changes, Mapping) else {})
    for change in () if isinstance(changes, Mapping) else changes:
        apply_change(values, change)
    try:
        return SweepFile(**values)
    except ValidationError as error:
        raise ValueError("\n".join(explained(source, tree, error, known_keys))) from None
    except TypeError:
        wrong = [key for key in values if not isinstance(key, str)]
        raise ValueError(f"{begin}every key must be text, not {wrong!r}") from None
