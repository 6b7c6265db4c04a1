"""Counts what may be wrong with the examples of a dataset, and refuses what cannot be learned or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcuts.data.splits import Split, first_of_shuffle, load_split, naming_dataset
from deepcuts.experiment.metrics import majority_score
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.tasks import Task
from deepcuts.wording import class_in_words

# Splits that must not have the same examples.
_PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))
MOST_CLASSES = 6  # that are listed one by one


@dataclass(frozen=True)
class Facts:
    """The examples of a split, counted.

    `labels` has the examples of each class by its name, 0 for a class that never occurs; of a regression it is empty,
    and `values` is the lowest, mean and highest label. `empty` examples have a blank text; `repeated` ones have the
    text of an earlier one of the split; `in_train` ones have a text of the training split (None for that split itself),
    `in_validation` ones of the validation split (None but for the test split); `contradictory` ones have a text that
    has another label elsewhere in the split or in the training split; `truncated` ones have more than `max_tokens`
    tokens (None where nothing was tokenised).
    """

    examples: int
    labels: dict[str, int]
    values: tuple[float, float, float] | None
    empty: int
    repeated: int
    in_train: int | None
    contradictory: int
    truncated: int | None = None
    in_validation: int | None = None

    @property
    def absent(self) -> list[str]:
        """The classes that never occur."""
        return [name for name, count in self.labels.items() if not count]


def check(
    name: str,
    task: Task,
    same_data: bool = False,
    max_train_examples: int | None = None,
    seeds: Sequence[int] = (),
) -> dict[str, Facts]:
    """Read and check all splits of a dataset; return the facts of each.

    Raises ValueError that names the dataset: for anything that cannot be read, for two of train, validation and test
    that have the same examples (unless `same_data`), and where `max_train_examples` leaves one class for one of the
    `seeds`.
    """
    with naming_dataset(name):
        splits = {split: load_split(task, split) for split in task.splits}
        for first, second in [] if same_data else _PAIRS:
            if {first, second} <= set(splits) and _same_examples(splits[first], splits[second]):
                files = f" ({task.files[first]}, {task.files[second]})" if task.files else ""
                raise ValueError(
                    f"{first} and {second} have the same examples{files}: a score on them says nothing about new texts;"
                    f" give other {second} data, or, if this is what you want, same_data: true"
                )
        if max_train_examples is not None and task.kind == "classification":
            for seed in seeds:
                _check_selection(splits["train"], task, max_train_examples, seed)
        return count_facts(splits, task)


def _same_examples(one: Split, other: Split) -> bool:
    """Whether two splits have the same examples, in any order."""
    if len(one.texts) != len(other.texts):
        return False
    first, second = (sorted(zip(each.texts, each.labels.tolist(), strict=True)) for each in (one, other))
    return first == second


def _check_selection(train: Split, task: Task, limit: int, seed: int) -> None:
    left = np.unique(train.labels[first_of_shuffle(len(train.texts), limit, seed)])
    if len(left) == 1:
        only = _class_names_of(task)[int(left[0])]
        raise ValueError(
            f"max_train_examples: the {limit:,} that seed {seed} selects all have the label {only!r}: there is nothing"
            " to learn; raise it"
        )


def _class_names_of(task: Task) -> list[str]:
    return [str(name) for name in (task.classes if isinstance(task.classes, tuple) else range(task.outputs))]


def count_facts(splits: Mapping[str, Split], task: Task) -> dict[str, Facts]:
    """Count the facts of the splits of a task, one of which is `train`."""
    train = _labels_by_text(splits["train"], {})
    validation = set(splits["validation"].texts) if "test" in splits else set()
    found = {}
    for name, split in splits.items():
        known = train if name == "train" else _labels_by_text(split, train)
        distinct = len(set(split.texts))
        found[name] = Facts(
            examples=len(split.texts),
            labels=_counts(split, task),
            values=_range(split) if task.kind == "regression" else None,
            empty=sum(not all(map(str.strip, text)) for text in split.texts),
            repeated=len(split.texts) - distinct,
            in_train=None if name == "train" else sum(text in train for text in split.texts),
            contradictory=sum(known[text] is None for text in split.texts),
            in_validation=sum(text in validation for text in split.texts) if name == "test" else None,
        )
    return found


def _labels_by_text(split: Split, before: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], float | None]:
    """Map each text to its label, None where it has several; begin with the labels of `before`."""
    found = dict(before)
    for text, label in zip(split.texts, split.labels.tolist(), strict=True):
        if found.setdefault(text, label) != label:
            found[text] = None
    return found


def _counts(split: Split, task: Task) -> dict[str, int]:
    if task.kind == "regression":
        return {}
    counts = np.bincount(split.labels.astype(np.int64), minlength=task.outputs)
    return dict(zip(_class_names_of(task), counts.tolist(), strict=True))


def _range(split: Split) -> tuple[float, float, float]:
    return float(split.labels.min()), float(split.labels.mean()), float(split.labels.max())


def facts_in_words(facts: Mapping[str, Facts], task: Task, limit: int | None = None) -> list[str]:
    """Say how the labels are distributed and, a line each, what may be wrong with the examples.

    `limit` is the most training examples that are used; the facts are those of all.
    """
    labels = [f"in {split} {_distribution(each)}" for split, each in facts.items()]
    if limit is not None and limit < facts["train"].examples:
        labels[0] += f" (of all {facts['train'].examples:,}; each seed draws {limit:,} of them)"
    if task.kind == "classification":
        counts = facts["validation"].labels
        most = max(counts, key=lambda name: counts[name])
        score = majority_score(
            task.main_metric, np.repeat(np.arange(len(counts), dtype=np.float64), [*counts.values()])
        )
        labels.append(f"always predicting {class_in_words(most)}: {task.main_metric} {score:z.3f}")
    notes = [f"note: {problems}" for split, each in facts.items() if (problems := _problems(split, each))]
    return [f"labels {'; '.join(labels)}", *notes]


def inferred_in_words(own: OwnData | None, task: Task, facts: Mapping[str, Facts]) -> list[str]:
    """Say, a line each, how validation was split off, and the classes and kind that the sweep file left out."""
    lines = [f"{task.split_in_words}; equal texts stay on one side"] if task.split_in_words else []
    if own is None:
        return lines
    if own.classes is None and isinstance(task.classes, tuple):
        lines.append(f"classes: [{', '.join(task.classes)}], inferred from the labels")
        if own.kind is None:
            lines[-1] += "; if they are numbers to predict, say kind: regression" if _are_numbers(task.classes) else ""
    if own.kind is None and task.kind == "regression":
        low = min(each.values[0] for each in facts.values() if each.values)
        high = max(each.values[2] for each in facts.values() if each.values)
        lines.append(
            f"kind: regression, guessed from labels that are not all whole numbers ({low:g} to {high:g}); say kind:"
            " regression to be sure, or kind: classification"
        )
    return lines


def _are_numbers(classes: Sequence[str]) -> bool:
    return all(name.lstrip("+-").replace(".", "").isdecimal() for name in classes)


def _distribution(facts: Facts) -> str:
    if facts.values is not None:
        low, mean, high = facts.values
        return f"{low:g} to {high:g} (mean {mean:.3g})"
    if len(facts.labels) <= MOST_CLASSES:
        return ", ".join(f"{count:,} of {class_in_words(name)}" for name, count in facts.labels.items())
    counts = facts.labels.values()
    return f"{len(facts.labels)} classes of {min(counts):,} to {max(counts):,} examples"


def _problems(split: str, facts: Facts) -> str:
    """Say what may be wrong with a split; nothing where nothing is."""
    counts = {
        "empty": facts.empty,
        "repeated": facts.repeated,
        "also in train": facts.in_train,
        "also in validation": facts.in_validation,
        "that also have another label": facts.contradictory,
    }
    found = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    parts = [f"{facts.examples:,} texts in {split}: {found}"] if found else []
    if facts.absent:
        more = f" and {len(facts.absent) - MOST_CLASSES} more" if len(facts.absent) > MOST_CLASSES else ""
        parts.append(f"{split} has no example of {', '.join(map(repr, facts.absent[:MOST_CLASSES]))}{more}")
    if facts.values is not None and facts.values[0] == facts.values[2]:
        parts.append(f"every label in {split} is {facts.values[0]:g}")
    return "; ".join(parts)
