"""One trial in this process, as `run-one` and a notebook run it."""

from __future__ import annotations

from pathlib import Path

from builders.toy_trials import trial

import deepcuts
from deepcuts.store.store import Store


@pytest.mark.usefixtures("torch_state")
def test_a_trial_that_runs_again_keeps_the_name_of_its_sweep(tmp_path: Path) -> None:
    store, asked = Store(str(tmp_path)), trial()
    assert deepcuts.run_trial(asked, store, sweep="ablation")["sweep"] == "ablation"
    assert deepcuts.run_trial(asked, store)["sweep"] == "ablation"
    other = trial("LayerRandom")
    assert deepcuts.run_trial(other, store)["sweep"] == "run-one"
    assert set(deepcuts.trials(store)["sweep"]) == {"ablation", "run-one"}
