"""What every test starts from: quiet libraries, caches of its own, one thread, and torch left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deepcuts.data.toy import sentences

with suppress(ModuleNotFoundError):  # the tests on a GPU do without it
    import hypothesis

    # An example that takes long says that the machine is busy, and nothing of the code.
    hypothesis.settings.register_profile("patient", deadline=None)
    hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the cache of the person who runs it."""
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def torch_state() -> Iterator[None]:
    """Undo what a trial sets for its whole process: determinism and threads."""
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty token cache."""
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def few_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded dataset cut short: 200 sentences to train on, 64 to validate."""

    whole = sentences
    monkeypatch.setattr("deepcuts.data.toy.sentences", lambda split: whole(split)[: 200 if split == "train" else 64])
