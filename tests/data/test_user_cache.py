"""Entries of the user's cache are where the environment says, and are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepcuts.data.user_cache import cache_folder, write_cache


def test_the_environment_decides_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("tokens") == tmp_path / "own/tokens"
    monkeypatch.delenv("DEEPCUTS_CACHE")
    assert cache_folder("tokens") == tmp_path / "xdg/deepcuts/tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("counts") == tmp_path / ".cache/deepcuts/counts"


def test_a_user_without_a_home_has_a_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("DEEPCUTS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = cache_folder("tokens")
    assert folder.name == "tokens"
    assert folder.parent.name == f"deepcuts-{os.getuid()}"
    monkeypatch.setenv("DEEPCUTS_CACHE", "given")
    assert cache_folder("tokens") == Path("given/tokens")


def test_an_entry_replaces_the_old_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "tokens" / "entry"
    for content in (b"old", b"new"):
        write_cache(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*paths: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    write_cache(tmp_path / "entry", b"content")
    assert list(tmp_path.iterdir()) == []
