"""Which trials a view shows where a store has several sweeps, and what it calls their arms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from builders.arms import ONCE, write_arm, write_sweep
from builders.specs import dense, trial

from deepcuts.analysis.arms import arms_called
from deepcuts.analysis.compare import usual_baseline
from deepcuts.analysis.curves import table
from deepcuts.analysis.selection import chosen_trials, formerly_called, labels_of_store, shown_trials
from deepcuts.cli.main import main
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.store import Store

MANY = Training(epochs=9)
OF = dense(finetune=Training(lr=2e-5))


def fill(store: Store, **sweeps: list[tuple[TrialSpec, str | None]]) -> Store:
    """Write the trials of sweeps, from the oldest to the newest."""
    for age, (name, made) in enumerate(sweeps.items()):
        for spec, label in made if name != "third" else []:  # which has only begun
            write_arm(store, spec, label, 0.8, sweep=name)
        write_sweep(store, name, made)
        os.utime(f"{store.uri}/sweeps/{name}.parquet", (age, age))
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    old, late, snip = trial(retrain=ONCE), trial(rewind=7, retrain=ONCE), trial("SNIP", retrain=ONCE)
    return fill(
        Store(str(tmp_path)),
        first=[(old, "LayerMagWeight"), (late, "rewound"), (snip, "LayerSNIP")],
        second=[(trial(of=OF, retrain=MANY), "LayerMagWeight"), (late, "late"), (snip, "LayerSNIP")],
        third=[(trial(rewind=8), None)],
    )


def arms(store: Store, *words: Any) -> set[str]:
    return set(shown_trials(store, [], *words)["arm"])


def test_a_view_shows_the_newest_sweep_that_has_trials_and_says_so(store: Store) -> None:
    frame = shown_trials(store, [])
    assert frame.attrs["sweep"] == "second"
    assert frame.attrs["about"][0] == (
        "sweep second, the newest of 3 (first, second, third): --sweep NAME shows another, --sweep all everything"
    )
    assert set(frame["arm"]) == {"LayerMagWeight (finetune.lr=2e-05)", "LayerSNIP (finetune.lr=1e-05)", "late"}
    assert arms(store, "first") == {"LayerMagWeight", "LayerSNIP", "rewound"}
    assert shown_trials(store, [], "first").attrs["about"] == []


def test_all_trials_are_shown_where_that_is_asked_for(store: Store) -> None:
    assert len(shown_trials(store, [], "all")) == 4
    assert len(shown_trials(store, [], only={"sweep": ["first", "second"]})) == 4
    one = chosen_trials(store, [], "first")["trial_id"].iloc[0]
    assert shown_trials(store, [], only={"trial": one})["trial_id"].tolist() == [one]
    fill(store, all=[(trial(rewind=9), "ninth")])
    assert arms(store, "all") == {"ninth"}  # a sweep that is called so


def test_a_store_of_one_sweep_is_shown_whole(tmp_path: Path) -> None:
    store = fill(Store(str(tmp_path)), only=[(trial(), None)])
    write_arm(store, trial(retrain=ONCE), None, 0.8)
    frame = shown_trials(store, [])
    assert len(frame) == 2
    assert frame.attrs["sweep"] is None


def test_what_the_newest_sweep_lacks_is_looked_for_in_all_by_a_word(store: Store) -> None:
    with pytest.raises(ValueError, match=r"--only seed=4: no trial has it.*looked at sweep second.*--sweep all looks"):
        shown_trials(store, [], only={"seed": "4"})


def test_an_arm_is_found_by_a_name_that_it_had_before(store: Store) -> None:
    frame = shown_trials(store, [], only={"arm": "rewound"})
    assert set(frame["arm"]) == {"late"}
    assert frame.attrs["about"][1] == "rewound is now called late"
    assert arms(store, "first", {"arm": "late"}) == {"rewound"}  # and by one that it got later
    every = chosen_trials(store, [])
    assert formerly_called(store, every, "rewound") == ["late"]
    assert formerly_called(store, every, "late") == formerly_called(store, every, "nothing") == []
    assert labels_of_store(store) == ["LayerMagWeight", "LayerSNIP", "late", "rewound"]


def test_what_has_not_run_yet_is_left_out_and_said(store: Store) -> None:
    later = trial("SNIP", of=dense(seed=5), retrain=ONCE)
    write_sweep(store, "first", [(trial(retrain=ONCE), "LayerMagWeight"), (later, "later")])
    frame = shown_trials(store, [], "first", {"arm": ["LayerMagWeight", "later"], "seed": ["0", "5.0"]})
    assert set(frame["arm"]) == {"LayerMagWeight"}
    assert frame.attrs["about"] == ["there is no trial yet with arm=later, seed=5.0"]
    assert shown_trials(store, [], "all", {"arm": ["LayerSNIP", "late"]}).attrs["waiting"] == []
    with pytest.raises(ValueError, match="--only arm=later: a sweep wants such a trial; there is none yet"):
        shown_trials(store, [], "first", {"arm": "later"})
    with pytest.raises(ValueError, match="--only arm=latter: no trial has it"):
        shown_trials(store, [], "first", {"arm": ["LayerMagWeight", "latter"]})
    with pytest.raises(ValueError, match="--only arm=later: no trial has it"):  # another sweep wants it
        shown_trials(store, [], "second", {"arm": ["LayerMagWeight", "later"]})


def test_flags_take_a_former_name_and_say_what_is_meant(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"{store.uri}/curves.svg"
    assert main(["curves", store.uri, "-o", out, "--arms", "rewound,LayerSNIP", "--label", "rewound=Rewound"]) == 0
    text = Path(out).read_text()
    assert "<!-- Rewound -->" in text
    assert "LayerMagWeight" not in text
    capsys.readouterr()
    assert main(["compare", store.uri, "--baseline", "rewound"]) == 0
    said = capsys.readouterr()
    assert "rewound is now called late" in said.err
    assert "LayerSNIP (finetune.lr=1e-05) against late on toy at 2x" in said.out


def test_a_name_says_the_fewest_settings_and_a_caption_what_all_share(tmp_path: Path) -> None:
    made = [trial("SNIP", of=OF, retrain=MANY, scoring=Scoring(batches=7)), trial("SNIP"), trial("SNIP", of=OF)]
    store = fill(Store(str(tmp_path)), a=[(spec, None) for spec in made])
    frame = shown_trials(store, [])
    told = {(2e-5, 7), (1e-5, 1000), (2e-5, 1000)}
    assert set(frame["arm"]) == {f"LayerSNIP (finetune.lr={lr:g}, scoring.batches={many})" for lr, many in told}
    assert frame.attrs["about"] == ["arms differ in retrain.epochs, too, which table --columns shows"]
    some = shown_trials(store, [], only={"arm": "LayerSNIP (finetune.lr=2e-05)"})
    assert some.attrs["about"][0] == "all of these have finetune.lr=2e-05"
    assert set(some["arm"]) == {"LayerSNIP (scoring.batches=7)", "LayerSNIP (scoring.batches=1000)"}
    assert arms_called(frame, "LayerSNIP (finetune.lr=2e-05, scoring.batches=7)") != []
    assert arms_called(frame, "LayerSNIP (finetune.lr=3e-05)") == []


def test_names_leave_out_what_a_column_shows(store: Store) -> None:
    frame = shown_trials(store, ["status", "metric", "dense", "pruned", "rewound", "retrained", "majority"], "all")
    made = table(frame.assign(sparsity=0.5, compression_achieved=2.0), ["finetune.lr"])
    assert made.attrs["called"] == {
        "LayerMagWeight (finetune.lr=2e-05)": "LayerMagWeight",
        "LayerMagWeight (finetune.lr=1e-05)": "LayerMagWeight",
        "LayerSNIP (finetune.lr=1e-05)": "LayerSNIP",
    }


def test_the_usual_baseline_is_the_first_of_the_plain_ones_that_is_there(store: Store) -> None:
    assert usual_baseline(shown_trials(store, ["status"], "all")) == "LayerMagWeight"
    assert usual_baseline(shown_trials(store, ["status"], only={"arm": ["late", "LayerSNIP"]})) == "late"
    assert usual_baseline(shown_trials(store, ["status"], only={"arm": "LayerSNIP"})) == "LayerSNIP"
