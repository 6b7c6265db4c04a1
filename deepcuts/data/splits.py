"""Reads and checks the splits of a dataset: a task by its name, or the user's own files.

`locate` finds a dataset, `load_split` reads one split. `deepcuts.data.files` and `deepcuts.data.hub` read columns,
which are checked here and in `deepcuts.data.labels`. N = examples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from deepcuts.data.columns import shown
from deepcuts.data.files import FORMATS, read_columns
from deepcuts.data.holdout import split_of
from deepcuts.data.hub import Unreachable, hub_commit, read_hub_columns, title
from deepcuts.data.labels import infer_labels, is_missing, read_labels
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.tasks import ALIASES, TASKS, Holdout, Kind, Task
from deepcuts.names import nearest
from deepcuts.seeds import derive


@dataclass(frozen=True)
class Split:
    """One split: `texts` has one or two texts for each example, `labels` (N,) the index of its class, or its value."""

    texts: list[tuple[str, ...]]
    labels: NDArray[np.float64]

    def select(self, examples: NDArray[np.int64]) -> Split:
        """Return the given examples, in the given order."""
        return Split([self.texts[i] for i in examples], self.labels[examples])


def locate(name: str, own: OwnData | None = None, data_dir: str | None = None, holdout: float | None = None) -> Task:
    """Return the task of a dataset, with absolute paths and a digest of its content unless it is on the Hub.

    With `data_dir`, a dataset of the Hub is read from <data_dir>/<name>/<split>.<format> instead. With `holdout`, the
    validation split is that share of the training split, and the real one is not read. Local files are read and checked
    now, because the digest needs them. Raises ValueError that names the dataset and the file.
    """
    name = name if own else ALIASES.get(name, name)
    with naming_dataset(name):
        task = _own_task(own) if own else _known_task(name)
        if holdout is not None:
            task = _without_validation(task, holdout, own.data_seed if own else 0)
        if name == "toy" and own is None and holdout is None:
            from deepcuts.data.toy import VERSION

            return task.model_copy(update={"digest": VERSION})
        if task.hub and data_dir:
            paths = _files_in(Path(os.path.abspath(os.path.expanduser(data_dir))), name, task)
            task = task.model_copy(update={"hub": None, "config": None, "files": paths})
        if task.hub is not None:
            return task
        return task.model_copy(
            update={"digest": content_digest({split: load_split(task, split) for split in task.splits})}
        )


def load_split(task: Task, split: str) -> Split:
    """Read one split of a located task. Raises ValueError, and Unreachable if the Hub is."""
    if split not in task.splits:
        raise ValueError(f"no split {split!r}; the task has {', '.join(map(repr, task.splits))}")
    if task.files is not None:
        where = task.files[split]
        columns = read_columns(Path(where), [*task.text, task.label])
    elif task.hub is not None:
        where = f"{title(task)}, split {task.splits[split]!r}"
        columns = read_hub_columns(task, split)
    else:
        from deepcuts.data.toy import sentences

        where, pairs = "the built-in dataset", sentences(task.splits[split])
        columns = {task.text[0]: [text for text, _ in pairs], task.label: [label for _, label in pairs]}
    with _naming_file(where):
        if task.holdout is None or (split == "test" and task.holdout.test is None):
            return _split(columns, task, training=split == "train")
        whole = _split(columns, task, training=True)
        splits = split_of(whole.texts, whole.labels, task.holdout, task.class_names)
        return whole.select(np.array([place for place, name in enumerate(splits) if name == split]))


def first_of_shuffle(examples: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Return the indices of `limit` random examples in their original order; of all examples if None.

    They are the first of a shuffle that the seed decides, so a smaller limit selects a subset of a larger one.
    """
    if limit is None or limit >= examples:
        return np.arange(examples)
    order = np.random.default_rng(derive(seed, "max_train_examples")).permutation(examples)
    return np.sort(order[:limit])


def content_digest(splits: Mapping[str, Split]) -> str:
    """Return 32 hex digits of the SHA-256 of all texts and labels in order, whatever file format they came from."""
    sha = hashlib.sha256()
    for name, split in sorted(splits.items()):
        columns = list(zip(*split.texts, strict=True))
        sha.update(json.dumps([name, len(split.texts), len(columns)]).encode())
        for column in columns:
            encoded = [text.encode() for text in column]
            sha.update(np.array([len(text) for text in encoded], "<i8").tobytes())
            sha.update(b"".join(encoded))
        sha.update((split.labels + 0.0).astype("<f8").tobytes())  # + 0.0: no negative zero
    return sha.hexdigest()[:32]


def data_commit(task: Task) -> str | None:
    """Return the Hub commit that this process reads a task from; None for local data. Raises Unreachable."""
    return None if task.hub is None else hub_commit(task)


# Finding a dataset


