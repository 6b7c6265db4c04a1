"""Trials and sweeps are removed, renamed and merged, and nothing else changes."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from builders.filled_store import filled_store
from builders.rows import trial
from builders.stores import write_artifact

from deepcuts.cli.main import main
from deepcuts.store.checksums import seal_text, text_state
from deepcuts.store.compact import MERGED_TABLES, compact
from deepcuts.store.doctor import examine_store
from deepcuts.store.merging import ROWS_AT_ONCE, merge_stores, rename_sweep
from deepcuts.store.removal import plan_removal, remove
from deepcuts.store.store import SCHEMAS, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two sweeps: `small` wants the first half of the trials, `large` all of them; each seed shares a fine-tuning."""
    store = filled_store(Store(str(tmp_path / "store")), seeds=2, dense_id="d" * 16, score_id=None)
    rows = store.read("trials").table.to_pylist()
    for row in rows:
        dense = f"{row['seed']:016x}"
        store.write("trials", row["trial_id"], [row | {"dense_id": dense}])
        write_artifact(store, "dense", dense)
    half = [row for row in rows if row["seed"] == 0]
    for sweep, wanted in (("small", half), ("large", rows)):
        write_sweep(store, sweep, [row["trial_id"] for row in wanted])
    return store


def write_sweep(store: Store, sweep: str, ids: list[str]) -> None:
    store.write("sweeps", sweep, [{"sweep": sweep, "trial_id": key, "dataset": "toy", "seed": 0} for key in ids])
    store.write_bytes(f"sweeps/{sweep}.yaml", seal_text(f"name: {sweep}\nmodel: toy\n"))


def contents(store: Store) -> dict[str, list[str]]:
    return {
        table: sorted(map(repr, store.read(table).table.to_pylist()))
        for table in ("trials", "metrics", "masks", "predictions")
    }


def ids(store: Store, **columns: object) -> set[str]:
    rows = store.read("trials").table.to_pylist()
    return {row["trial_id"] for row in rows if all(row[name] == value for name, value in columns.items())}


@pytest.mark.parametrize("compacted", [False, True])
def test_removed_trials_are_gone_from_every_table_and_the_others_stay(store: Store, compacted: bool) -> None:
    gone, kept = ids(store, strategy="LayerMagWeight"), ids(store) - ids(store, strategy="LayerMagWeight")
    expected = {
        table: [row for row in rows if not any(f"'trial_id': '{key}'" in row for key in gone)]
        for table, rows in contents(store).items()
    }
    if compacted:
        compact(store)
    remove(store, plan_removal(store, gone))
    assert ids(store) == kept
    assert contents(store) == expected
    assert len(expected["masks"]) > 0
    assert not [each for each in examine_store(store, busy=False) if "damaged" in each.problem]


def test_nothing_is_removed_where_a_compacted_file_is_damaged(store: Store) -> None:
    compact(store)
    [name] = store.files("masks")[1]
    path = Path(store.root) / "masks" / name
    column = pq.read_metadata(path).row_group(0).column(SCHEMAS["masks"].names.index("bits"))
    content = bytearray(path.read_bytes())
    content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(content)
    everything, files = ids(store), {table: store.files(table) for table in SCHEMAS}
    hit = pq.ParquetFile(path).read_row_group(0, ["trial_id"])["trial_id"][0].as_py()
    other = next(key for key in sorted(ids(store, strategy="LayerSNIP", status="completed")) if key != hit)
    with pytest.raises(OSError, match=r"is damaged: 1 of its \d+ row groups .* doctor .* --fix first"):
        remove(store, plan_removal(store, [other]))
    assert ids(store) == everything
    assert {table: store.files(table) for table in SCHEMAS} == files
    assert list(store.read("masks").damaged) == [store.path("masks", name)]


def test_a_shared_stage_goes_with_the_last_trial_that_was_made_with_it(store: Store) -> None:
    one = plan_removal(store, ids(store, seed=1, strategy="LayerMagWeight"))
    assert one.stages == ()
    for name in ("small.parquet", "large.parquet"):
        store.delete(f"sweeps/{name}")
    whole = plan_removal(store, ids(store, seed=1))
    assert [stage["id"] for stage in whole.stages] == [f"{1:016x}"]
    remove(store, whole)
    assert f"{1:016x}" not in store.artifacts("dense")
    assert f"{0:016x}" in store.artifacts("dense")


