"""Files of criteria in a sweep: what they add to the names of strategies, and to which ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from builders.own_criteria import MINE, write_mine
from builders.specs import sweep, trial, write

from deepcuts.experiment.own_criteria import read_criteria
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile

KEYS: dict[str, Any] = {"datasets": ["toy"], "strategies": ["LayerSquare+shuffle", "LayerFisher"], "sparsities": [0.5]}
TEXT = """\
datasets: [toy]
criteria: [mine.py]
strategies: [LayerFisher, LayerSquare]
sparsities: [0.5]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file of criteria."""
    monkeypatch.chdir(tmp_path)
    write_mine(tmp_path)
    return tmp_path


def refusal(keys: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is the result
        parse_sweep(KEYS | keys)
    return str(caught.value)


def ids(**keys: Any) -> dict[str, tuple[str, str | None, str]]:
    found = sweep(**{"strategies": ["LayerSquare", "LayerFisher", "LayerMoved"], "sparsities": [0.5], **keys}).trials()
    return {each.strategy: (each.trial_id, each.score.score_id, each.score.pass_id) for each in found}


def test_strategies_may_name_criteria_of_the_files(folder: Path) -> None:
    file = parse_sweep(KEYS | {"criteria": ["mine.py"]})
    assert file.resolved()["criteria"] == ["mine.py"]
    assert parse_sweep(file.resolved()) == file
    assert read_sweep_file(write(folder, TEXT)).strategies == ["LayerFisher", "LayerSquare"]
    assert parse_sweep(KEYS | {"criteria": [folder / "mine.py"]}).criteria[0].path == str(folder / "mine.py")
    assert read_sweep_file(write(folder, TEXT.replace("criteria: [mine.py]\n", "")), ["criteria=[mine.py]"]).criteria
    trials = sweep(**KEYS, criteria=["mine.py"]).trials()
    assert [(each.strategy, each.score.data) for each in trials[1:]] == [
        ("LayerSquare+shuffle", "plain"),
        ("LayerFisher", "plain"),
    ]


def test_a_path_is_relative_to_the_folder_that_one_launches_from(folder: Path) -> None:
    (folder / "sweeps").mkdir()
    path = write(folder / "sweeps", TEXT)
    assert read_sweep_file(path).criteria
    os.chdir(folder / "sweeps")
    with pytest.raises(ValueError, match=r"criteria\.0: cannot read the criteria 'mine\.py': No such file"):
        read_sweep_file(path)


def test_the_bytes_of_a_file_enter_the_ids_of_its_own_criteria_and_nothing_else_does(folder: Path) -> None:
    before = ids(criteria=["mine.py"])
    write_mine(folder, name="renamed.py")
    assert ids(criteria=["renamed.py"]) == before
    unused = write_mine(folder, MINE.replace('("', '("Un'), "unused.py")
    assert ids(criteria=["mine.py", unused]) == before
    assert ids(criteria=["mine.py"], strategies=["LayerFisher"])["LayerFisher"] == before["LayerFisher"]
    assert trial("Fisher", compression=None, sparsity=0.5).score.score_id == before["LayerFisher"][1]
    write_mine(folder, MINE + "\n")
    after = ids(criteria=["mine.py"])
    for strategy in ("Dense", "LayerFisher"):
        assert after[strategy] == before[strategy]
    for strategy in ("LayerSquare", "LayerMoved"):
        assert after[strategy][0] != before[strategy][0]
        assert after[strategy][1] != before[strategy][1]
        assert after[strategy][2] == before[strategy][2]  # the pass is the same: its formulas differ
    assert after["LayerSquare"][2] == after["LayerFisher"][2]


def test_a_spec_that_was_kept_needs_no_file(folder: Path) -> None:
    trials = sweep(**KEYS, criteria=["mine.py"], seeds=[0, 1]).trials()
    texts = [each.model_dump_json() for each in trials]
    (folder / "mine.py").write_text("raise SystemExit('nobody runs this')")
    again = [TrialSpec.model_validate_json(text) for text in texts]
    assert [(each.trial_id, each.score.data, each.score.label) for each in again] == [
        (each.trial_id, each.score.data, each.score.label) for each in trials
    ]
    assert {len(shared(again).partners(each)) for each in again if each.score.data == "plain"} == {2}


def test_a_file_is_read_once_and_what_it_was_then_is_what_counts(folder: Path) -> None:
    file = parse_sweep(KEYS | {"criteria": ["mine.py"]})
    before = file.criteria[0].digest
    write_mine(folder, "raise SystemExit('changed')")
    assert read_criteria(file.criteria[0]).digest == before
    assert SweepFile(**(dict(KEYS) | {"name": "again", "criteria": file.criteria})).criteria[0].text == MINE


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "strategies.0: unknown strategy 'LayerSquare+shuffle'"),
        ({"criteria": ["absent.py"]}, "criteria.0: cannot read the criteria 'absent.py': No such file"),
        ({"criteria": ["."]}, "criteria.0: cannot read the criteria '.': Is a directory; give a file of Python"),
        ({"criteria": [3]}, "criteria.0: must be the path of a file of Python, not 3"),
        ({"criteria": "mine.py"}, "criteria: must be a list, as in [a, b], not 'mine.py'"),
        ({"criteria": ["mine.py", "mine.py"]}, "criteria: criterion 'Square' of 'mine.py' is in 'mine.py' too; rename"),
        ({"criteria": ["mine.py", "near.py"]}, "'SQUARE' of 'near.py' is in 'mine.py' too, as 'Square'; rename one"),
        ({"criteria": ["broken.py"]}, "criteria.0: broken.py:2: not valid Python: "),
        ({"criteria": ["binary.py"]}, "criteria.0: binary.py is not UTF-8 text"),
        (
            {"criteria": ["mine.py"], "strategies": ["LayerSqare"]},
            "strategies.0: unknown strategy 'LayerSqare'; did you mean 'LayerSquare'? known:",
        ),
        (
            {"criteria": ["mine.py"], "strategies": ["LayerSquare+shufle"]},
            "unknown control 'shufle' of strategy 'LayerSquare+shufle'",
        ),
    ],
)
def test_what_is_wrong_with_files_is_said_at_their_key(folder: Path, keys: dict[str, Any], said: str) -> None:
    (folder / "broken.py").write_text("import deepcuts as dc\ndef f(:\n")
    (folder / "binary.py").write_bytes(b"\xff\xfe")
    write_mine(folder, MINE.replace('"Square"', '"SQUARE"').replace('("In', '("Un').replace("Cam", "Cem"), "near.py")
    found = refusal(keys)
    assert said in found
    assert "\n" not in found, "one mistake, one line"


def test_a_mistake_in_a_file_comes_with_both_lines(folder: Path) -> None:
    write_mine(folder, MINE.replace('data="plain"', 'data="plane"'))
    with pytest.raises(
        ValueError, match=r"small\.yaml:2: criteria\.0: mine\.py:8: criterion 'Square': unknown data 'pla"
    ):
        read_sweep_file(write(folder, TEXT))


def test_arms_and_axes_know_what_the_criteria_of_a_file_use(folder: Path) -> None:
    arms = {"cam": {"use": "LayerCam"}, "LayerSquare": None}
    keys = KEYS | {"criteria": ["mine.py"], "strategies": arms, "axes": {"scoring.shift": [0.5, 1]}}
    assert [arm.label for arm in parse_sweep(keys).arms] == ["cam shift=0.5", "cam shift=1", "LayerSquare"]
    found = sweep(**keys).trials()[1:]
    assert [(each.strategy, each.score.shift) for each in found] == [
        ("LayerCam", 0.5),
        ("LayerCam", 1),
        ("LayerSquare", 10),
    ]
    assert len({each.score.pass_id for each in found}) == 1
    assert len({each.score.label for each in found}) == 3
    with pytest.raises(
        ValueError, match=r"'scoring.shift' changes no arm: of the criteria only .*, Cam use it; remove"
    ):
        parse_sweep(keys | {"strategies": ["LayerSquare"]})
    with pytest.raises(ValueError, match=r"strategies\.LayerCam: 'LayerCam' is the name of a strategy"):
        parse_sweep(keys | {"strategies": {"LayerCam": {"use": "LayerSquare"}}, "axes": {}})