def _known_task(name: str) -> Task:
    if name not in TASKS:
        hint = nearest(name, [*TASKS, *ALIASES]) or ";"
        raise ValueError(f"unknown{hint} known: {', '.join(TASKS)}; or describe your own files")
    return TASKS[name]


def _own_task(own: OwnData) -> Task:
    fields = own.model_dump(
        include={"label", "metric", "hub", "config", "revision", *(("splits",) if own.splits else ())}
    )
    kind, classes = own.kind, tuple(own.classes) if isinstance(own.classes, list) else own.classes
    if own.hub is None:
        paths = {"train": own.file or own.train, "validation": own.file or own.validation}
        if own.test is not None:
            paths["test"] = own.file or own.test
        files = {split: os.path.abspath(os.path.expanduser(str(path))) for split, path in paths.items()}
        fields |= {"files": files, "splits": {split: split for split in files}}
        if classes is None and kind != "regression":
            kind, classes = _inferred(own, list(dict.fromkeys(files.values())))
    if own.file is not None and isinstance(own.validation, int | float):
        test = own.test if isinstance(own.test, int | float) else None
        fields["holdout"] = Holdout(size=own.validation, seed=own.data_seed, test=test)
    return Task(**fields, text=tuple(own.text), kind=kind or "classification", classes=classes)


def _without_validation(task: Task, share: float, seed: int) -> Task:
    """Return the task with a share of its training split for validation; of its other splits only `test` is left."""
    sources = {"train": "train", "validation": "train"} | ({"test": "test"} if "test" in task.splits else {})
    held = (task.holdout or Holdout(seed=seed)).model_copy(update={"of_train": share})
    splits = {split: task.splits[source] for split, source in sources.items()}
    files = task.files and {split: task.files[source] for split, source in sources.items()}
    return task.model_copy(update={"holdout": held, "splits": splits, "files": files})


def _inferred(own: OwnData, files: Sequence[str]) -> tuple[Kind, tuple[str, ...] | None]:
    labels = [label for path in files for label in read_columns(Path(path), [own.label])[own.label]]
    with _naming_file(" and ".join(files)):
        return infer_labels(labels, own.label, own.kind)


def _files_in(data_dir: Path, name: str, task: Task) -> dict[str, str]:
    folder = data_dir / name
    if not folder.is_dir():
        folders = sorted(path.name for path in data_dir.iterdir() if path.is_dir()) if data_dir.is_dir() else None
        listed = "data_dir itself does not exist" if folders is None else f"it has {', '.join(folders) or 'no folders'}"
        raise ValueError(f"no folder {str(folder)!r} in data_dir; {listed}")
    paths = {}
    for split, stem in task.splits.items():
        names = [stem + suffix for suffix in FORMATS]
        found = [file for file in names if (folder / file).is_file()]
        if not found:
            raise ValueError(f"no file for split {split!r} in {str(folder)!r}; looked for {', '.join(names)}")
        if len(found) > 1:
            raise ValueError(f"{' and '.join(found)} are both in {str(folder)!r}; keep one of them")
        paths[split] = str(folder / found[0])
    return paths


@contextmanager
def naming_dataset(name: str) -> Iterator[None]:
    """Put the name of the dataset before the message of an error."""
    try:
        yield
    except Unreachable as error:
        raise Unreachable(f"dataset {name!r}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ValueError(f"dataset {name!r}: {problems}") from None
    except ValueError as error:
        raise ValueError(f"dataset {name!r}: {error}") from None


# Checking columns


@contextmanager
def _naming_file(where: str) -> Iterator[None]:
    """Put the file, or what else holds the split, before the message of an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _split(columns: Mapping[str, Sequence[Any]], task: Task, training: bool) -> Split:
    if not columns[task.label]:
        raise ValueError("holds no examples")
    for name in task.text:
        _check_text(name, columns[name])
    texts = list(zip(*(columns[name] for name in task.text), strict=True))
    labels = read_labels(columns[task.label], task)
    if training and task.kind == "classification" and (labels == labels[0]).all():
        only = shown(columns[task.label][0])
        raise ValueError(f"every label of the training split is {only}: there is nothing to learn; add other classes")
    return Split(texts, labels)


def _check_text(name: str, values: Sequence[Any]) -> None:
    wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        missing = is_missing(values[wrong[0]])
        what = "is missing" if missing else f"is {shown(values[wrong[0]])}, not text"
        advice = "remove or fill such rows" if missing else "name a column of text, or write the values as text"
        raise ValueError(f"column {name!r} {what} in row {wrong[0]} (from 0), {len(wrong)} such rows; {advice}")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        row = next(row for row, text in enumerate(values) if text.encode(errors="replace").decode() != text)
        raise ValueError(f"column {name!r} has half a surrogate pair in row {row} (from 0); repair it") from None
