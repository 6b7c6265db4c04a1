"""Files that this user may not read: doctor says so and changes nothing, for nothing is known of their bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from builders.stores import kept_files, write_artifact
from builders.whole_trials import partly_compacted
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from deepcuts.cli.main import main
from deepcuts.names import COMPACTED
from deepcuts.store.doctor import Finding, examine_store, mend_store
from deepcuts.store.store import Store

A, B, C = (letter * 16 for letter in "abc")


class Closed(LocalFileSystem):
    """The local filesystem, where to open one file is answered by an error."""

    cachable = False

    def __init__(self, part: str, code: int) -> None:
        super().__init__()
        self.part, self.code = part, code

    def open(self, path: str, *given: object, **named: object) -> object:
        if self.part in path:
            raise OSError(self.code, "No way", path)
        return super().open(path, *given, **named)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    partly_compacted(made, (A, B, C))
    write_artifact(made, "dense", A)
    assert examine_store(made, busy=False) == []
    return made


def closed(store: Store, part: str, code: int) -> Store:
    other = Store(store.uri)
    other.filesystem = fs.PyFileSystem(fs.FSSpecHandler(Closed(part, code)))
    return other


EVERY_FILE = pytest.mark.parametrize(
    "part",
    [
        *(f"/{table}/{name}" for table in ("trials", "metrics", "predictions", "masks") for name in (C, COMPACTED)),
        "/sweeps/first.parquet",
        "/sweeps/first.yaml",
        f"/artifacts/dense/{A}/meta.json",
        f"/artifacts/dense/{A}/x",
    ],
)


@EVERY_FILE
def test_a_file_that_may_not_be_read_is_not_damaged(
    store: Store, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept_files(Path(store.root))
    with pytest.raises(PermissionError, match=part):
        examine_store(closed(store, part, errno.EACCES), busy=False)
    monkeypatch.setattr("deepcuts.cli.upkeep.existing", lambda _: closed(store, part, errno.EACCES))
    assert main(["doctor", store.uri, "--fix"]) == 1
    assert f"error: No way: {store.root}{part}" in capsys.readouterr().err
    assert kept_files(Path(store.root)) == before


@pytest.mark.parametrize("table", ["trials", "metrics", "predictions", "masks"])
def test_a_table_on_a_bad_part_of_the_disk_is_damaged(store: Store, table: str) -> None:
    found = examine_store(closed(store, f"/{table}/{C}", errno.EIO), busy=False)
    assert (found[0].path, found[0].mend) == (f"{table}/{C}.parquet", "set aside")
    assert "unreadable: [Errno 5] No way" in found[0].problem


@pytest.mark.parametrize(("code", "problem"), [(errno.EIO, "x cannot be read: [Errno 5]"), (None, "x is missing")])
def test_a_file_of_an_artifact_that_is_lost_is_named(store: Store, code: int | None, problem: str) -> None:
    if code is None:
        (Path(store.root) / f"artifacts/dense/{A}/x").unlink()
    (found,) = examine_store(closed(store, f"{A}/x", code) if code else store, busy=False)
    assert (found.path, found.mend) == (f"artifacts/dense/{A}", "set aside")
    assert problem in found.problem


def test_rows_that_cannot_be_reached_while_a_file_is_mended_are_not_given_up(store: Store) -> None:
    (name,) = store.files("metrics")[1]
    finding = Finding(f"metrics/{name}", "some of it", "set aside", (A,))
    before = kept_files(Path(store.root))
    with pytest.raises(PermissionError):
        mend_store(closed(store, name, errno.EACCES), [finding])
    assert kept_files(Path(store.root)) == before
