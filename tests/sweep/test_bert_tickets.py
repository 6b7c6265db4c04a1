"""The protocol of BERT-Tickets: what its sweep asks for, without the Hub."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from deepcuts.experiment.chain import is_step
from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.reading import read_sweep_file
from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import TASKS

SWEEP = Path(__file__).parents[2] / "sweeps" / "bert-tickets.yaml"


def test_the_protocol_is_nine_rounds_of_a_tenth_and_a_last_training_of_each_ticket() -> None:
    file = read_sweep_file(SWEEP)
    tasks = {name: TASKS[name] for name in file.dataset_rows()}
    spec = SweepSpec(file, ModelSource(name="bert-base-uncased"), tasks, "cuda")
    trials = spec.trials()
    of_one = [trial for trial in trials if (trial.dense.dataset, trial.dense.seed) == ("cola", 1)]
    assert len(trials) == 9 * len(of_one)
    steps = [trial for trial in of_one if is_step(trial)]
    assert [trial.sparsity for trial in steps] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert [trial.round for trial in steps] == list(range(1, 9))
    tickets = [trial for trial in of_one if spec.labels[trial.trial_id] == "imp" and not is_step(trial)]
    assert [(trial.sparsity, trial.round) for trial in tickets] == [(0.5, 5), (0.6, 6), (0.7, 7), (0.8, 8), (0.9, 9)]
    assert {(trial.retrain.epochs, trial.retrain.schedule) for trial in steps if trial.retrain} == {(3, "constant")}
    assert {(trial.retrain.epochs, trial.retrain.schedule) for trial in tickets if trial.retrain} == {(3, "linear")}
    for trial in (*steps, *tickets):
        assert (trial.strategy, trial.rewind, trial.rewind_head) == ("GlobalMagWeight", "init", False)
        assert trial.retrain is not None
        assert (trial.retrain.lr, trial.retrain.batch_size, trial.retrain.optimizer) == (2e-5, 32, "adamw")
    count = Counter(spec.labels[trial.trial_id] for trial in of_one)
    assert {trial.strategy for trial in of_one if spec.labels[trial.trial_id] == "one-shot"} == {"GlobalMagInit"}
    assert count == {"Dense": 1, "Unpruned": 1, "imp": 8 + 5, "one-shot": 5, "random": 5}


def test_the_transfer_that_it_tells_of_can_be_asked_for() -> None:
    line = next(line for line in SWEEP.read_text().splitlines() if "mask_from" in line)
    label, _, arm = line.strip(" #").partition(": ")
    file = read_sweep_file(SWEEP, [f"strategies.{label}={arm}", "seeds=[0]"])
    spec = SweepSpec(file, ModelSource(name="bert-base-uncased"), {n: TASKS[n] for n in file.dataset_rows()}, "cuda")
    given = [trial for trial in spec.trials() if trial.mask_of]
    assert {(t.dense.dataset, t.mask_of.dense.dataset, t.mask_of.round) for t in given if t.mask_of} == {
        (target, "sst2", number) for target in ("cola", "stsb") for number in (5, 6, 7, 8, 9)
    }
