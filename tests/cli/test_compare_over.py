from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.many_datasets import many_datasets, noisy
from builders.rows import write_trial

from deepcuts.analysis.across import OVER_DATASETS_COLUMNS
from deepcuts.cli.main import main
from deepcuts.records import records
from deepcuts.store.store import Store


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three arms on three datasets; one trial is missing."""
    store = Store(str(tmp_path_factory.mktemp("over") / "store"))
    for row in records(many_datasets(noisy(0), seeds=4))[:-1]:
        write_trial(store, row)
    return store.uri


LEFT_OUT = "left out: seed 3 at 4x: not there for LayerRandom on data2\n"


def over(uri: str, *arguments: str) -> int:
    return main(["compare", uri, "--over", "datasets", *arguments])


def test_it_prints_a_table_and_sentences(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert over(uri) == 0
    out = capsys.readouterr().out
    assert out.startswith(LEFT_OUT)
    assert "4x, retrained: 3 datasets (data0, data1, data2), 3 seeds\nstrategy " in out
    assert "3 datasets cannot decide about ranks" in out
    assert "LayerSNIP against LayerMagWeight on 3 datasets at 4x: undecided, normalised metric -0." in out


@pytest.mark.parametrize("form", ["--json", "--csv", "--latex", "--markdown"])
def test_what_is_left_out_is_said_beside_every_format(uri: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert over(uri, form) == 0
    said = capsys.readouterr()
    assert said.err == LEFT_OUT
    assert "left out" not in said.out


def test_json_and_csv_have_the_columns_promised(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert over(uri, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows[0]) == OVER_DATASETS_COLUMNS
    assert (rows[0]["datasets"], rows[0]["seeds"]) == (["data0", "data1", "data2"], [0, 1, 2])
    assert over(uri, "--csv") == 0
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header == ",".join(OVER_DATASETS_COLUMNS)
    assert first.startswith("4.0,0.75,LayerMagWeight,LayerMagWeight,data0 data1 data2,0 1 2,")


def test_latex_is_a_tabular_with_the_best_in_bold(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert over(uri, "--latex") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"% 4x, retrained: 3 datasets (data0, data1, data2), 3 seeds"
    assert lines[1] == "% P(better): than LayerMagWeight, on the same dataset"
    assert lines[2:5] == [
        r"{\scriptsize\setlength{\tabcolsep}{2pt}%",
        *(r"\begin{tabular}{@{}rlrrrr@{}}", r"\toprule"),
    ]
    assert lines[5] == r"asked & strategy & mean & IQM & P(better) & rank \\"
    assert lines[7].startswith(r"4x & LayerMagWeight & \textbf{0.9")
    assert lines[7].endswith(r"& -- & \textbf{1.00} \\")
    assert r"{\scriptsize " in lines[8]
    assert r"\textbf" not in lines[8]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}}"]
    assert {line.count("&") for line in lines[5:-2] if "rule" not in line} == {5}


def test_markdown_is_a_table_with_the_best_in_bold(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert over(uri, "--markdown") == 0
    header, _, first, *_ = capsys.readouterr().out.splitlines()
    assert header == "| asked | strategy | mean | IQM | P(better than LayerMagWeight) | rank |"
    assert first.startswith("| 4x | LayerMagWeight | **0.9")


def test_it_draws_the_arms_that_are_asked_for(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranks.svg"
    arguments = ["-o", str(out), "--width", "3.3", "--arms", "LayerSNIP,LayerRandom", "--label", "LayerSNIP=S"]
    assert over(uri, *arguments) == 0
    assert out.read_text().startswith("<?xml")
    assert f"wrote {out}" in capsys.readouterr().err
    assert over(uri, "-o", str(out), "--arms", "LayerSNAP") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latex"], "--latex goes with --over datasets"),
        (["--over", "datasets", "--json", "--latex"], "a table has one format; --json and --latex are given"),
        (["--over", "datasets", "--examples"], "leave out --examples, or --over"),
        (["--over", "datasets", "--only", "dataset=data0"], "of one dataset, 'data0'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    uri: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", uri, *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_two_trials_are_not_compared_over_datasets(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", uri, "0000", "0001", "--over", "datasets"]) == 2
    assert "leave out two trials, or --over" in capsys.readouterr().err