def test_a_stage_that_a_wanted_trial_would_need_again_stays(store: Store) -> None:
    assert plan_removal(store, ids(store, seed=0)).stages == ()


def test_a_removed_sweep_takes_only_the_trials_that_no_other_wants(store: Store) -> None:
    for row in store.read("trials", where=ds.field("seed") == 0).table.to_pylist():
        store.write("trials", row["trial_id"], [row | {"sweep": "small"}])
    everything = ids(store)
    small = plan_removal(store, ids(store, seed=0), "small")
    assert small.trials == ()
    remove(store, small)
    assert store.names("sweeps", ".yaml") == ["large.yaml"]
    assert ids(store) == everything
    assert [each.path for each in examine_store(store, busy=False) if each.mend == "run again"] == []
    remove(store, plan_removal(store, everything, "large"))
    assert ids(store) == set()
    with pytest.raises(ValueError, match="unknown sweep 'smal'; the store has none"):
        plan_removal(store, [], "smal")


def test_rm_lists_asks_and_removes(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["rm", store.uri]) == 2
    assert "say what to remove" in capsys.readouterr().err
    words = ["rm", store.uri, "--only", "strategy=LayerMagWeight,seed=1"]
    assert main(words) == 2
    assert "give --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    before = ids(store)
    assert main(words) == 0
    assert "to remove: 2 trials\n" in capsys.readouterr().out
    assert ids(store) == before
    chosen = ids(store, strategy="LayerMagWeight", seed=1)
    assert main([*words, "--yes"]) == 0
    assert (len(chosen), ids(store)) == (2, before - chosen)
    store.write("sweeps", "wide", [{"sweep": "wide", "trial_id": "e" * 16, "dataset": "cola", "seed": 0}])
    assert main(["rm", store.uri, "--only", "dataset=toy,dataset=cola"]) == 0
    assert "there is no trial yet with dataset=cola\n" in capsys.readouterr().out
    assert main(["rm", store.uri, "--sweep", "large", "--yes"]) == 0
    assert "not to remove, as another sweep wants them: " in capsys.readouterr().out


