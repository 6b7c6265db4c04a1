from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.rows import trial, write_trial
from builders.transfers import transfer_store, transfers

from deepcuts.analysis.transfer import TRANSFER_COLUMNS
from deepcuts.cli.main import main
from deepcuts.store.store import Store


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """SST-2 and CoLA with each other's masks; one trial is missing."""
    trials = transfers()
    missing = (trials["arm"] == "shuffled of cola") & (trials["seed"] == 2)
    return transfer_store(Store(str(tmp_path_factory.mktemp("transfer") / "store")), trials[~missing]).uri


MISSING = "missing: own at 64 %, shuffled: sst2 with the mask of cola lacks seed 2\n"


def test_it_prints_a_table_with_the_shuffled_masks_beside_and_what_is_missing(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", uri]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{MISSING}retrained: ")
    lines = [line.split("  ") for line in out.splitlines()]
    row = next([cell.strip() for cell in line if cell] for line in lines if line[0] == "64 %" and " cola" in line[1:2])
    assert row
    assert "sst2 (own)" in out
    assert "-0.315 (too few seeds)" in out
    assert "not corrected for the number of cells" in out


@pytest.mark.parametrize("form", ["--json", "--csv", "--latex", "--markdown"])
def test_what_is_missing_is_said_beside_every_format(uri: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", uri, form]) == 0
    said = capsys.readouterr()
    assert said.err == MISSING
    assert "missing" not in said.out


def test_json_and_csv_have_the_columns_promised(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", uri, "--json", "--only", "dataset=cola"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows[0]) == TRANSFER_COLUMNS
    assert {(row["source"], row["target"], row["control"]) for row in rows} == {
        (source, "cola", control) for source in ("sst2", "cola") for control in ("none", "shuffle")
    }
    assert main(["transfer", uri, "--csv"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == ",".join(TRANSFER_COLUMNS)
    assert len(lines) == 8


def test_latex_and_markdown_are_tables(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", uri, "--latex"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith(
        r"\caption{Masks of one dataset on the network and data of another (own at 64 \%, retrained"
    )
    assert r"$\pm$ is half of a 95 \% interval over seeds" in lines[2]
    place = lines.index(r"\begin{tabular}{@{}lrrrrrr@{}}")
    assert lines[place + 2] == r"mask of & as found & n & from own mask & shuffled & n & from own mask \\"
    assert lines[place + 4] == r"\multicolumn{7}{@{}l}{\textit{cola (matthews)}} \\"
    assert lines[place + 5].startswith(r"cola (own) & 0.450 $\pm$ 0.000 & 3 & -- & 0.340 $\pm$ 0.025 & 3 & $-$0.220")
    assert [line[:14] for line in lines if line.startswith(("cola", "sst2"))] == [
        *("cola (own) & 0", "sst2 & 0.395 $", "cola & 0.816 $", "sst2 (own) & 0")
    ]
    sst2 = next(line for line in lines if line.startswith("cola & 0.816"))
    assert sst2.endswith(r"& 2 & $-$0.315 \\")  # of two seeds there is no interval
    assert main(["transfer", uri, "--markdown"]) == 0
    header, _, first, *_ = capsys.readouterr().out.splitlines()
    assert header.startswith("| asked | mask of | on | metric | as found | seeds | from own mask | shuffled |")
    assert first.startswith("| 64 % | cola (own) | cola | matthews | 0.450")


def test_it_draws_the_arms_that_are_asked_for(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "transfer.svg"
    assert main(["transfer", uri, "-o", str(out), "--width", "3.3", "--arms", "own"]) == 0
    assert out.read_text().startswith("<?xml")
    assert f"wrote {out}" in capsys.readouterr().err
    assert main(["transfer", uri, "-o", str(out), "--arms", "onw"]) == 2
    assert "unknown arm 'onw'" in capsys.readouterr().err


def test_two_formats_are_refused(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", uri, "--json", "--latex"]) == 2
    said = capsys.readouterr()
    assert "a table has one format; --json and --latex are given" in said.err
    assert said.out == ""


def test_a_store_without_masks_of_others_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "store"))
    write_trial(store, trial("a" * 16))
    assert main(["transfer", store.uri]) == 0
    assert "no completed trial takes the mask of another one" in capsys.readouterr().out
    assert main(["transfer", store.uri, "--latex"]) == 0
    assert "no completed trial takes the mask of another one" in capsys.readouterr().err
    assert main(["transfer", store.uri, "-o", str(tmp_path / "t.png")]) == 2
