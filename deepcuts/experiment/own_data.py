"""Describes a dataset of the user's own: files, or a Hub id, and the columns to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from deepcuts.experiment.settings import Frozen, Natural, Number, Positive
from deepcuts.experiment.tasks import Kind


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _class_name(value: Any) -> Any:
    """Return the name of a class that YAML reads as a number or a boolean: 1 is "1", true is "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def _part_or_path(value: Any) -> Any:
    """Refuse a number that is neither a share nor a count, in one message rather than one for each type."""
    number = isinstance(value, int | float)
    if number and (isinstance(value, bool) or not (0 < value < 1 or (value >= 1 and value == value // 1))):
        raise ValueError(
            f"{value!r} is neither a share of the examples (between 0 and 1), nor their number, nor a file's path"
        )
    return value


def _split_name(name: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise ValueError(f"{name!r} is not the name of a split; use letters, digits, _ and .")
    return name


ClassName = Annotated[str, BeforeValidator(_class_name, json_schema_input_type=str | int | bool)]
SplitName = Annotated[str, AfterValidator(_split_name)]
Part = Annotated[Number, Field(gt=0, lt=1)]
Seed = Annotated[Natural, Field(lt=2**63)]


class OwnData(Frozen):
    """A dataset of the user's own: files, or a Hub id. Paths are relative to the folder that you launch from.

    `validation` is a file beside `train`, or the part of `file` that is held out, drawn with `data_seed`: a share (0.2)
    or a number of examples (80). `test` is another such file or part, which is evaluated at the end of each stage
    alone. Without `classes`, those of files are the labels that occur; without `kind`, labels
    that are not all whole numbers make it a regression.

    `splits` maps train and validation (and test, and others, evaluated beside it) to the names of the Hub's splits.
    With `same_data`, splits may have the same examples.
    """

    train: str | None = None
    validation: Annotated[str | Positive | Part | None, BeforeValidator(_part_or_path)] = None
    test: Annotated[str | Positive | Part | None, BeforeValidator(_part_or_path)] = None
    file: str | None = None
    data_seed: Seed = 0
    hub: str | None = None
    config: str | None = None
    revision: str = "main"
    splits: dict[SplitName, SplitName] | None = None
    text: Annotated[list[str], BeforeValidator(_one_or_more)]
    label: str = "label"
    kind: Kind | None = None
    classes: Positive | list[ClassName] | None = None
    metric: str | None = None
    same_data: bool = False

    @model_validator(mode="before")
    @classmethod
    def _kind_as_told(cls, values: Any) -> Any:
        """Without a kind it is a classification, unless the labels of files are all there is to tell."""
        if not isinstance(values, Mapping) or values.get("kind") is not None:
            return values
        told = values.get("hub") is not None or values.get("classes") is not None
        return {**values, "kind": "classification"} if told else values

    @model_validator(mode="after")
    def _one_source(self) -> OwnData:
        parts = (self.file, self.train, self.validation)
        if (self.hub is None) == all(part is None for part in parts):
            raise ValueError("give either hub, or train and validation, or file and validation")
        if self.hub is None:
            self._check_files()
        elif self.test is not None:
            raise ValueError(
                f"test is {self.test!r}; name the test split of a Hub dataset in splits: {{train: train, validation:"
                " validation, test: test}"
            )
        elif any(part is not None for part in parts):
            raise ValueError("give either hub, or train and validation, or file and validation")
        if self.splits is not None and self.hub is None:
            raise ValueError("splits names the splits of a Hub dataset; with files, train and validation are enough")
        if self.splits is not None and (missing := {"train", "validation"} - set(self.splits)):
            raise ValueError(
                f"splits {self.splits!r} lacks {' and '.join(sorted(missing))}; write, for example,"
                " splits: {train: train, validation: test}"
            )
        return self

    def _check_files(self) -> None:
        part = self.validation is not None and not isinstance(self.validation, str)
        if self.file is not None and self.train is not None:
            raise ValueError("give either file, which is split, or train and validation")
        if self.file is not None and not part:
            raise ValueError(
                f"validation is {self.validation!r}; beside file, it is the part of it to hold out: a share of the"
                " examples such as 0.2, or their number such as 80"
            )
        if self.file is None and part:
            raise ValueError(f"validation: {self.validation!r} is a part of file; write file: PATH in place of train")
        if self.test is not None and (self.file is None) != isinstance(self.test, str):
            beside_files = "beside train and validation, it is a file"
            beside_file = "beside file, it is a part of it: a share of the examples such as 0.1, or their number"
            raise ValueError(f"test is {self.test!r}; {beside_files if self.file is None else beside_file}")
        if self.file is None and (self.train is None or self.validation is None):
            raise ValueError("give both files, train and validation, or one as file with validation: 0.2")
