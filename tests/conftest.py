"""What every test starts from: one thread, caches of its own, and torch left as it was found."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deepcuts.data.toy import sentences

# Two processes of two threads each on two cores are ten times as slow as of one thread each. Child processes inherit
# it; a trial asks torch for its threads itself.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

with suppress(ModuleNotFoundError):  # the tests on a GPU do without it
    import hypothesis

    # A slow example says that the machine is busy, and nothing about the code.
    hypothesis.settings.register_profile("patient", deadline=None)
    hypothesis.settings.load_profile("patient")


# These start Ray, several processes each. More than two of them at once on two cores would run into their own limits
# of time, and the files of a group share what they start.
RAY_GROUPS = {
    "launches": tuple(f"tests/sweep/test_{name}.py" for name in ("kill", "nodes", "faults")),
    "one ray": tuple(f"tests/sweep/test_{name}.py" for name in ("tune", "trackers")),
}
RAY = tuple(file for files in RAY_GROUPS.values() for file in files)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each group of tests with Ray to one process, and those of any other file to one, whichever is free."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            groups = (group for group, files in RAY_GROUPS.items() if nodeid.startswith(files))
            return next(groups, nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, begin with the tests that take longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith((*RAY, "tests/fast/test_compile.py")))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the cache of the person who runs it."""
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _own_ray() -> Iterator[None]:
    """Keep Ray's files, and the address of its last cluster, in a folder of this process.

    Its path is short because Ray's sockets are in it: theirs may have 107 characters.
    """
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        yield
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()


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
