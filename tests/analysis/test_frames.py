from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builders.rows import mask_rows, random_masks, trial, write_trial

from deepcuts.analysis.frames import mask_counts, metrics, query, trials
from deepcuts.analysis.selection import chosen_trials
from deepcuts.store.store import SCHEMAS, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    write_trial(store, trial("aaaa", seed=0))
    write_trial(store, trial("bbbb", seed=1, dataset="cola", sweep="second"))
    write_trial(store, trial("cccc", seed=2, status="failed", failure="trial", error="out of memory"))
    for trial_id in ("aaaa", "bbbb"):
        row = {
            "trial_id": trial_id,
            "stage": "dense",
            "epoch": 1,
            "split": "train",
            "metric": "loss",
            "value": 0.5,
        }
        store.write("metrics", trial_id, [row])
    store.write("masks", "aaaa", mask_rows("aaaa", random_masks(0)))
    store.write("sweeps", "second", [{"sweep": "second", "trial_id": i} for i in ("bbbb", "cccc", "dddd")])
    return store


def ids(frame) -> list[str]:
    return sorted(frame["trial_id"])


def test_tables_come_as_frames_with_all_their_columns(store: Store) -> None:
    assert list(trials(store).columns) == SCHEMAS["trials"].names
    assert ids(trials(store)) == ["aaaa", "bbbb", "cccc"]
    assert ids(metrics(store)) == ["aaaa", "bbbb"]
    assert len(mask_counts(store)) == 3
    assert "bits" not in mask_counts(store)
    assert list(mask_counts(store, ["bits"]).columns) == ["bits"]


def test_filters_are_values_or_lists_of_them(store: Store) -> None:
    assert ids(trials(store, dataset="cola")) == ["bbbb"]
    assert ids(trials(store, seed=[0, 2])) == ["aaaa", "cccc"]
    assert ids(trials(store, failure=None, status="completed")) == ["aaaa", "bbbb"]
    assert ids(trials(store, failure=[None, "trial"])) == ["aaaa", "bbbb", "cccc"]
    assert list(trials(store, ["seed"], dataset="cola").columns) == ["seed"]


def test_a_sweep_has_the_trials_that_it_wants_whoever_ran_them(store: Store) -> None:
    assert ids(trials(store, sweep="second")) == ["bbbb", "cccc"]
    assert ids(trials(store, sweep="first")) == ["aaaa", "cccc"]
    assert ids(trials(store, sweep="second", seed=1)) == ["bbbb"]


