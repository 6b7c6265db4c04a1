from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rows import trial, write_trial

from deepcuts.cli import main
from deepcuts.stats import COLUMNS
from deepcuts.store import Store


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
    assert list(row) == COLUMNS
    assert row["compression"] is None
    assert (row["n"], row["verdict"]) == (8, "better")


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
    ("arguments", "message"),
    [
        (["--baseline", "LayerMagWeigt"], "unknown baseline 'LayerMagWeigt'; did you mean 'LayerMagWeight'"),
        (["--metric", "acuracy"], "unknown metric 'acuracy'"),
        (["--margin", "0"], "margin 0.0 must be above 0"),
        (["--only", "sed=0"], "unknown column 'sed'"),
        (["--sweep", "frist"], "unknown sweep 'frist'; did you mean 'first'"),
        (["a0a0"], "1 trials are given; compare takes two"),
        (["a0a0", "zzzz"], "unknown trial 'zzzz'"),
    ],
)
def test_bad_input_is_named_and_exits_2(
    uri: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", uri, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_store_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "none")]) == 2
    assert "holds no trials yet" in capsys.readouterr().err


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
