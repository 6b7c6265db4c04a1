"""Lists the tasks: the columns, labels and metric of each dataset. A new dataset is one row here."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Kind = Literal["classification", "regression"]

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews", "macro_f1", "balanced_accuracy"),
    "regression": ("pearson", "spearman", "mse"),
}
# Those of METRICS that are recorded only where they are the main one; `--metric` takes them from the predictions.
ON_REQUEST = ("macro_f1", "balanced_accuracy")


def _strictly_named(columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(columns) not in (1, 2):
        raise ValueError(f"text has {len(columns)} columns {list(columns)!r}; name one, or two for a pair of texts")
    return columns


class Holdout(BaseModel):
    """What is split off the examples of a file or of a training split, each a share (below 1) or a number of examples.

    `size` is the validation part of a file and `test` its test part. `of_train` is a part of the training split, which
    is the validation split then, in place of the real one. `seed` draws all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int | float | None = None
    seed: int = 0
    test: int | float | None = None
    of_train: float | None = None


class Task(BaseModel):
    """One dataset and how to read it: from the Hub (`hub`), or from local files (`files` maps splits to paths).

    With `holdout`, splits are parts of one file, or of the training split. A split called `test` is evaluated at the
    end of each stage alone, and nothing is chosen by it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[tuple[str, ...], AfterValidator(_strictly_named)]
    label: str = "label"
    kind: Kind = "classification"
    classes: int | tuple[str, ...] | None = None
    metric: str | None = None
    hub: str | None = None
    config: str | None = None
    revision: str = "main"
    splits: dict[str, str] = Field(default={"train": "train", "validation": "validation"})
    files: dict[str, str] | None = None
    holdout: Holdout | None = None
    digest: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Task:
        if self.kind == "classification" and self.classes is None:
            raise ValueError("classes is missing; give the number of classes (labels 0, 1, ...) or the list of labels")
        if self.kind == "regression" and self.classes is not None:
            raise ValueError(f"classes is {self.classes!r}; a regression task has no classes: remove it")
        if self.kind == "classification" and self.outputs < 2:
            raise ValueError(f"classes is {self.classes!r}; a classification task needs at least 2")
        if isinstance(self.classes, tuple) and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)!r} repeats a class; name each once")
        if self.label in self.text:
            raise ValueError(f"column {self.label!r} is both text and label; they must differ")
        if self.main_metric not in METRICS[self.kind]:
            raise ValueError(f"unknown metric {self.metric!r} for {self.kind}; known: {', '.join(METRICS[self.kind])}")
        if self.main_metric == "f1" and self.outputs != 2:
            raise ValueError(f"metric 'f1' is for two classes, not {self.outputs}; use macro_f1 or matthews")
        return self

    @property
    def outputs(self) -> int:
        """The width of the head: the number of classes, or 1 for a regression."""
        if self.kind == "regression":
            return 1
        return self.classes if isinstance(self.classes, int) else len(self.classes or ())

    @property
    def class_names(self) -> list[str]:
        """The name of each class; where only their number is known, the numbers as text. Empty for a regression."""
        if self.kind == "regression":
            return []
        return list(self.classes) if isinstance(self.classes, tuple) else [str(i) for i in range(self.outputs)]

    @property
    def split_in_words(self) -> str | None:
        """Say how splits were split off; None where the dataset has them ready."""
        if self.holdout is None:
            return None
        held = self.holdout
        whole = os.path.basename(self.files["train"]) if self.files else "the training split"
        how = f"{'stratified by class, ' if self.kind == 'classification' else ''}data_seed {held.seed}"
        parts = {"validation": held.size, "test": held.test}
        told = " and ".join(f"{name} is {_part(size)}" for name, size in parts.items() if size is not None)
        if held.of_train is None:
            return f"{told} of {whole}, {how}"
        slice_ = f"validation is a holdout of {_part(held.of_train)} of the training split, {how}"
        first = f" ({told} of {whole})" if told else ""
        return f"{slice_}; the real validation split{first} is not looked at"

    @property
    def main_metric(self) -> str:
        return self.metric or ("accuracy" if self.kind == "classification" else "pearson")

    @property
    def recorded_metrics(self) -> tuple[str, ...]:
        """The metrics that a trial records; f1 is for two classes alone."""
        names = [name for name in METRICS[self.kind] if name != "f1" or self.outputs == 2]
        return tuple(name for name in names if name not in ON_REQUEST or name == self.main_metric)


def _part(size: float) -> str:
    return f"{100 * size:g} %" if size < 1 else f"{size:,} examples"


def _glue(config: str, *text: str, classes: int | None = 2, metric: str | None = None) -> Task:
    kind: Kind = "classification" if classes else "regression"
    return Task(text=text, kind=kind, classes=classes, metric=metric, hub="nyu-mll/glue", config=config)


_MNLI_SPLITS = {
    "train": "train",
    "validation": "validation_matched",
    "validation_mismatched": "validation_mismatched",
}

# GLUE: Wang et al. 2019, arXiv 1804.07461, with the main metric of its Table 1.
TASKS: dict[str, Task] = {
    "cola": _glue("cola", "sentence", metric="matthews"),
    "sst2": _glue("sst2", "sentence"),
    "mrpc": _glue("mrpc", "sentence1", "sentence2", metric="f1"),
    "qqp": _glue("qqp", "question1", "question2", metric="f1"),
    "stsb": _glue("stsb", "sentence1", "sentence2", classes=None, metric="pearson"),
    "mnli": _glue("mnli", "premise", "hypothesis", classes=3).model_copy(update={"splits": _MNLI_SPLITS}),
    "qnli": _glue("qnli", "question", "sentence"),
    "rte": _glue("rte", "sentence1", "sentence2"),
    "wnli": _glue("wnli", "sentence1", "sentence2"),
    "toy": Task(text=("sentence",), classes=2),
}

# The names of its three tasks in the seed's scripts.
ALIASES = {"SST2DATA": "sst2", "COLADATA": "cola", "STSBDATA": "stsb"}
