"""Each file of a store is damaged, one at a time and in every way: doctor names it, and what is lost with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders.rows import trial, write_trial
from builders.stores import kept_files, write_artifact
from builders.whole_trials import sweep_of, whole_trial

from deepcuts.analysis.frames import metrics
from deepcuts.analysis.overlap import overlap
from deepcuts.cli.main import main
from deepcuts.experiment.metrics import FUNCTIONS
from deepcuts.store.checksums import seal_text
from deepcuts.store.compact import compact
from deepcuts.store.doctor import Finding, examine_store
from deepcuts.store.merging import rename_sweep
from deepcuts.store.removal import plan_removal, remove
from deepcuts.store.store import SCHEMAS, Store

A, B, C = (letter * 16 for letter in "abc")
HARMS = ("truncated", "zeroed", "deleted", "first byte", "a fifth in", "middle byte", "near the end")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    for seed, key in enumerate((A, B, C)):
        whole_trial(made, key, seed)
    sweep_of(made, (A, B, C))
    made.write_bytes("sweeps/first.yaml", seal_text("model: toy\nname: first\nseeds: [0, 1, 2]\n"))
    for kind in ("dense", "scores", "models"):
        write_artifact(made, kind, A)
    return made


def examined(store: Store) -> list[Finding]:
    return examine_store(store, busy=False, functions=FUNCTIONS)


def harm(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    places = {"first byte": 0, "a fifth in": len(content) // 5, "middle byte": len(content) // 2, "near the end": -12}
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "zeroed":
        path.write_bytes(bytes(len(content)))
    else:
        content[places[how] if len(content) > 12 else 0] ^= 1
        path.write_bytes(content)


def test_a_copy_without_networks_and_scores_is_sound(store: Store) -> None:
    shutil.rmtree(Path(store.root) / "artifacts")
    assert examined(store) == []
    assert len(overlap(store, [A, B])) > 0


def test_a_sound_store_has_no_findings(store: Store) -> None:
    assert examined(store) == []


@pytest.mark.parametrize("how", HARMS)
def test_doctor_names_every_file_that_is_damaged(store: Store, how: str) -> None:
    names = [name for name in kept_files(Path(store.root)) if B not in name and C not in name]
    assert len(names) == 4 + 2 + 6
    for name in names:
        path = Path(store.root) / name
        content = path.read_bytes()
        harm(path, how)
        found = examined(store)
        key = path.stem if name.startswith("sweeps") else A
        assert found, name
        assert all(key in finding.path for finding in found), name
        assert all(finding.mend != "none" for finding in found), name
        path.write_bytes(content)
    assert examined(store) == []


@pytest.mark.parametrize(
    ("name", "path", "mend", "problem"),
    [
        ("sweeps/first.parquet", "sweeps/first.parquet", "run again", "a run of the sweep writes it again"),
        ("sweeps/first.yaml", "sweeps/first.yaml", "run again", "the settings of the sweep are lost here"),
        (f"masks/{A}.parquet", f"trials/{A}.parquet", "set aside", "completed, and has no rows in masks"),
        (f"metrics/{A}.parquet", f"trials/{A}.parquet", "set aside", "completed, and has no rows in metrics"),
    ],
)
def test_doctor_says_what_a_lost_file_means(store: Store, name: str, path: str, mend: str, problem: str) -> None:
    store.delete(name)
    [finding] = examined(store)
    assert (finding.path, finding.mend) == (path, mend)
    assert problem in finding.problem


def test_doctor_names_what_a_lost_row_of_trials_leaves_alone(store: Store) -> None:
    store.delete(f"trials/{A}.parquet")
    assert {finding.path for finding in examined(store)} == {
        f"{t}/{A}.parquet" for t in ("masks", "metrics", "predictions")
    }
    assert examine_store(store, busy=True) == []  # a trial that is at work writes its row last


def test_doctor_names_a_sweep_of_which_nothing_is_left_but_its_trials(store: Store) -> None:
    store.delete("sweeps/first.parquet")
    store.delete("sweeps/first.yaml")
    [finding] = examined(store)
    assert finding.problem.startswith("not there, though 3 trials ran for it")


def test_a_file_of_another_trials_rows_is_damaged(store: Store) -> None:
    (Path(store.root) / f"metrics/{A} (copy).parquet").write_bytes(store.read_bytes(f"metrics/{B}.parquet"))
    [finding] = examined(store)
    assert finding.problem == f"damaged: it has rows of {B}"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"retrained": 0.5}, "its retrained accuracy is 0.5 in trials, 0.75 in metrics"),
        ({"kept": 3}, "it has 3 kept weights in trials"),
        ({"prunable": 3}, "it has 3 weights in trials"),
    ],
)
def test_rows_of_a_trial_that_disagree_make_it_run_again(store: Store, fields: dict[str, float], problem: str) -> None:
    [row] = [row for row in store.read("trials").table.to_pylist() if row["trial_id"] == A]
    write_trial(store, row | fields)
    [finding] = examined(store)
    assert (finding.path, finding.mend) == (f"trials/{A}.parquet", "set aside")
    assert problem in finding.problem


def test_metrics_are_compared_with_the_predictions(store: Store) -> None:
    rows = [row for row in store.read("predictions").table.to_pylist() if row["trial_id"] == A]
    store.write("predictions", A, [row | {"prediction": 0.0} for row in rows])
    of_predictions, of_trials = examined(store)
    assert "its dense accuracy is 0.75 in metrics, 0.5 by its predictions" in of_predictions.problem
    assert of_trials.problem == "completed, and has no rows in predictions"
    assert examine_store(store, busy=False) == []  # without functions there is nothing to compare with


def test_a_view_that_meets_a_damaged_mask_names_it_and_counts_the_others(store: Store) -> None:
    path = Path(store.root) / f"masks/{A}.parquet"
    before = overlap(store, [B, C])
    file = pq.ParquetFile(path)
    for column in range(file.metadata.num_columns):
        content = path.read_bytes()
        of = file.metadata.row_group(1).column(column)
        changed = bytearray(content)
        changed[of.data_page_offset + of.total_compressed_size - 1] ^= 1
        path.write_bytes(changed)
        found = overlap(store)
        assert list(found.attrs["damaged"]) == [str(path)]
        assert found.drop_duplicates().equals(before)
        path.write_bytes(content)


def test_a_view_leaves_a_damaged_metric_out_and_names_it(store: Store) -> None:
    path = Path(store.root) / f"metrics/{A}.parquet"
    column = pq.read_metadata(path).row_group(0).column(6)
    assert column.path_in_schema == "value"
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    found = metrics(store)
    assert sorted(set(found["trial_id"])) == [B, C]
    assert list(found.attrs["damaged"]) == [str(path)]


def test_a_sweep_whose_text_is_damaged_is_not_renamed(store: Store) -> None:
    sealed = store.read_bytes("sweeps/first.yaml")
    store.write_bytes("sweeps/first.yaml", sealed.replace(b"\nmodel", b"\x0bmodel"))
    files = kept_files(Path(store.root))
    with pytest.raises(OSError, match=r"first\.yaml is damaged: .* --fix first"):
        rename_sweep(store, "first", "second")
    assert kept_files(Path(store.root)) == files


def test_a_damaged_compacted_file_is_named_before_anything_is_removed(store: Store) -> None:
    compact(store)
    removal = plan_removal(store, [A])
    path = Path(store.root) / "metrics" / store.files("metrics")[1][0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=rf"{path} is damaged: .* --fix first"):
        remove(store, removal)
    assert set(store.statuses()) == {A, B, C}


def test_files_of_an_older_version_are_sound_as_far_as_can_be_told(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    row = trial(A, **dict.fromkeys(("dense", "pruned", "rewound", "retrained"), 0.75))
    pq.write_table(pa.Table.from_pylist([row], SCHEMAS["trials"]), Path(store.root) / f"trials/{A}.parquet")
    store.write_bytes("sweeps/first.yaml", b"name: first\n")
    meta = store.read_json(f"artifacts/dense/{A}/meta.json")
    store.write_json(f"artifacts/dense/{A}/meta.json", {"files": meta["files"]})
    assert main(["doctor", store.root, "--json"]) == 0
    said = capsys.readouterr()
    assert [(row["path"], row["mend"]) for row in json.loads(said.out)] == [
        ("trials", "none"),
        ("sweeps", "none"),
        ("artifacts", "none"),
    ]
    assert "sound, as far as can be told of what has no checksum" in said.err
    assert main(["doctor", store.root, "--fix"]) == 0
    assert len(store.statuses()) == 3


def test_doctor_says_how_much_it_read_and_how_long_it_took(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", store.root]) == 0
    said = capsys.readouterr().err
    names = kept_files(Path(store.root))
    size = sum((Path(store.root) / name).stat().st_size for name in names)
    assert f"reading {size / 1000:.1f} kB in {len(names)} files" in said
    assert "every byte was read, in " in said