def test_a_sweep_of_only_has_the_trials_that_it_wants_too(store: Store) -> None:
    assert ids(chosen_trials(store, [], only={"sweep": "second"})) == ["bbbb", "cccc"]
    assert ids(chosen_trials(store, [], only={"sweep": "second", "seed": "1"})) == ["bbbb"]
    assert ids(chosen_trials(store, [], "first", {"sweep": "second"})) == ["cccc"]
    with pytest.raises(ValueError, match="unknown sweep 'secnd'; did you mean 'second'"):
        chosen_trials(store, [], only={"sweep": "secnd"})


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"datset": "cola"}, "trials has no column 'datset'; did you mean 'dataset'"),
        ({"columns": ["sed"]}, "trials has no column 'sed'; did you mean 'seed'"),
        ({"sweep": "secnd"}, "unknown sweep 'secnd'; did you mean 'second'"),
    ],
)
def test_unknown_columns_and_sweeps_are_refused(store: Store, filters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trials(store, **filters)


def test_an_empty_store_has_empty_frames_with_the_right_columns(tmp_path: Path) -> None:
    empty = Store(str(tmp_path))
    assert trials(empty).empty
    assert list(metrics(empty).columns) == SCHEMAS["metrics"].names
    assert query(empty, "SELECT count(*) AS n FROM masks")["n"].item() == 0


def test_a_damaged_file_is_named_and_the_others_are_read(store: Store) -> None:
    store.write_bytes("trials/bbbb.parquet", b"cut")
    for frame in (trials(store), query(store, "SELECT * FROM trials")):
        assert ids(frame) == ["aaaa", "cccc"]
        assert [Path(path).name for path in frame.attrs["damaged"]] == ["bbbb.parquet"]
    assert query(store, "SELECT * FROM metrics").attrs["damaged"] == {}


def test_repeated_trials_are_dropped_and_their_own_file_counts(store: Store) -> None:
    old = [trial("aaaa", retrained=0.1), trial("eeee", seed=5), trial("gggg", seed=6)]
    store.write("trials", "compact-00", old)
    store.write("trials", "compact-11", [trial("eeee", seed=5, retrained=0.2)])
    for frame in (trials(store), query(store, "SELECT * FROM trials")):
        assert ids(frame) == ["aaaa", "bbbb", "cccc", "eeee", "gggg"]
        assert frame.set_index("trial_id")["retrained"][["aaaa", "eeee"]].tolist() == [0.8, 0.8]
    assert list(trials(store, ["seed"], trial_id="aaaa")["seed"]) == [0]
    assert query(store, "SELECT * FROM trials WHERE retrained < 0.5").empty
    assert trials(store, retrained=0.1).empty
    store.write_bytes("trials/aaaa.parquet", b"cut")
    for frame in (trials(store), query(store, "SELECT * FROM trials")):
        assert frame.set_index("trial_id")["retrained"][["aaaa", "eeee"]].tolist() == [0.1, 0.8]


def test_sql_sees_every_table_failed_trials_too(store: Store) -> None:
    found = query(store, "SELECT status, count(*) AS n FROM trials GROUP BY status ORDER BY status")
    assert found.values.tolist() == [["completed", 2], ["failed", 1]]
    joined = query(store, "FROM trials JOIN metrics USING (trial_id) SELECT dataset, value ORDER BY dataset")
    assert joined.values.tolist() == [["cola", 0.5], ["toy", 0.5]]
    assert query(store, "SELECT sum(kept) / sum(size) AS density FROM masks")["density"].item() < 1
    assert len(query(store, "SELECT * FROM predictions")) == 0
    assert ids(query(store, "FROM sweeps")) == ["bbbb", "cccc", "dddd"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT sed FROM trials", '(?s)"sed" not found.*seed'),
        ("SELECT * FROM trails", '(?s)trails does not exist.*"trials"'),
        ("SELECT 1; SELECT 2", "a query is one SELECT, and this is SELECT, SELECT"),
        ("", "this is nothing"),
        ("INSERT INTO trials (trial_id) VALUES ('x')", "one SELECT, and this is INSERT"),
        ("COPY trials TO 'x.csv'", "one SELECT, and this is COPY"),
        ("SET enable_external_access = true", "one SELECT, and this is SET"),
        ("ATTACH 'x.db'", "one SELECT, and this is ATTACH"),
        ("SELECT * FROM read_text('pyproject.toml')", "(?i)disabled by configuration"),
        ("SELECT * FROM 'pyproject.toml'", "(?i)disabled by configuration|does not exist"),
        ("SELECT * FROM store", "does not exist"),
        ("SELECT CAST(status AS int) FROM trials", "(?i)could not convert|conversion"),
    ],
)
def test_sql_that_is_wrong_writes_or_looks_outside_is_refused(store: Store, sql: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query(store, sql)


def test_frames_are_read_without_the_engine_of_sql() -> None:
    code = "import sys, deepcuts.analysis.frames; print('duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_reading_leaves_the_store_as_it_was(store: Store) -> None:
    before = sorted(path for path in Path(store.root).rglob("*"))
    trials(store)
    query(store, "SELECT * FROM trials")
    assert sorted(path for path in Path(store.root).rglob("*")) == before


@pytest.mark.parametrize("read", [trials, metrics, mask_counts, lambda store: query(store, "select 1")])
def test_a_store_that_is_not_there_is_no_empty_store(tmp_path, read):
    """A notebook that runs in another folder would go on with no trials."""
    with pytest.raises(ValueError, match="there is no store"):
        read(Store(str(tmp_path / "results")))
