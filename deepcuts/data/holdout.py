"""Holds examples out for validation or test, the same ones on every machine and version. N = examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deepcuts.data.columns import shown
from deepcuts.experiment.tasks import Holdout
from deepcuts.seeds import derive

_Text = tuple[str, ...]
_Integers = NDArray[np.int64]


def split_of(
    texts: Sequence[_Text], labels: NDArray[np.float64], holdout: Holdout, classes: Sequence[str]
) -> list[str | None]:
    """Return the split of each of the N examples, None where it is in none; see `hold_out`, which raises ValueError.

    The parts are drawn one after the other from what is left, so that a test part, or a part of the training split,
    changes no validation part. With `of_train` the latter is in no split.
    """
    splits = np.full(len(texts), "train", dtype=object)
    test = holdout.test if holdout.test is None or holdout.test >= 1 else int(holdout.test * len(texts) + 0.5)
    for name, size in (("validation", holdout.size), ("test", test), ("holdout", holdout.of_train)):
        if size is not None:
            left = np.flatnonzero(splits == "train").tolist()
            asked = Holdout(size=size, seed=holdout.seed)
            part = hold_out([texts[i] for i in left], labels[left], asked, classes, name)
            splits[np.array(left)[part]] = name
    if holdout.of_train is not None:
        splits[splits == "validation"] = None
        splits[splits == "holdout"] = "validation"
    return list(splits)


def hold_out(
    texts: Sequence[_Text],
    labels: NDArray[np.float64],
    holdout: Holdout,
    classes: Sequence[str],
    name: str = "validation",
) -> NDArray[np.bool_]:
    """Return which of the N examples are held out (N,): `holdout.size` of them, for what `name` says.

    Each class gives its share (`labels` are indices of `classes`); a regression has no classes and is one stratum.
    Equal texts stay on one side, so fewer examples than asked may be held out where texts repeat. Which texts are taken
    follows from a hash of the seed and the text, not from the order of the file. Raises ValueError where the asked size
    is too small or too large, and for classes that cannot be on both sides.
    """
    examples: dict[_Text, list[int]] = defaultdict(list)
    for example, text in enumerate(texts):
        examples[text].append(example)
    strata = labels.astype(np.int64) if classes else np.zeros(len(texts), np.int64)
    sizes = np.bincount(strata, minlength=len(classes))
    distinct = [0] * len(sizes)
    stratum_of, size_of = strata.tolist(), sizes.tolist()
    members: dict[int, list[_Text]] = defaultdict(list)
    for text, places in examples.items():
        found = sorted({stratum_of[place] for place in places})
        for stratum in found:
            distinct[stratum] += 1
        members[min(found, key=size_of.__getitem__)].append(text)  # with several labels: where it is rarest
    _check_sides([stratum for stratum, count in enumerate(distinct) if count == 1], distinct, classes)
    assert holdout.size is not None
    total = _total(name, holdout.size, len(texts), int((sizes > 0).sum()))
    chosen: list[int] = []
    for stratum, quota in enumerate(_quotas(sizes, total)):
        ordered = sorted(members[stratum], key=lambda text: derive(holdout.seed, name, *text))
        for text in _taken(ordered, {text: len(examples[text]) for text in ordered}, quota):
            chosen += examples[text]
    held = np.zeros(len(texts), np.bool_)
    held[chosen] = True
    one_sided = [int(stratum) for stratum in np.flatnonzero(sizes) if len(np.unique(held[strata == stratum])) == 1]
    _check_sides(one_sided, distinct, classes)
    return held


def _check_sides(wrong: Sequence[int], distinct: Sequence[int], classes: Sequence[str]) -> None:
    """Raise ValueError with the strata that have no example to train on or none to validate on, if there are any."""
    told = [
        f"{f'class {shown(classes[stratum])}' if classes else 'the file'} has"
        f" {'a single text' if distinct[stratum] == 1 else 'texts that also have other labels'}"
        for stratum in wrong
    ]
    if told:
        raise ValueError(
            f"cannot be split: {'; '.join(told)}; each class needs a text to train on and another to evaluate on, and"
            " equal texts stay on one side: add examples, or remove those of the class"
        )


def _total(name: str, size: float, examples: int, strata: int) -> int:
    """Return the number of examples to hold out. Raises ValueError unless each stratum can be on both sides."""
    total = int(size * examples + 0.5) if size < 1 else int(size)
    if not strata <= total <= examples - strata:
        each = f"one of each of the {strata} classes" if strata > 1 else "one"
        raise ValueError(
            f"{name}: {size!r} is {total:,} of {examples:,} examples; both sides need at least {each}: give a"
            f" number from {strata} to {examples - strata:,}, or a share"
        )
    return total


def _quotas(sizes: _Integers, total: int) -> list[int]:
    """Divide `total` among strata in proportion to their sizes: at least 1, and at least 1 left; of an empty one 0."""
    examples = int(sizes.sum())
    quotas = np.clip(sizes * total // examples, np.minimum(sizes, 1), np.maximum(sizes - 1, 0))
    while quotas.sum() != total:
        lacks = sizes * total - quotas * examples  # of each stratum, in 1/examples of an example
        if quotas.sum() < total:
            quotas[np.where(quotas < sizes - 1, lacks, lacks.min() - 1).argmax()] += 1
        else:
            quotas[np.where(quotas > 1, lacks, lacks.max() + 1).argmin()] -= 1
    return [int(quota) for quota in quotas]


def _taken(texts: Sequence[_Text], counts: Mapping[_Text, int], quota: int) -> list[_Text]:
    """Return the first texts whose examples fit into the quota; where none does, the one with the fewest."""
    taken, left = [], quota
    for text in texts:
        if counts[text] <= left:
            taken.append(text)
            left -= counts[text]
    return taken or sorted(texts, key=counts.__getitem__)[:1]
