from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import specs
from builders.rows import LAYERS, mask_rows, random_masks, row_of, trial, write_trial

from deepcuts.analysis.compare import COMPARISON_COLUMNS
from deepcuts.cli.main import main
from deepcuts.experiment.settings import Training
from deepcuts.store.store import Store

LAST = list(LAYERS)[-1]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Two strategies, eight seeds, the one 0.1 better, with predictions of two trials."""
    store = Store(str(tmp_path / "store"))
    noise = np.random.default_rng(0).normal(0, 0.004, 16)
    for seed in range(8):
        for place, (letter, strategy) in enumerate((("a", "LayerSNIP"), ("b", "LayerMagWeight"))):
            value = 0.8 - 0.1 * place + noise[2 * seed + place]
            write_trial(store, trial(f"{letter}{seed}" * 8, strategy, seed, retrained=value))
            rows = [
                {"trial_id": f"{letter}{seed}" * 8, "stage": stage, "split": "validation", "example": i}
                | {"label": i % 2, "prediction": i % 2 if i % 5 >= place else 1 - i % 2}
                for i in range(50)
                for stage in ("dense", "retrained")
            ]
            store.write("predictions", f"{letter}{seed}" * 8, rows)
    return store.uri


def test_compare_says_its_verdict_in_words(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", uri]) == 0
    out = capsys.readouterr().out
    assert "LayerSNIP is better than LayerMagWeight on toy at 50 %: accuracy +0.099 (95 % interval" in out
    assert main(["compare", uri, "--only", "seed=0"]) == 0
    assert "undecided" in capsys.readouterr().out


def test_compare_prints_just_the_columns_promised_as_json(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", uri, "--json", "--examples"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == COMPARISON_COLUMNS
    assert row["compression"] is None
    assert (row["n"], row["verdict"]) == (8, "better")


def test_the_table_marks_what_always_predicting_one_class_reaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path / "store"))
    for seed in range(2):
        write_trial(store, trial(f"a{seed}" * 8, seed=seed, majority=0.509, retrained=0.509 + 0.1 * seed))
        write_trial(store, trial(f"b{seed}" * 8, "LayerSNIP", seed=seed, majority=0.509))
    assert main(["table", store.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0.509*, 0.609" in lines[1]
    assert "*" not in lines[2]
    assert lines[0].split()[4:6] == ["majority", "dense"]
    assert "0.509     0.900, 0.900" in lines[2]
    assert lines[-1].startswith(
        "* exactly the score of always predicting the most frequent class, or the mean of seeds"
    )
    assert lines[-1].endswith("(toy accuracy 0.509)")
    assert main(["table", store.uri, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["majority"], row["at_majority"]) for row in rows] == [(0.509, "retrained"), (0.509, None)]


def test_the_table_and_show_name_what_pruning_has_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "store"))
    for seed in range(2):
        name = f"a{seed}" * 8
        write_trial(store, trial(name, "GlobalSNIP", seed))
        masks = random_masks(seed, 0.6)
        masks[LAST, "weight"][:] = masks[LAST, "weight"] & bool(seed)
        store.write("masks", name, mask_rows(name, masks))
        rows = [{"trial_id": name, "stage": "retrained", "split": "validation", "example": i} for i in range(4)]
        store.write("predictions", name, [row | {"label": row["example"] % 2, "prediction": 1} for row in rows])
    assert main(["table", store.uri]) == 0
    broken = f"GlobalSNIP 50 % on toy: no weight is left of {LAST}.weight"
    constant = "predicts one class alone when retrained"
    assert f"\nwarning: {broken} (1 of 2 trials); {constant} (2 of 2 trials)\n" in capsys.readouterr().out
    assert main(["show", store.uri, "a0a0"]) == 0
    assert f"\nwarning: {broken}; {constant}\n" in capsys.readouterr().out
    assert main(["table", store.uri, "--json"]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.fixture
def arms(tmp_path: Path) -> str:
    """Two arms of a strategy, with other settings."""
    store = Store(str(tmp_path / "arms"))
    for epochs, seeds in ((1, 2), (3, 1)):
        for seed in range(seeds):
            write_trial(store, row_of(specs.trial(of=specs.dense(seed=seed), retrain=Training(epochs=epochs))))
    return store.uri


def test_settings_are_columns_of_the_table_and_of_a_view(arms: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", arms, "--json", "--columns", "retrain.epochs, finetune.epochs"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = list(rows[0])
    assert names[names.index("arm") + 1 :][:2] == ["retrain.epochs", "finetune.epochs"]
    epochs = Training().epochs
    found = {(row["arm"], row["retrain.epochs"], row["finetune.epochs"]) for row in rows}
    assert found == {(f"LayerMagWeight (retrain.epochs={many})", many, epochs) for many in (1, 3)}
    sql = 'select count(*) as n from trials join settings using (trial_id) where "retrain.epochs" = 1'
    assert main(["query", arms, sql, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 2}]
    assert main(["query", arms, "select * from settings", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)[0]) == {"trial_id", "arm", "retrain.epochs"}
    assert main(["table", arms, "--columns", "retrain.epoch"]) == 2
    assert "unknown setting 'retrain.epoch'; did you mean 'retrain.epochs'" in capsys.readouterr().err


def test_a_table_has_one_format(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", uri, "--latex"]) == 0
    assert capsys.readouterr().out.startswith(r"\begin{table}")
    assert main(["table", uri, "--latex", "--csv"]) == 2
    assert "--csv and --latex are given" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["curves", "compare", "iou"])
def test_every_figure_takes_its_width_text_arms_and_labels(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    store = Store(uri)
    for name in ("a0", "a1", "b0", "b1"):
        store.write("masks", name * 8, mask_rows(name * 8, random_masks(int(name[1]))))
    out = tmp_path / "figure.svg"
    asked = [
        "--width",
        "3.3",
        "--font-size",
        "6",
        "--label",
        "LayerSNIP=Mine",
        "-o",
        str(out),
        "--only",
        "seed=0,seed=1",
    ]
    assert main([verb, uri, *asked]) == 0
    drawn = out.read_text()
    assert 'width="237.6pt"' in drawn
    assert "<!-- Mine -->" in drawn
    assert "<!-- LayerSNIP -->" not in drawn
    assert main([verb, uri, *asked, "--arms", "LayerSNIP"]) == 0
    assert "<!-- LayerMagWeight -->" not in out.read_text()
    capsys.readouterr()
    for flags, message in (
        (["--arms", "LayerSNP"], "--arms: unknown arm 'LayerSNP'; did you mean 'LayerSNIP'"),
        (["--label", "LayerSNIP"], "--label 'LayerSNIP': write ARM=NAME"),
        (["--width", "0"], "width 0.0: a figure is 2 to 40 inches wide"),
        (["--font-size", "99"], "font size 99.0: text has 3 to 40 points"),
    ):
        assert main([verb, uri, "-o", str(out), "--only", "seed=0,seed=1", *flags]) == 2
        assert message in capsys.readouterr().err


def test_compare_draws(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", uri, "-o", str(tmp_path / "forest.svg")]) == 0
    assert f"wrote {tmp_path}/forest.svg" in capsys.readouterr().out
    assert (tmp_path / "forest.svg").read_bytes().startswith(b"<?xml")


def test_two_trials_are_compared_by_their_ids(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", uri, "a0a0", "b0b0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n"], row["only_a"], row["only_b"], row["difference"]) == (50, 10, 0, pytest.approx(0.2))
    assert row["p_mcnemar"] == pytest.approx(2 / 2**10)


def test_a_baseline_alone_has_nothing_to_compare(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", uri, "--only", "strategy=LayerMagWeight"]) == 0
    assert "nothing to compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    "only",
    [
        ["--only", "strategy=LayerMagWeight,strategy=LayerSNIP,seed=0"],
        ["--only", "strategy=LayerMagWeight", "--only", "seed=0", "--only", "strategy=LayerSNIP"],
    ],
)
def test_values_of_one_key_mean_or_and_keys_mean_and(
    uri: str, capsys: pytest.CaptureFixture[str], only: list[str]
) -> None:
    assert main(["table", uri, "--json", *only]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["strategy"], row["n"]) for row in rows} == {("LayerMagWeight", 1), ("LayerSNIP", 1)}


def test_a_view_chooses_a_trial_by_the_beginning_of_its_id(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", uri, "--json", "--only", "trial=a0a0"]) == 0
    assert [row["n"] for row in json.loads(capsys.readouterr().out)] == [1]
    assert main(["table", uri, "--json", "--only", "trial=a0"]) == 2
    assert "give 4 characters or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "LayerMagWeigt"], "unknown baseline 'LayerMagWeigt'; did you mean 'LayerMagWeight'"),
        (["--metric", "acuracy"], "unknown metric 'acuracy'"),
        (["--margin", "0"], "margin 0.0 must be above 0"),
        (["--only", "sed=0"], "unknown column 'sed'; did you mean 'seed'"),
        (["--sweep", "frist"], "unknown sweep 'frist'; did you mean 'first'"),
        (["a0a0"], "compare takes two trials, or none for all arms, and not 1"),
        (["a0a0", "b0b0", "--only", "seed=0"], "--only goes with arms; two trials are compared as they are"),
        (["a0a0", "b0b0", "-o", "x.png"], "--output goes with arms"),
        (["-o", "x.gif"], "cannot write a figure as '.gif'"),
        (["a0a0", "zzzz"], "unknown trial 'zzzz'"),
    ],
)
def test_bad_input_is_named_and_exits_2(
    uri: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", uri, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_store_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "holds no trials yet" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "doctor", "cache", "compact", "table", "curves", "iou", "report"])
def test_what_is_no_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main([verb, str(tmp_path / "none")]) == 2
    assert "there is no store" in capsys.readouterr().err
    (tmp_path / "thesis.tex").write_text("")
    assert main([verb, str(tmp_path)]) == 2
    assert "is not a store" in capsys.readouterr().err


def test_the_store_of_the_environment_is_the_default(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEEPCUTS_STORE", uri)
    assert main(["table", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["show", "a0a0"]) == 0
    assert f"run-one {uri} a0a0" in capsys.readouterr().out
    assert main(["query", "select count(*) as n from trials", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 16}]
    monkeypatch.delenv("DEEPCUTS_STORE")
    monkeypatch.chdir(tmp_path)
    assert main(["table"]) == 2
    assert "there is no store 'results'" in capsys.readouterr().err


def test_a_damaged_part_is_named_and_exits_1(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(uri, "trials", f"{'a7' * 8}.parquet").write_bytes(b"cut")
    assert main(["compare", uri, "--json"]) == 1
    found = capsys.readouterr()
    assert json.loads(found.out)[0]["n"] == 7
    assert "a7a7.parquet" in found.err


def test_training_and_the_best_epoch_are_curves_too(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"epoch": 0, "step": 9, "split": "validation", "metric": "accuracy", "value": 0.95, "seconds": 1.0}
    rows = [{"trial_id": "a0" * 8, "stage": stage, **fields} for stage in ("dense", "retrained")]
    Store(uri).write("metrics", "a0" * 8, rows)
    assert main(["curves", uri, "--x", "epoch", "-o", str(tmp_path / "t.svg")]) == 0
    assert main(["curves", uri, "--report", "best", "-o", str(tmp_path / "b.svg")]) == 0
    capsys.readouterr()
    assert main(["curves", uri, "--report", "best", "--json"]) == 0
    assert [(row["stage"], row["mean"]) for row in json.loads(capsys.readouterr().out)] == [("best epoch", 0.95)]


# The other views, on stores that something is wrong with


@pytest.fixture
def masked(tmp_path: Path) -> str:
    """Three trials with masks."""
    store = Store(str(tmp_path / "masked"))
    for seed in range(3):
        write_trial(store, trial(f"c{seed}" * 8, "LayerSNIP", seed))
        store.write("masks", f"c{seed}" * 8, mask_rows(f"c{seed}" * 8, random_masks(seed)))
    return store.uri


def test_iou_prints_pairs_and_what_they_tell_and_draws_its_figures(
    masked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["iou", masked, "-o", str(tmp_path / "iou.svg")]) == 0
    out = capsys.readouterr().out
    assert "means of the pairs that differ in one thing alone" in out
    assert "other seed" in out
    assert main(["iou", masked, "--by-kind", "-o", str(tmp_path / "iou.svg")]) == 0
    assert "query" in capsys.readouterr().out
    assert main(["iou", masked, "--by-arm", "-o", str(tmp_path / "iou.svg")]) == 0
    assert "arm_b" in capsys.readouterr().out
    names = {"iou.svg", "iou-layers.svg", "iou-density.svg", "iou-dead.svg"}
    assert {path.name for path in tmp_path.glob("*.svg")} == names


@pytest.mark.parametrize("drawn", [False, True])
def test_iou_gives_the_means_of_each_pair_of_arms_as_json_too(
    masked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: bool
) -> None:
    output = ["-o", str(tmp_path / "iou.svg")] if drawn else []
    assert main(["iou", masked, "--json", "--by-arm", *output]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["arm"], row["arm_b"], row["pairs"]) == ("LayerSNIP", "LayerSNIP", 3)
    assert main(["iou", masked, "--json", "--by-arm", "--by-kind", *output]) == 0
    assert "query" in {row["layer"] for row in json.loads(capsys.readouterr().out)}
    assert main(["iou", masked, "--json", *output]) == 0
    assert {"trial_a", "trial_b"} <= set(json.loads(capsys.readouterr().out)[0])


def test_iou_of_different_models_is_of_what_they_have_in_common_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path))
    for number, model in enumerate(("tiny", "small")):
        row = trial(f"{number:016x}", "LayerSNIP", model=model)
        masks = random_masks(number)
        if number:
            masks = {(layer, name): mask for (layer, name), mask in masks.items() if name == "weight"}
        store.write("masks", row["trial_id"], mask_rows(row["trial_id"], masks))
        write_trial(store, row)
    assert main(["iou", str(tmp_path), "--json"]) == 2
    assert "different models cannot be compared: 'small', 'tiny'" in (error := capsys.readouterr().err)
    assert "--common" in error
    assert main(["iou", str(tmp_path), "--common", "--json"]) == 0
    assert {row["layer"] for row in json.loads(capsys.readouterr().out)} == {None, *LAYERS}
    assert main(["iou", str(tmp_path), "--common", "-o", str(tmp_path / "common.png")]) == 0


def test_iou_names_missing_and_damaged_masks_and_exits_1(
    masked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trial(Store(masked), trial("d0" * 8, "LayerSNIP", 7))
    assert main(["iou", masked, "--json"]) == 1
    found = capsys.readouterr()
    assert len({(row["trial_a"], row["trial_b"]) for row in json.loads(found.out)}) == 3
    assert f"{'d0' * 8}.parquet: missing" in found.err
    Path(masked, "masks", f"{'c0' * 8}.parquet").write_bytes(b"cut")
    assert main(["iou", masked, "-o", str(tmp_path / "iou.svg")]) == 1
    assert f"damaged and left out: {masked}/masks/{'c0' * 8}.parquet" in capsys.readouterr().err


def test_one_trial_has_curves_and_a_table_but_no_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "one"))
    write_trial(store, trial("a0" * 8, "LayerSNIP"))
    store.write("masks", "a0" * 8, mask_rows("a0" * 8, random_masks(0)))
    assert main(["curves", store.uri, "--json"]) == 0
    assert main(["table", store.uri]) == 0
    assert main(["iou", store.uri]) == 2
    assert "overlap needs the masks of two trials" in capsys.readouterr().err
    assert main(["compare", store.uri, "--baseline", "LayerSNIP"]) == 0


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT sed FROM trials", "seed"),
        ("SELEC 1", "syntax error"),
        ("DELETE FROM trials", "one SELECT"),
    ],
)
def test_mistakes_in_sql_exit_2_with_the_reason(
    uri: str, capsys: pytest.CaptureFixture[str], sql: str, message: str
) -> None:
    assert main(["query", uri, sql]) == 2
    assert message in capsys.readouterr().err


def test_a_query_past_a_damaged_part_answers_and_exits_1(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(uri, "trials", f"{'a7' * 8}.parquet").write_bytes(b"cut")
    assert main(["query", uri, "SELECT count(*) AS n FROM trials", "--json"]) == 1
    found = capsys.readouterr()
    assert json.loads(found.out) == [{"n": 15}]
    assert "a7a7.parquet" in found.err


def test_a_store_whose_every_part_is_damaged_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(str(tmp_path)).write_bytes("trials/aaaa.parquet", b"cut")
    assert main(["table", str(tmp_path)]) == 2
    assert "aaaa.parquet" in capsys.readouterr().err