def test_a_renamed_sweep_keeps_its_trials_and_its_settings(store: Store) -> None:
    rows = store.read("trials").table.to_pylist()
    for row in rows:
        store.write("trials", row["trial_id"], [row | {"sweep": "large"}])
    compact(store)
    before = contents(store)
    assert rename_sweep(store, "large", "ablation") == len(rows)
    assert ids(store, sweep="ablation") == {row["trial_id"] for row in rows}
    assert [name for name in store.names("sweeps", ".parquet")] == ["ablation.parquet", "small.parquet"]
    text = store.read_bytes("sweeps/ablation.yaml")
    assert text_state(text) == "sound"
    assert yaml.safe_load(text) == {"name": "ablation", "model": "toy"}
    after = contents(store)
    assert {**after, "trials": []} == {**before, "trials": []}
    assert after["trials"] == [row.replace("'sweep': 'large'", "'sweep': 'ablation'") for row in before["trials"]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("larg", "x", "did you mean 'large'"),
        ("large", "small", "already has a sweep 'small'"),
        ("large", "large", "has the name 'large' already"),
        ("large", "../x", "valid"),
    ],
)
def test_a_name_that_cannot_be_is_refused(store: Store, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rename_sweep(store, old, new)
    assert store.names("sweeps", ".parquet") == ["large.parquet", "small.parquet"]


def dies_at(store: Store, monkeypatch: pytest.MonkeyPatch, method: str, count: int) -> None:
    """Kill whoever calls a method of the store for the so many-th time."""
    whole, calls = getattr(store, method), []

    def dies(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == count:
            raise KeyboardInterrupt
        whole(*arguments)

    monkeypatch.setattr(store, method, dies)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_removal_that_is_killed_is_completed_by_the_same_command(
    count: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.delete("sweeps/small.parquet")
    dies_at(store, monkeypatch, "delete", count)
    with pytest.raises(KeyboardInterrupt):
        main_of(monkeypatch, store, "rm", "--sweep", "large", "--yes")
    monkeypatch.undo()
    assert "large.parquet" in store.names("sweeps", ".parquet")
    assert main(["rm", store.uri, "--sweep", "large", "--yes"]) == 0
    assert (ids(store), store.names("sweeps", ".parquet")) == (set(), [])


def main_of(monkeypatch: pytest.MonkeyPatch, store: Store, verb: str, *words: str) -> int:
    """Run a verb on this object of a store."""
    monkeypatch.setattr("deepcuts.cli.edits.existing", lambda uri: store)
    monkeypatch.setattr("deepcuts.cli.main.KeyboardInterrupt", RuntimeError, raising=False)
    return main([verb, store.uri, *words])


def test_nothing_is_removed_where_a_run_has_begun_while_the_question_was_open(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []

    def yes(question: str) -> str:
        began.append("trial")
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", yes)
    monkeypatch.setattr("deepcuts.store.live.at_work", lambda store: set(began))
    before = ids(store)
    assert main(["rm", store.uri, "--sweep", "large"]) == 2
    assert "is in use (trials, stages and launches at work: 1)" in capsys.readouterr().err
    assert ids(store) == before


def ages(store: Store) -> list[str]:
    names = {path.stem: path.stat().st_mtime_ns for path in Path(store.root, "sweeps").glob("*.parquet")}
    return sorted(names, key=names.__getitem__)


def test_a_renamed_or_merged_sweep_is_no_newer_than_it_was(store: Store, tmp_path: Path) -> None:
    for day, name in enumerate(("small", "large"), 1):
        os.utime(Path(store.root, "sweeps", f"{name}.parquet"), (86400 * day, 86400 * day))
    rename_sweep(store, "small", "zero")
    assert ages(store) == ["zero", "large"]
    target = Store(str(tmp_path / "target"))
    write_sweep(target, "mine", [])
    merge_stores(target, store)
    assert ages(target) == ["zero", "large", "mine"]


def test_a_merge_that_is_killed_before_a_sweep_is_whole_is_completed_by_the_same_merge(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Store(str(tmp_path / "target"))
    monkeypatch.setattr("deepcuts.store.merging._copy_trials", lambda *arguments: None)
    for count in (1, 2, 3, 4):
        dies_at(target, monkeypatch, "write_bytes", count)
        with pytest.raises(KeyboardInterrupt):
            merge_stores(target, store)
        monkeypatch.setattr(target, "write_bytes", Store.write_bytes.__get__(target))
        merge_stores(target, store)
        assert target.names("sweeps", ".yaml") == ["large.yaml", "small.yaml"]
        assert target.names("sweeps", ".parquet") == ["large.parquet", "small.parquet"]
        for name in ("large", "small"):
            target.delete(f"sweeps/{name}.yaml")
            target.delete(f"sweeps/{name}.parquet")


def test_an_interrupted_trial_of_the_other_store_does_not_replace_a_failed_one(store: Store, tmp_path: Path) -> None:
    target = Store(str(tmp_path / "target"))
    for each, failure in ((target, "trial"), (store, "infrastructure")):
        each.write("trials", "f" * 16, [trial("f" * 16, status="failed", failure=failure, error="x")])
    assert "f" * 16 not in merge_stores(target, store).trials
    assert target.statuses()["f" * 16] == "failed"
    merge_stores(store, target)
    assert store.statuses()["f" * 16] == "failed"


@pytest.mark.parametrize("compacted", [False, True])
def test_merging_copies_what_is_missing_and_nothing_twice(store: Store, tmp_path: Path, compacted: bool) -> None:
    target = filled_store(Store(str(tmp_path / "target")), seeds=1, dense_id=f"{0:016x}", score_id=None)
    have, expected = ids(target, status="completed"), contents(store)
    if compacted:
        compact(store)
    merged = merge_stores(target, store)
    assert (set(merged.trials), merged.conflicts) == (ids(store) - have, ())
    assert (merged.sweeps, merged.artifacts) == (("large", "small"), 3)
    assert contents(target) == expected
    assert target.read_bytes("sweeps/large.yaml") == store.read_bytes("sweeps/large.yaml")
    assert merge_stores(target, store).trials == ()
    assert contents(target) == expected


def with_predictions(store: Store, examples: int) -> Store:
    """The store, with so many predictions of each completed trial."""
    for number, key in enumerate(sorted(ids(store, status="completed"))):
        at = {"trial_id": key, "stage": "dense", "split": "validation", "label": 1.0, "prediction": 0.0}
        logits = [[number / 7, float(example)] for example in range(examples)]
        rows = [at | {"example": example, "logits": each} for example, each in enumerate(logits)]
        store.write("predictions", key, rows)
    return store


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_merging_reads_compacted_files_in_parts_and_a_trial_as_it_counts(
    size: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.store.merging.ROWS_AT_ONCE", dict.fromkeys(MERGED_TABLES, size))
    with_predictions(store, 50)
    compact(store)
    first, second, *_ = sorted(ids(store, status="completed"))
    for key, dense in ((first, 0.1), (second, 0.2)):  # run again: an older copy is in the compacted file
        [row] = store.read("trials", where=ds.field("trial_id") == key).table.to_pylist()
        store.write("trials", key, [row | {"dense": dense}])
        store.write("masks", key, store.read("masks", where=ds.field("trial_id") == key).table.to_pylist()[:1])
    compact(store)
    assert len(store.files("trials")[1]) == 2
    store.write("trials", first, [row | {"trial_id": first, "dense": 0.3}])
    target = Store(str(tmp_path / "target"))
    assert merge_stores(target, store).conflicts == ()
    assert contents(target) == contents(store)
    assert merge_stores(target, store).conflicts == ()
    rows = {row["trial_id"]: row["dense"] for row in target.read("trials").table.to_pylist()}
    assert (rows[first], rows[second]) == (0.3, 0.2)


@pytest.mark.parametrize("compacted", [False, True])
def test_merging_holds_the_rows_of_one_trial_at_a_time(
    compacted: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS_AT_ONCE, "predictions", 500)
    with_predictions(store, 2000)
    one = store.read("predictions", where=ds.field("trial_id") == min(ids(store, status="completed"))).table.nbytes
    for name in ("small", "large"):
        store.delete(f"sweeps/{name}.parquet")  # nothing is written below
    if compacted:
        compact(store)
    held, before = [], pa.total_allocated_bytes()

    def write_bytes(name: str, content: pa.Buffer) -> None:
        held.append(pa.total_allocated_bytes() - before)

    target = Store(str(tmp_path / "target"))
    monkeypatch.setattr(target, "write_bytes", write_bytes)
    tracemalloc.start()
    try:
        merge_stores(target, store)
        _, python = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held) > 30
    assert (max(held) < 4 * one, python < 10 * one) == (True, True), (max(held), python, one)


def test_a_damaged_file_of_the_other_store_is_named(store: Store, tmp_path: Path) -> None:
    [name, *_] = with_predictions(store, 5).files("predictions")[0]
    path = Path(store.root) / "predictions" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=rf"{path} is damaged: .* run deepcuts doctor .* --fix first"):
        merge_stores(Store(str(tmp_path / "target")), store)


def test_other_results_of_one_trial_are_named_and_left_alone(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Store(str(tmp_path / "target"))
    merge_stores(target, store)
    one, two, three = sorted(ids(store, status="completed"))[:3]
    by_id = {row["trial_id"]: row for row in store.read("trials").table.to_pylist()}
    store.write("trials", one, [by_id[one] | {"dense": 0.123}])
    elsewhere = {"model": "/home/other/m", "spec": "{}", "prunable_share": 0.9, "score_micro_batch": 8}
    store.write("trials", two, [by_id[two] | {"total_seconds": 1e6, "host": "far", "sweep": "other", **elsewhere}])
    target.write("trials", three, [trial(three, status="failed", failure="infrastructure")])
    assert main(["merge", target.uri, store.uri]) == 1
    out = capsys.readouterr()
    assert f"{one} has other results" in out.err
    assert two not in out.err
    assert "copied 1 trial, 0 sweeps and 0 artifacts" in out.out
    dense = {row["trial_id"]: row["dense"] for row in target.read("trials").table.to_pylist()}
    assert dense[one] != 0.123
    assert dense[three] == by_id[three]["dense"]


def test_stores_that_cannot_be_merged_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the store itself"):
        merge_stores(store, store)
    other = Store(str(tmp_path / "other"))
    write_sweep(other, "large", ["f" * 16])
    with pytest.raises(ValueError, match="both stores have a sweep 'large'.*deepcuts rename"):
        merge_stores(store, other)
    assert "f" * 16 not in {row["trial_id"] for row in store.read("sweeps").table.to_pylist()}
