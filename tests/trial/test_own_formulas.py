"""Whole trials that score by criteria of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.own_criteria import MINE, TWINS, write_mine
from builders.toy_sweeps import KEYS

import deepcuts
from deepcuts.cli.main import main
from deepcuts.experiment.spec import TrialSpec
from deepcuts.scoring.score import _differentiate
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.sweep.launch import Sweep

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]


def sweep(criteria: list[str], strategies: list[str], **changes: Any) -> Sweep:
    return deepcuts.read_sweep(KEYS | {"criteria": criteria, "strategies": strategies} | changes)


def run(of: Sweep, store: Store, **more: Any) -> dict[str, TrialSpec]:
    """Run all trials of a sweep but Dense in this process, and return them by strategy."""
    trials = of.trials()
    for trial in trials[1:]:
        row = deepcuts.run_trial(trial, store, wanted=trials, threads=1, criteria=of.file.criteria, **more)
        assert row["status"] == "completed", row["traceback"]
    return {trial.strategy: trial for trial in trials[1:]}


def bits(store: Store, trial: TrialSpec) -> list[tuple[str, bytes]]:
    rows = [row for row in store.read("masks").table.to_pylist() if row["trial_id"] == trial.trial_id]
    assert rows
    return [(f"{row['layer']}.{row['parameter']}", row["bits"]) for row in rows]


def test_a_formula_of_ones_own_has_the_bits_of_ours_and_shares_the_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"plain": 0}

    def counting(network: Any, gradients: Any, tokens: Any, batches: Any, pass_: Any, *more: Any) -> None:
        counted[pass_] += len(batches)
        _differentiate(network, gradients, tokens, batches, pass_, *more)

    monkeypatch.setattr("deepcuts.scoring.score._differentiate", counting)
    pairs = [(f"Layer{own}", f"Layer{ours}") for own, ours in TWINS.items()]
    of = sweep([write_mine(tmp_path)], [name for pair in pairs for name in pair], prune_biases=True)
    store = Store(str(tmp_path / "store"))
    assert deepcuts.plan(of, store).todo.passes() == {"plain": 1, "forward": 1}
    counted["plain"] = 0  # what the plan has tried out
    trials = run(of, store)
    assert counted == {"plain": 2}  # the two batches, once for four criteria
    for own, ours in pairs:
        assert bits(store, trials[own]) == bits(store, trials[ours])
        assert trials[own].trial_id != trials[ours].trial_id
    rows = {row["strategy"]: row for row in deepcuts.trials(store).to_dict("records")}
    for column in ("pruned", "rewound", "retrained", "kept", "activations_counted"):
        assert [rows[own][column] for own, _ in pairs] == [rows[ours][column] for _, ours in pairs]
    assert rows["LayerSquare"]["criterion"] == "Square"
    assert '"file":"' in rows["LayerSquare"]["spec"]


def test_two_files_that_give_one_name_to_two_formulas_run_in_one_process_each_with_its_own(tmp_path: Path) -> None:
    other = MINE.replace("weights.tuned.square() * total", "(weights.tuned.abs() + 1) * total")
    files = [write_mine(tmp_path, text, f"{number}.py") for number, text in enumerate((MINE, other))]
    sweeps = [sweep([file], ["LayerSquare"]) for file in files]
    pair, alone, together = [of.trials()[1] for of in sweeps], Store(str(tmp_path / "1")), Store(str(tmp_path / "2"))
    row = deepcuts.run_trial(pair[1], alone, wanted=pair, threads=1, criteria=sweeps[1].file.criteria)
    assert row["status"] == "completed", row["traceback"]
    assert alone.artifacts("scores") == [pair[1].score.score_id], "the file of the other is not here"
    # Each as if the other were of its sweep: a pass makes the scores of both where it has both files.
    both = [file for of in sweeps for file in of.file.criteria]
    for trial, criteria in ((pair[1], both), (pair[0], sweeps[0].file.criteria)):
        row = deepcuts.run_trial(trial, together, wanted=pair, threads=1, criteria=criteria)
        assert row["status"] == "completed", row["traceback"]
    ours = run(sweep([], ["LayerFisher"]), together)["LayerFisher"]
    assert pair[0].strategy == pair[1].strategy
    assert pair[0].score.pass_id == pair[1].score.pass_id == ours.score.pass_id
    assert [bits(together, trial) for trial in pair] == [bits(together, ours), bits(alone, pair[1])]
    assert bits(together, pair[0]) != bits(together, pair[1])
    assert bool(deepcuts.trials(together, trial_id=[pair[0].trial_id])["score_cached"].iloc[0])
    arms = deepcuts.with_arms(deepcuts.trials(together))["arm"]
    for of in sweeps:
        assert sum(f"criterion.digest={of.file.criteria[0].digest[:8]}" in arm for arm in set(arms)) == 1


def test_sums_that_were_saved_for_one_formula_are_never_taken_for_another(tmp_path: Path) -> None:
    other = MINE.replace("(batch.magnitude, batch.magnitude)", "(batch.magnitude, batch.magnitude, value=3)")
    other = other.replace("weights.tuned.square() * total", "weights.tuned.square() * (1 - 1 / (1 + total))")
    files = [write_mine(tmp_path, text, f"{number}.py") for number, text in enumerate((MINE, other))]
    first, second = (sweep([file], ["LayerSquare"]) for file in files)
    store, undisturbed = Store(str(tmp_path / "store")), Store(str(tmp_path / "undisturbed"))
    saved = second.trials()[1]
    _stop_after_a_batch(first.trials()[1], first, store)
    assert store.names("artifacts/_checkpoints", ".safetensors")
    for each in (store, undisturbed):
        run(second, each)
    scores = [
        load_artifact(each, "scores", str(saved.score.score_id), "scores.safetensors") for each in (store, undisturbed)
    ]
    assert all(bool((scores[0][name] == scores[1][name]).all()) for name in scores[1])


def _stop_after_a_batch(trial: TrialSpec, of: Sweep, store: Store) -> None:
    from deepcuts.training.checkpoint import Interrupted
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_stages

    at = {"stage": ""}
    with pytest.raises(Interrupted):
        run_stages(
            trial,
            "small",
            Context(
                store,
                1,
                criteria=of.file.criteria,
                on_progress=lambda stage, epoch, step: at.update(stage=stage),
                stop=lambda: at["stage"] == "score",
            ),
        )


def test_a_trial_asks_for_the_file_and_names_what_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_mine(tmp_path)
    of, store = sweep([path], ["LayerMoved"]), Store(str(tmp_path / "store"))
    trial, digest = of.trials()[1], of.file.criteria[0].digest
    with pytest.raises(
        ValueError, match=rf"scores by 'Moved' of your own file '.*mine\.py' with digest {digest}, and no"
    ):
        deepcuts.run_trial(trial, store)
    assert not (tmp_path / "store").exists()
    write_mine(tmp_path, MINE + "\n")
    with pytest.raises(ValueError, match=rf"with digest {digest}, and '.*mine\.py' has (?!{digest})") as caught:
        deepcuts.run_trial(trial, store, criteria=[path])
    assert "keeps its text" not in str(caught.value)
    write_mine(tmp_path)
    assert deepcuts.run_trial(trial, store, criteria=[path])["status"] == "completed"
    with pytest.raises(ValueError, match=rf"the store keeps its text, to read, as sweeps/{digest}\.py"):
        deepcuts.run_trial(trial, store)
    command = ["run-one", store.uri, trial.trial_id]
    assert main(command) == 2
    assert (
        f"digest {digest}, and no file was given: give the file as it was then, with --criteria"
        in capsys.readouterr().err
    )
    assert main([*command, "--criteria", path]) == 0
    assert main(["run-one", "small.yaml", trial.trial_id, "--criteria", path]) == 2
    assert "a sweep file names them itself, with its key criteria" in capsys.readouterr().err


def test_a_formula_that_fails_on_the_real_network_names_its_file_and_line(tmp_path: Path) -> None:
    """What small tensors do not show, the tryout on the model does."""
    text = MINE.replace("weights.tuned.square() * total", "weights.tuned.square() * total / (len(total) < 9)")
    of = sweep([write_mine(tmp_path, text)], ["LayerSquare"])
    with pytest.raises(ValueError, match=r"cannot run on 'toy': scoring by Square: .*(not finite|ZeroDivision)"):
        deepcuts.plan(of, Store(str(tmp_path / "store")))
