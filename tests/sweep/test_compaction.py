"""At the end of a launch the files of a large store are merged; not where a signal stopped it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.toy_sweeps import KEYS
from builders.whole_trials import whole_trial

from deepcuts.store import compact
from deepcuts.store.store import Store
from deepcuts.sweep import launch
from deepcuts.sweep.tune import Outcome


@pytest.mark.parametrize(
    ("outcome", "files"),
    [(Outcome(), 0), (Outcome(2), 3), (Outcome(2, late=True), 0)],
    ids=["end", "signal", "deadline"],
)
def test_a_launch_that_comes_to_its_end_merges_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: Outcome, files: int
) -> None:
    store = Store(str(tmp_path))
    planned = launch.plan(launch.read_sweep(KEYS), store)

    def made(*given: Any, **named: Any) -> Outcome:
        for trial in planned.todo.to_run:
            whole_trial(store, trial.trial_id)
        return outcome

    monkeypatch.setattr("deepcuts.sweep.tune.run_plan", made)
    monkeypatch.setattr(compact, "MANY_FILES", 2)
    launched = launch._launch(planned, 1, None)
    assert (len(launched.completed), launched.signal) == (3, outcome.signal)
    assert len(store.files("trials")[0]) == files
    said = "merged 3 files of trials into trials/compact-000001-"
    assert (said in capsys.readouterr().out) == (not files)
    launch.run(launch.read_sweep(KEYS), store)  # which has nothing to run
    assert not store.files("trials")[0]
    assert (said in capsys.readouterr().out) == bool(files)
