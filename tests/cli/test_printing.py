"""Records and frames to a terminal, a pipe or a program."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from builders.rows import trial

from deepcuts.analysis.curves import table
from deepcuts.cli.latex import print_latex
from deepcuts.cli.printing import (
    for_people,
    print_csv,
    print_json,
    print_markdown,
    print_records,
    print_results,
    say_damaged,
)


def printed(capsys, rows):
    print_json(rows)
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (math.nan, None),
        (math.inf, None),
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("nan", "nan"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([0.5, math.nan], "f4"), [0.5, None]),
        ([math.nan, [math.inf]], [None, [None]]),
        ({"a": math.nan, "b": Decimal(3)}, {"a": None, "b": 3}),
        (Decimal("12345678901234567890"), 12345678901234567890),
        (Decimal("0.5"), 0.5),
        (Decimal("NaN"), None),
        (b"\x01\xff", "01ff"),
        (datetime(2024, 5, 6, tzinfo=UTC), "2024-05-06T00:00:00+00:00"),
        (pd.Timestamp("2024-05-06"), "2024-05-06T00:00:00"),
        (date(2024, 5, 6), "2024-05-06"),
        (pd.NaT, None),
        (pd.NA, None),
        (pd.Timedelta(seconds=5), "0 days 00:00:05"),
    ],
)
def test_every_value_is_strict_json(capsys, value, plain):
    assert printed(capsys, [{"x": value}]) == [{"x": plain}]


def test_a_frame_is_a_list_of_objects_null_where_undefined(capsys):
    frame = pd.DataFrame({"n": [1, None], "text": ["a", None], "at": [pd.Timestamp("2024-01-01"), pd.NaT]})
    assert printed(capsys, frame) == [
        {"n": 1.0, "text": "a", "at": "2024-01-01T00:00:00"},
        {"n": None, "text": None, "at": None},
    ]
    assert printed(capsys, []) == []


def test_in_a_pipe_a_table_is_aligned_and_plain(capsys):
    rows = [{"name": "a", "n": 1, "x": 0.123456, "none": None}, {"name": "longer", "n": None, "x": 2.0, "none": None}]
    print_records(rows)
    assert capsys.readouterr().out.splitlines() == ["name    n  x", "a       1  0.1235", "longer  -  2"]


def test_on_a_terminal_a_table_is_ruled_and_brackets_stay_text(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_records([{"name": "[red]a[/red]", "n": 1}])
    shown = capsys.readouterr().out
    assert "[red]a[/red]" in shown
    assert "─" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_the_interval_of_a_result_is_explained(terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    rows = [trial(str(seed), "LayerSNIP", seed, compression=None) for seed in range(3)]
    print_results(table(pd.DataFrame(rows)))
    assert ("Student's t" in capsys.readouterr().out) == terminal


def shown(*values):
    rows = [trial(str(seed), "LayerSNIP", seed, retrained=value) for seed, value in enumerate(values)]
    return for_people(table(pd.DataFrame(rows).assign(compression=None)))["retrained"].item()


def test_an_interval_stays_within_what_the_metric_can_be():
    assert shown(0.80, 0.81, 0.82) == "0.810 ± 0.025"
    assert shown(0.95, 0.99, 1.00) == "0.980 (0.914 to 1.000)"
    assert shown(0.05, 0.0, 0.0) == "0.017 (0.000 to 0.088)"


def test_a_level_at_which_every_trial_failed_has_no_value():
    nothing = dict.fromkeys(("metric", "dense", "pruned", "rewound", "retrained", "sparsity", "compression_achieved"))
    failed = trial("f", sparsity_asked=0.9, status="failed") | nothing
    shown = for_people(table(pd.DataFrame([trial("a"), failed]).assign(compression=None)))
    assert shown[["asked", "failed"]].values.tolist() == [["50 %", 0], ["90 %", 1]]
    assert shown["retrained"].isna().tolist() == [False, True]


def test_of_fewer_than_three_seeds_the_values_are_shown():
    assert shown(0.67, 0.91) == "0.670, 0.910"
    assert shown(0.67) == "0.670"


def test_no_rows_are_no_error(capsys):
    print_records([])
    assert capsys.readouterr().out.strip() == ""


def test_damaged_files_are_named_on_stderr(capsys):
    assert not say_damaged({})
    assert say_damaged({"a.parquet": "cut"})
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "deepcuts: damaged and left out: a.parquet: cut\n"


@pytest.fixture
def results():
    rows = [
        trial(str(seed), "LayerSNIP", seed, dataset="a_b|c", retrained=round(0.80 + seed / 100, 2)) for seed in range(3)
    ]
    return table(pd.DataFrame(rows).assign(compression=None, majority=0.81))


def test_latex_has_a_caption_with_what_all_rows_share_and_numbers_at_the_right(results, capsys):
    more = results.assign(strategy="LayerMagWeight", arm="LayerMagWeight", sparsity_asked=0.9, sparsity=0.8)
    print_latex(pd.concat([results, more, results.assign(dataset="d")]))
    lines = capsys.readouterr().out.splitlines()
    shared = r"accuracy, n = 3, majority 0.810, dense 0.900 $\pm$ 0.000, compression 1.8"
    assert rf"a\_b$|$c: {shared}. d: accuracy, pruned to" not in lines[2]
    assert rf"a\_b$|$c: {shared}. d: {shared}.}}" in lines[2]
    place = lines.index(r"\toprule")
    assert lines[place - 1] == r"\begin{tabular}{@{}lrrrrr@{}}"
    assert lines[place + 1] == r"strategy & asked & pruned & rewound & retrained & sparsity \\"
    assert lines[place + 3] == r"\multicolumn{6}{@{}l}{\textit{a\_b$|$c}} \\"
    assert lines[place + 4].split(" & ")[1] == r"50 \%"
    assert lines[place + 4].split(" & ")[-2] == r"0.810 $\pm$ 0.025$^*$"
    assert lines[-2].startswith(r"\footnotesize $^*$ exactly the score of always predicting the most frequent class")
    assert lines[-1] == r"\end{table}"


@pytest.mark.parametrize(
    ("arm", "size"),
    [("LayerSNIP", "normalsize"), (5 * "wide ", "small"), (7 * "wide ", "footnotesize"), (9 * "wide ", "scriptsize")],
)
def test_a_wide_table_of_latex_has_smaller_text(results, capsys, arm, size):
    print_latex(results.assign(arm=arm))
    said = capsys.readouterr()
    assert f"\\{size}\n" in said.out
    assert said.err == ""


def test_a_table_of_latex_that_fits_at_no_size_says_how_wide_it_is(results, capsys):
    print_latex(results.assign(arm=30 * "wide "))
    assert "pt wide, and the text of an article 345 pt: choose fewer rows by --only" in capsys.readouterr().err


@pytest.mark.parametrize(("values", "text"), [((0.5, 0.81), "0.500, 0.810*"), ((0.81, 0.5), "0.810*, 0.500")])
def test_a_star_marks_the_value_that_it_is_about(values, text):
    rows = [trial(str(seed), seed=seed, retrained=value) for seed, value in enumerate(values)]
    found = table(pd.DataFrame(rows).assign(compression=None, majority=0.81))
    assert for_people(found)["retrained"].item() == text


def test_markdown_and_csv(results, capsys):
    print_markdown(pd.concat([results, results.assign(dataset="d")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("| --- | --- | --- | ---: | ---: |")
    assert lines[-1].startswith(r"\* exactly the score")
    assert r"| a_b\|c | accuracy | LayerSNIP | 50 % | 3 |" in lines[2]
    assert r"| 0.810 ± 0.025\* |" in lines[2]
    print_csv(results)
    read = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(read) == list(results)
    assert read["retrained_values"].item() == "0.8 0.81 0.82"
