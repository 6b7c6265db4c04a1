"""The texts of criteria of the user's own in a store: kept, checked, brought along, and never run by who reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from builders.filled_store import write_trial
from builders.own_criteria import MINE, write_mine
from builders.rows import row_of
from builders.specs import sweep
from builders.stores import remote_store

from deepcuts.cli.main import main
from deepcuts.experiment.grid import SweepSpec
from deepcuts.pruning.own import code_digest
from deepcuts.store.code import all_code, kept_code, used_code
from deepcuts.store.doctor import examine_store, mend_store
from deepcuts.store.merging import merge_stores, rename_sweep
from deepcuts.store.removal import plan_removal, remove
from deepcuts.store.store import Store
from deepcuts.sweep.launch import _write_sweep

COUNTING = MINE + "\nimport sys\nsys.times_run = getattr(sys, 'times_run', 0) + 1\n"
DIGEST = code_digest(COUNTING)


@pytest.fixture
def made(tmp_path: Path) -> SweepSpec:
    """A sweep of two strategies, one of them of a file that counts how often it runs."""
    mine = write_mine(tmp_path, COUNTING)
    keys = {"strategies": ["LayerSquare", "LayerMagWeight"], "sparsities": [0.5, 0.9], "seeds": [0, 1]}
    return sweep(name="some", criteria=[mine], **keys)


@pytest.fixture
def store(tmp_path: Path, made: SweepSpec) -> Store:
    return fill(Store(str(tmp_path / "store")), made)


def fill(store: Store, made: SweepSpec) -> Store:
    """Write what a launch of the sweep would leave, with made-up numbers."""
    _write_sweep(store, made)
    for number, spec in enumerate(made.trials()):
        levels = {"sparsity": spec.sparsity or 0.0, "compression_achieved": 1.5, "criterion": spec.score.criterion}
        write_trial(store, row_of(spec, sweep=made.name, retrained=0.8 + number / 100, **levels), spec.dense.seed)
    return store


def times_run() -> int:
    return int(getattr(sys, "times_run", 0))


def problems(store: Store) -> dict[str, str]:
    return {each.path: each.mend for each in examine_store(store, busy=False) if each.path.endswith(".py")}


def square(store: Store) -> list[str]:
    rows = store.read("trials").table.to_pylist()
    return [row["trial_id"] for row in rows if row["strategy"] == "LayerSquare"]


def test_nothing_that_reads_a_store_runs_a_file(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, uri = times_run(), store.uri
    assert before > 0
    for arguments in (
        ["status"],
        ["show", square(store)[0]],
        ["table"],
        ["table", "--columns", "criterion.digest"],
        ["curves", "-o", str(tmp_path / "curves.png")],
        ["iou", "-o", str(tmp_path / "iou.png")],
        ["compare", "--baseline", "LayerMagWeight"],
        ["report", "-o", str(tmp_path / "report.html")],
        ["query", "select count(*) from trials"],
        ["cache"],
        ["compact"],
        ["doctor"],
        ["rename", "some", "other"],
        ["rm", "--sweep", "other", "--yes"],
    ):
        code = main([arguments[0], uri, *arguments[1:]])
        assert code == (1 if arguments == ["doctor"] else 0), (arguments, capsys.readouterr())  # the rows lack others
    assert "LayerSquare" in capsys.readouterr().out
    assert times_run() == before


def test_the_store_has_the_text_that_trials_were_scored_by(store: Store) -> None:
    assert all_code(store) == [DIGEST]
    assert kept_code(store, DIGEST) == COUNTING
    assert used_code(store) == {DIGEST: 4}
    assert problems(store) == {}


def test_a_trial_in_rounds_counts_once_for_the_text_that_each_of_its_rounds_names(store: Store) -> None:
    row = store.read("trials", where=ds.field("trial_id") == square(store)[0]).table.to_pylist()[0]
    spec = row["spec"].replace('"previous":null', f'"previous":{row["spec"]}')
    store.write("trials", "f" * 16, [row | {"trial_id": "f" * 16, "spec": spec}])
    assert used_code(store) == {DIGEST: 5}


def test_a_damaged_or_lost_text_is_found_and_written_by_the_next_run(store: Store, made: SweepSpec) -> None:
    name = f"sweeps/{DIGEST}.py"
    for content in (COUNTING.encode()[:-1], b"\xff", b""):
        store.write_bytes(name, content)
        assert kept_code(store, DIGEST) is None
        assert problems(store) == {name: "set aside"}
        mend_store(store, [each for each in examine_store(store, busy=False) if each.path == name])
        assert problems(store) == {name: "run again"}
        _write_sweep(store, made)
        assert problems(store) == {}
    store.write_bytes(name, b"")
    _write_sweep(store, made)
    assert kept_code(store, DIGEST) == COUNTING


def test_a_text_goes_with_the_last_trial_that_it_scored(store: Store) -> None:
    first, *others = square(store)
    remove(store, plan_removal(store, [first], None))
    assert all_code(store) == [DIGEST]
    remove(store, plan_removal(store, others, "some"))
    assert all_code(store) == []


def test_a_text_stays_while_a_sweep_wants_trials_that_have_not_run(store: Store) -> None:
    remove(store, plan_removal(store, square(store), None))
    assert all_code(store) == [DIGEST]


def test_a_store_on_a_remote_filesystem_keeps_the_text_too(made: SweepSpec, tmp_path: Path) -> None:
    remote, into = fill(remote_store(), made), Store(str(tmp_path / "into"))
    assert (all_code(remote), kept_code(remote, DIGEST), problems(remote)) == ([DIGEST], COUNTING, {})
    merge_stores(into, remote)
    assert kept_code(into, DIGEST) == COUNTING
    remove(remote, plan_removal(remote, square(remote), "some"))
    assert all_code(remote) == []


def test_a_merge_brings_the_texts_and_a_new_name_of_the_sweep_keeps_them(store: Store, tmp_path: Path) -> None:
    into = Store(str(tmp_path / "into"))
    merge_stores(into, store)
    rename_sweep(into, "some", "other")
    assert kept_code(into, DIGEST) == COUNTING
    assert problems(into) == {}
    store.write_bytes(f"sweeps/{DIGEST}.py", b"raise SystemExit('something else')")
    merge_stores(into, store)
    assert kept_code(into, DIGEST) == COUNTING
