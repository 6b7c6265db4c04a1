"""The benchmarks can be run: each can be loaded, and those that use much of the package work on little."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_loaded(path: Path) -> None:
    assert import_module(f"benchmarks.{path.stem}")


def test_the_views_of_some_trials_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rows", "--trials", "516", "--compacted", "--folder", str(tmp_path)])
    import_module("benchmarks.rows").main()
    out = capsys.readouterr().out
    assert "what `table`, `curves` and `compare` read" in out
    assert "report" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("torch_state")
@pytest.mark.filterwarnings("ignore")
def test_an_architecture_has_its_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["architectures", "bert"])
    monkeypatch.setenv("DEEPCUTS_CACHE", "")
    import_module("benchmarks.architectures").main()
    row = capsys.readouterr().out.splitlines()[-1]
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text("utf-8")
    assert row in page
