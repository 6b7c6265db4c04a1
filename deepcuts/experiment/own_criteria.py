"""Reads the files of criteria that a sweep names, once: what is checked is what runs, even if a file changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from deepcuts.experiment.settings import Frozen
from deepcuts.experiment.spec import OwnCriterion
from deepcuts.pruning.criteria import CRITERIA, Needs
from deepcuts.pruning.own import code_digest, load_criteria


class CriteriaFile(Frozen):
    """A file with criteria of the user's own: its path, its whole text, and what each of its criteria asks for."""

    path: str
    text: str
    rows: dict[str, OwnCriterion]

    @property
    def digest(self) -> str:
        return code_digest(self.text)


def read_criteria(path: str | Path | CriteriaFile) -> CriteriaFile:
    """Read a file of criteria, which runs it; one that was read already is returned as it is.

    Raises ValueError, with the file and the line, for all that `pruning.own.load_criteria` raises it for, and for a
    file that cannot be read.
    """
    if isinstance(path, CriteriaFile):
        return path
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(
            f"cannot read the criteria {str(path)!r}: {error.strerror or error}; give a file of Python, by its path"
            " from the folder that you launch from"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    digest = code_digest(text)
    rows = {
        name: OwnCriterion(
            file=str(path),
            digest=digest,
            data=row.data,
            outputs=row.outputs,
            shifted=row.shifted,
            signed=row.signed,
        )
        for name, row in load_criteria(str(path), text).items()
    }
    return CriteriaFile(path=str(path), text=text, rows=rows)


def _file(value: Any) -> CriteriaFile:
    if not isinstance(value, str | Path | CriteriaFile):
        raise ValueError(f"must be the path of a file of Python, not {value!r}")
    return read_criteria(value)


OwnFile = Annotated[
    CriteriaFile,
    BeforeValidator(_file, json_schema_input_type=str),
    PlainSerializer(lambda file: file.path, return_type=str),
]


def own_criteria(files: Iterable[CriteriaFile]) -> dict[str, OwnCriterion]:
    """Return the criteria of all files by name. Raises ValueError where two have one name."""
    found: dict[str, OwnCriterion] = {}
    for file in files:
        for name, row in file.rows.items():
            if (other := next((each for each in found if each.casefold() == name.casefold()), None)) is not None:
                raise ValueError(
                    f"criterion {name!r} of {file.path!r} is in {found[other].file!r} too"
                    f"{'' if other == name else f', as {other!r}'}; rename one"
                )
            found[name] = row
    return found


def all_criteria(files: Iterable[CriteriaFile]) -> Mapping[str, Needs]:
    """Return what every criterion asks for, ours and those of the files, by name."""
    return {**CRITERIA, **own_criteria(files)}
