"""A user without a home folder and without an entry in passwd, as in many containers."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from builders.toy_sweeps import SWEEP

import deepcuts
from deepcuts.cli.main import main
from deepcuts.data.user_cache import cache_folder


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME", "DEEPCUTS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ([], 0, "3 of 3 trials to run"),
        (["--store", "~/store"], 2, "cannot open the store '~/store'"),
        (["--store", "store", "--set", "model=~/model"], 2, "model '~/model'"),
        (["--store", "store", "--set", "datasets=[cola]", "--set", "data_dir=~/data"], 2, "~/data"),
    ],
)
def test_a_plan_needs_no_home_and_a_path_that_does_is_named(
    homeless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
) -> None:
    sweep = tmp_path / "small.yaml"
    sweep.write_text(SWEEP)
    assert main(["plan", str(sweep), *(more or ["--store", str(tmp_path / "store")])]) == code
    output = capsys.readouterr()
    assert said in output.out + output.err


def test_the_hub_keeps_its_files_with_the_cache_where_there_is_no_home(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepcuts._give_the_hub_a_home()
    assert os.environ.pop("HF_HOME") == str(tmp_path / f"deepcuts-{os.getuid()}" / "hub")
    monkeypatch.setenv("HOME", str(tmp_path))
    deepcuts._give_the_hub_a_home()
    assert "HF_HOME" not in os.environ


def test_a_home_that_cannot_be_written_is_none(homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As / is of a user without an entry in passwd; a folder that is there already may have been filled by others."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    ours = tmp_path / f"deepcuts-{os.getuid()}"
    assert cache_folder("tokens") == ours / "tokens"
    deepcuts._give_the_hub_a_home()
    assert os.environ.pop("HF_HOME") == str(ours / "hub")
    (tmp_path / "home" / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    deepcuts._give_the_hub_a_home()
    assert "HF_HOME" not in os.environ
    assert cache_folder("tokens") == ours / "tokens"
