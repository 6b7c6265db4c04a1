"""Finds the classification head that a model's weights hold, and how its rows match the classes of a task (no torch).

A head is every tensor outside the encoder; its label tensors have a row for each output. Weights hold a head where they
hold a label tensor: other tensors outside the encoder come from pretraining, as in ModernBERT, and are always loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import deepcuts
from deepcuts.data.user_cache import cache_folder, write_cache
from deepcuts.experiment.spec import ModelSource, canonical
from deepcuts.experiment.tasks import Task
from deepcuts.model.counts import config_bytes
from deepcuts.model.folder import folder_of, weight_shapes

Shapes = Mapping[str, tuple[int, ...]]


def weights_hold_head(model: ModelSource, outputs: int) -> bool:
    """Return whether the weights hold a head of which at least one tensor fits a task with so many outputs.

    Trials of such a model have ids of their own, because earlier versions of deepcuts kept the tensors that fit. The
    weights of a Hub model need not be on this machine, so its config answers for them: they hold a head if its
    `architectures` name a model for sequence classification. Where the config says otherwise, as for a model for token
    classification, the ids stay what they were, although the head is now drawn from the seed.

    Raises ValueError where a folder's weights cannot be read, or a config cannot be loaded.
    """
    held = _held(model)
    if not held:
        return False
    head, labels = _layout(model, outputs)
    return not labels.isdisjoint(held) and any(held.get(name) == shape for name, shape in head.items())


def head_rows(model: ModelSource, task: Task) -> list[int]:
    """Return the row of the weights' own head for each output of a task, matched by the names of the classes.

    The names of the rows are `id2label` in the model's config; a class that has only a number is named by it. Raises
    ValueError where the weights hold no whole head for so many outputs, or the names are not those of the classes.
    """
    held = _held(model)
    head, labels = _layout(model, task.outputs) if held else ({}, set())
    if not labels or not labels <= set(held):
        raise ValueError(f"the weights of model {model.name!r} hold no classification head; remove the key")
    for name in sorted(labels):
        if held[name] != head[name]:
            raise ValueError(
                f"the head in the weights of model {model.name!r} has {held[name][0]} outputs, and the dataset needs"
                f" {task.outputs}; remove the key"
            )
    if lacking := sorted(set(head) - set(held)):
        raise ValueError(f"the weights of model {model.name!r} hold a part of a head: {lacking[0]!r} is missing")
    return [0] if task.kind == "regression" else _matched(model, task)


def _matched(model: ModelSource, task: Task) -> list[int]:
    named, classes = _config(model).get("id2label"), task.class_names
    rows = {str(label): row for row, label in named.items()} if isinstance(named, dict) else {}
    if set(rows) == set(classes) and set(rows.values()) == {str(row) for row in range(task.outputs)}:
        return [int(rows[name]) for name in classes]
    raise ValueError(
        f"the labels of its rows (id2label in the config of model {model.name!r}) are {list(rows) or None!r}, and the"
        f" classes of the dataset {classes!r}; change one or the other, so that they are the same, or remove the key"
    )


def _held(model: ModelSource) -> Shapes:
    """Return the shapes of the tensors in the weights; for a Hub model those of the head that its config implies."""
    if model.name == "toy":
        return {}
    folder = folder_of(model.name)
    if folder is not None:
        return weight_shapes(folder)
    architectures = _config(model).get("architectures") or ()
    classifies = any(str(name).endswith("ForSequenceClassification") for name in architectures)
    return _layout(model, None)[0] if classifies else {}


def _config(model: ModelSource) -> dict[str, Any]:
    content = config_bytes(model)
    return {} if content is None else dict(json.loads(content))


def _layout(model: ModelSource, outputs: int | None) -> tuple[Shapes, set[str]]:
    """Return what `head_layout` finds, from the user's cache where it has it."""
    content = config_bytes(model)
    path = None
    if content is not None:
        versions = [deepcuts.__version__, version("transformers")]
        key = canonical({"config": hashlib.sha256(content).hexdigest(), "outputs": outputs, "versions": versions})
        path = cache_folder("heads") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        try:
            shapes, labels = json.loads(path.read_text("utf-8"))
            return {name: tuple(shape) for name, shape in shapes.items()}, set(labels)
        except (OSError, ValueError, TypeError, AttributeError):  # missing or damaged
            pass
    from deepcuts.model.load import head_layout

    shapes, labels = head_layout(model.name, model.revision, outputs)
    if path is not None:
        write_cache(path, json.dumps([shapes, sorted(labels)]).encode())
    return shapes, labels
