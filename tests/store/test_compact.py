"""Compaction: the newest row of a trial wins, others may work on the store meanwhile, and damage stays small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from builders.rows import random_masks
from builders.whole_trials import sweep_of, whole_trial

from deepcuts.analysis.frames import query
from deepcuts.analysis.overlap import overlap
from deepcuts.cli.main import main
from deepcuts.store import compact as compaction
from deepcuts.store.checksums import seal_text
from deepcuts.store.compact import compact, compact_many
from deepcuts.store.doctor import examine_store
from deepcuts.store.live import Beat
from deepcuts.store.masks import masks
from deepcuts.store.store import Store

A, B, C, D, E = (letter * 16 for letter in "abcde")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    for seed, key in enumerate((A, B, C, D, E)):
        whole_trial(made, key, seed)
    sweep_of(made, (A, B, C, D, E))
    made.write_bytes("sweeps/first.yaml", seal_text("name: first\n"))
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.05)


def seeds(store: Store) -> dict[str, int]:
    return {row["trial_id"]: row["seed"] for row in store.read("trials", ["trial_id", "seed"]).table.to_pylist()}


def first_mask(store: Store, key: str) -> np.ndarray:
    return next(iter(masks(store, key).values()))


@pytest.mark.parametrize(("size", "groups"), [(1, 5), (1 << 24, 1)])
def test_files_are_read_together_until_they_are_large(
    size: int, groups: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {table: store.read(table).table.to_pylist() for table in ("predictions", "metrics", "trials")}
    monkeypatch.setattr(compaction, "BYTES_AT_ONCE", size)
    compact(store)
    for table, rows in before.items():
        [name] = store.files(table)[1]
        assert pq.read_metadata(Path(store.root) / table / name).num_row_groups == groups
        assert store.read(table).table.to_pylist() == rows


def test_of_a_trial_that_was_compacted_twice_the_newest_rows_count_in_every_table(store: Store) -> None:
    compact(store)
    for seed in (10, 20):
        whole_trial(store, A, seed)
        whole_trial(store, E, seed)
        compact(store)
        assert store.files("trials")[0] == []
        assert seeds(store) == {A: seed, B: 1, C: 2, D: 3, E: seed}
        for table in ("metrics", "predictions", "masks"):
            rows = store.read(table, ["trial_id"], ds.field("trial_id") == A).table
            assert len(rows) == {"metrics": 4, "predictions": 16, "masks": 3}[table]
        assert set(store.read("metrics", ["seconds"], ds.field("trial_id") == A).table["seconds"].to_pylist()) == {seed}
        np.testing.assert_array_equal(first_mask(store, A), next(iter(random_masks(seed).values())))
        found = query(store, "SELECT trial_id, seed FROM trials ORDER BY 1")
        assert found["seed"].tolist() == [seed, 1, 2, 3, seed]
    assert store.files("trials")[1] == sorted(store.files("trials")[1], reverse=True)


def test_a_compaction_of_a_version_that_did_not_number_them_is_the_oldest(store: Store) -> None:
    compact(store)
    for table in ("trials", "metrics", "predictions", "masks"):
        [name] = store.files(table)[1]
        (Path(store.root) / table / name).rename(Path(store.root) / table / "compact-ffffffffffffffff.parquet")
    whole_trial(store, A, 10)
    whole_trial(store, B, 11)
    compact(store)
    assert seeds(store) == {A: 10, B: 11, C: 2, D: 3, E: 4}
    assert [name[:14] for name in store.files("trials")[1]] == ["compact-000001", "compact-ffffff"]


def test_a_trial_that_runs_again_during_a_compaction_keeps_its_new_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = compaction._gathered

    def slowly(store: Store, table: str, names: list[str], sizes: dict[str, int]) -> Iterator[object]:
        yield from gathered(store, table, names, sizes)
        if table == "trials":
            whole_trial(store, A, 10)

    monkeypatch.setattr(compaction, "_gathered", slowly)
    compact(store)
    assert store.files("trials")[0] == [f"{A}.parquet"]
    assert seeds(store) == {A: 10, B: 1, C: 2, D: 3, E: 4}
    with Beat(store, A, "other", []):
        monkeypatch.undo()
        whole_trial(store, B, 11)
        whole_trial(store, C, 12)
        compact(store)
        assert store.files("trials")[0] == [f"{A}.parquet"]


def test_a_view_that_reads_while_files_are_merged_misses_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = overlap(store), query(store, "FROM trials ORDER BY trial_id"), seeds(store)
    files = Store.files

    def then_compacts(self: Store, table: str) -> tuple[list[str], list[str]]:
        found = files(self, table)
        monkeypatch.undo()
        whole_trial(store, A, 0)
        whole_trial(store, B, 1)
        compact(Store(store.root))
        return found

    for number, view in enumerate((lambda: overlap(store), lambda: query(store, "FROM trials ORDER BY trial_id"))):
        monkeypatch.setattr(Store, "files", then_compacts)
        found = view()
        assert found.attrs["damaged"] == {}
        assert found.equals(before[number])
    monkeypatch.setattr(Store, "files", then_compacts)
    assert seeds(store) == before[2]
    monkeypatch.setattr(Store, "files", then_compacts)
    assert set(store.statuses()) == {A, B, C, D, E}


def test_masks_that_are_merged_between_two_blocks_of_a_view_are_found_again(store: Store) -> None:
    from deepcuts.store.masks import MaskReader

    reader = MaskReader(store)
    reader.find()
    compact(store)
    tensor = next(iter(reader.places[A]))
    with reader.opened([A, B]) as files:
        reader.load(tensor, [A, B], files)
    assert (reader.damaged, reader.broken) == ({}, set())


def test_two_compactions_do_not_go_on_at_once_and_one_that_died_bars_none(store: Store) -> None:
    with Beat(store, None, "other", [compaction.CLAIM]):
        assert not store.names("running", ".json")
        assert compact(store) == []
    store.write_json(f"claims/{compaction.CLAIM}.json", {"launch": "lost", "beat": 3, "host": "another"})
    assert len(compact(store)) == 4
    assert not store.names("claims", ".json")


def test_a_launch_merges_a_store_of_many_files_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    compact_many(store, said.append)
    assert (said, len(store.files("trials")[0])) == ([], 5)
    monkeypatch.setattr(compaction, "MANY_FILES", 4)
    store.write_bytes(f"trials/{'f' * 16}.parquet", b"cut")
    compact_many(store, said.append)
    assert "could not be merged" in said.pop()
    store.delete(f"trials/{'f' * 16}.parquet")
    compact_many(store, said.append)
    assert [line.rpartition("/")[0] for line in said] == [
        f"merged 5 files of {table} into {table}" for table in ("masks", "predictions", "metrics", "trials")
    ]
    assert store.files("trials")[0] == []


@pytest.mark.parametrize("table", ["masks", "predictions", "metrics", "trials"])
@pytest.mark.parametrize("cut", [100, 0])
def test_a_damaged_file_ends_no_launch_and_is_named_with_what_mends_it(
    store: Store, table: str, cut: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compaction, "MANY_FILES", 4)
    path = Path(store.root) / table / f"{B}.parquet"
    path.write_bytes(path.read_bytes()[:cut])
    said: list[str] = []
    compact_many(store, said.append)
    assert said[0].startswith(f"the files of the trials could not be merged: {path} is damaged: ")
    assert said[0].endswith(f"; run deepcuts doctor {store.root} --fix first")
    assert store.files(table) == ([f"{key}.parquet" for key in (A, B, C, D, E)], [])
    assert main(["compact", store.root]) == 1
    assert f"{path} is damaged: " in capsys.readouterr().err
    assert main(["doctor", store.root, "--fix"]) == 0
    compact(store)
    assert set(store.statuses()) == {A, C, D, E}


def test_a_compacted_file_of_trials_that_is_lost_is_named_and_its_trials_run_again(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    compact(store)
    [first] = store.files("trials")[1]
    for seed, key in enumerate(("f" * 16, "e" * 15 + "f")):
        whole_trial(store, key, seed)
    compact(store)
    store.delete(f"trials/{first}")
    lost = examine_store(store, busy=False)
    assert {finding.path.partition("-")[0] for finding in lost} == {
        f"{table}/compact" for table in ("masks", "metrics", "predictions")
    }
    assert {(len(finding.trials), finding.mend) for finding in lost} == {(5, "set aside")}
    assert all(f"5 trials of it, such as {A}, without a row in trials" in finding.problem for finding in lost)
    assert "a run that wants them makes them again" in lost[0].problem
    assert main(["doctor", store.root]) == 1
    assert main(["doctor", store.root, "--fix"]) == 0
    capsys.readouterr()
    assert main(["doctor", store.root]) == 0
    assert set(store.statuses()) == {"f" * 16, "e" * 15 + "f"}
    whole_trial(store, A, 0)
    assert examine_store(store, busy=False) == []


def test_no_file_is_left_of_a_compacted_one_whose_trials_are_all_lost(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    compact(store)
    store.delete(f"masks/{store.files('masks')[1][0]}")
    assert main(["doctor", store.root, "--fix"]) == 0
    capsys.readouterr()
    assert [store.names(table, ".parquet") for table in compaction.MERGED_TABLES] == [[], [], [], []]


def test_compacting_is_advised_only_where_it_would_give_checksums(store: Store) -> None:
    def plain(name: str) -> None:
        path = Path(store.root) / "trials" / name
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)

    def advice() -> list[bool]:
        return ["deepcuts compact merges" in each.problem for each in examine_store(store, busy=False)]

    plain(f"{A}.parquet")
    assert advice() == [True]
    compact(store)
    assert advice() == []
    plain(store.files("trials")[1][0])
    assert advice() == [False]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("table", ["trials", "metrics", "predictions", "masks"])
def test_of_a_damaged_compacted_file_all_is_kept_but_the_trials_that_were_hit(
    store: Store, table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compaction, "FILES_AT_ONCE", 1)  # a row group for each trial
    compact(store)
    assert examine_store(store, busy=False) == []
    [name] = store.files(table)[1]
    path = Path(store.root) / table / name
    groups = pq.read_metadata(path)
    column = groups.row_group(groups.num_row_groups // 2).column(groups.num_columns - 1)
    begin = column.dictionary_page_offset or column.data_page_offset
    flip(path, begin + column.total_compressed_size - 1)
    assert main(["doctor", store.root]) == 1
    assert main(["doctor", store.root, "--fix"]) == 0
    capsys.readouterr()
    # A row group of metrics or predictions may share a trial with the ones beside it.
    kept = {A, E} if table in ("metrics", "predictions") else {A, B, D, E}
    assert set(store.statuses()) == kept
    assert len(store.read("masks", ["trial_id"], ds.field("trial_id") == A).table) == 3
    whole_trial(store, C, 2)
    if table in ("metrics", "predictions"):
        whole_trial(store, B, 1)
        whole_trial(store, D, 3)
    assert [finding for finding in examine_store(store, busy=False) if finding.mend != "none"] == []
    assert seeds(store) == {A: 0, B: 1, C: 2, D: 3, E: 4}


def test_a_trial_whose_rows_disagree_is_taken_out_of_a_compacted_file_and_runs_again(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_trial(store, C, 2)
    rows = store.read("masks", None, ds.field("trial_id") == C).table.to_pylist()
    store.write("masks", C, rows[:-1])  # a tensor is missing
    compact(store)
    [finding] = examine_store(store, busy=False)
    assert finding.trials == (C,)
    assert "weights in trials" in finding.problem
    assert main(["doctor", store.root, "--fix"]) == 0
    capsys.readouterr()
    assert set(store.statuses()) == {A, B, D, E}
