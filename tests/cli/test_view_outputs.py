"""What views print and write beside their results: formats, figures with JSON, what is left out, wrong files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from builders.rows import mask_rows, random_masks, row_of, trial, write_trial
from builders.specs import sweep

from deepcuts.cli.main import main
from deepcuts.store.store import Store


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Two arms and Dense in two sweeps, the newer without the first arm, with masks, metrics and predictions."""
    store = Store(str(tmp_path / "store"))
    for seed in range(2):
        for letter, strategy in (("a", "LayerSNIP"), ("b", "LayerMagWeight")):
            key = f"{letter}{seed}" * 8
            write_trial(store, trial(key, strategy, seed, kept=12345678, total_seconds=54321.7))
            store.write("masks", key, mask_rows(key, random_masks(seed)))
            at = {"trial_id": key, "split": "validation"}
            made = {"epoch": 0, "step": 9, "metric": "accuracy", "value": 0.8, "seconds": 1.0}
            store.write("metrics", key, [at | made | {"stage": stage} for stage in ("dense", "retrained")])
            rows = [{"stage": "retrained", "example": i, "label": i % 2, "prediction": 1} for i in range(4)]
            store.write("predictions", key, [at | row for row in rows])
        write_trial(store, trial(f"d{seed}" * 8, "Dense", seed))
    strategies = {"a": "LayerSNIP", "b": "LayerMagWeight", "d": "Dense"}
    for name, letters in (("first", "abd"), ("second", "bd")):
        wanted = [(f"{letter}{seed}" * 8, strategies[letter]) for letter in letters for seed in range(2)]
        store.write("sweeps", name, [{"sweep": name, "trial_id": key, "strategy": what} for key, what in wanted])
    return store.uri


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_a_query_prints_all_columns_and_numbers_in_full(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "select strategy, max(kept) k, max(total_seconds) s, null z from trials group by 1 order by 1"
    assert out(capsys, "query", uri, sql).splitlines() == [
        "strategy        k         s      z",
        "Dense           -         -      -",
        "LayerMagWeight  12345678  54322  -",
        "LayerSNIP       12345678  54322  -",
    ]
    assert out(capsys, "query", uri, "select seed, arm from trials where seed = 9") == "seed  arm\n"


def test_two_columns_of_one_name_are_told_apart(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = json.loads(out(capsys, "query", uri, "select 1 a, 2 a_1, 3 a, 4 a", "--json"))
    assert row == {"a": 1, "a_1": 2, "a_2": 3, "a_3": 4}


def test_csv_has_lists_and_bytes_as_json_does(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "select shape, bits, size from masks order by trial_id, layer, parameter limit 1"
    [of_json] = json.loads(out(capsys, "query", uri, sql, "--json"))
    [row] = csv.DictReader(io.StringIO(out(capsys, "query", uri, sql, "--csv")))
    assert row == {"shape": " ".join(map(str, of_json["shape"])), "bits": of_json["bits"], "size": str(of_json["size"])}
    assert len(row["bits"]) == 2 * ((of_json["size"] + 7) // 8)
    assert main(["query", uri, sql, "--csv", "--json"]) == 2
    assert "a table has one format; --json and --csv are given" in capsys.readouterr().err


def test_two_trials_of_any_sweep_are_compared_without_a_word_on_sweeps(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert out(capsys, "table", uri).startswith("sweep second, the newest of 2 (first, second)")
    assert out(capsys, "compare", uri, "a0a0", "a1a1").startswith("trial_a")


@pytest.mark.parametrize("verb", ["curves", "compare", "iou"])
def test_json_is_printed_and_the_figure_that_is_named_is_drawn(
    verb: str, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = out(capsys, verb, uri, "--sweep", "all", "--json")
    assert not list(tmp_path.glob("*.png"))
    assert main([verb, uri, "--sweep", "all", "--json", "-o", "x.svg"]) == 0
    shown = capsys.readouterr()
    assert shown.out == plain
    assert json.loads(plain)
    assert shown.err.startswith("wrote x.svg")
    assert Path("x.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("verb", ["curves", "compare", "iou", "transfer"])
def test_a_figure_in_a_folder_that_is_not_there_is_refused_before_anything_else(
    verb: str, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, uri, "-o", str(tmp_path / "none" / "x.png")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "x.png': name a file, in a folder that is there" in shown.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report", "best", "--split", "tset"], "--split tset: the best epoch is that of the validation split"),
        (["--x", "epoch", "--split", "validaton"], "unknown split 'validaton'; did you mean 'validation'?"),
    ],
)
def test_curves_of_another_split_than_there_is_are_refused(
    flags: list[str], message: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curves", uri, "--json", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["table", "curves", "compare"])
def test_datasets_that_are_left_out_are_named_beside_every_format(
    verb: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        write_trial(Store(uri), trial(f"e{seed}" * 8, "LayerMagWeight", seed, dataset="stsb", metric="pearson"))
    words = [verb, uri, "--sweep", "all", "--metric", "accuracy", "--json"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "left out, as no trial has these numbers: stsb\n" in shown.err
    assert {row["dataset"] for row in json.loads(shown.out)} == {"toy"}


def test_a_strategy_in_several_settings_is_compared_once_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path))
    for epochs in (3, 8):
        for spec in sweep(retrain={"epochs": epochs}, seeds=[0, 1]).trials():
            if spec.scope:
                write_trial(store, row_of(spec))
    assert main(["compare", store.uri]) == 0
    said = capsys.readouterr().out
    assert (
        "LayerMagWeight (retrain.epochs=3), LayerMagWeight (retrain.epochs=8): name one of them with --baseline" in said
    )
    assert main(["compare", store.uri, "--baseline", "LayerMagWeight (retrain.epochs=3)"]) == 0
    assert "1 comparison with LayerMagWeight (retrain.epochs=3)" in capsys.readouterr().out


def test_compare_says_how_many_pairs_ran_on_two_devices(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    every = ("compare", uri, "--sweep", "all")
    assert "two devices" not in out(capsys, *every)
    for seed, device in enumerate(("A", "B", "B")):
        for strategy, ran_on in (("LayerSNIP", "A"), ("LayerMagWeight", device)):
            made = trial(f"{strategy}{seed}", strategy, seed, dataset="other", device=ran_on)
            write_trial(Store(uri), made | {"torch": "2.13", "transformers": "5.17"})
    assert "\nnote: 2 of 5 pairs ran on two devices, or with two versions" in out(capsys, *every)
