"""Which trials iterative pruning and given masks make, and their ids."""

from __future__ import annotations

import re

import pytest
from builders.specs import SMALL, TOY, sweep, write

from deepcuts.experiment.chain import MOST_ROUNDS, Rounds, is_step, selected_with_needs
from deepcuts.experiment.grid import SweepSpec, describe
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import TrialSpec, canonical
from deepcuts.experiment.tasks import TASKS
from deepcuts.pruning.compression import Counts

LEVELS = {"sparsities": [0.2, 0.488], "strategies": ["LayerMagWeight"]}


def rounds_of(**fields: object) -> list[TrialSpec]:
    return [trial for trial in sweep(**fields).trials() if trial.prunes]


@pytest.mark.parametrize(
    ("rounds", "density", "expected"),
    [
        ({"count": 1}, 0.3, [0.3]),
        ({"count": 3}, 0.125, [0.5, 0.25, 0.125]),
        ({"keep": 0.8}, 0.8, [0.8]),
        ({"keep": 0.8}, 0.64, [0.8, 0.64]),
        ({"keep": 0.8}, 1 - 0.488, [0.8, 0.64, 0.512]),  # 1 - 0.488 is a little less than 0.512
        ({"keep": 0.8}, 0.5, [0.8, 0.64, 0.512, 0.5]),
        ({"remove": 0.1}, 0.7, [0.9, 0.8, 0.7]),
        ({"remove": 0.1}, 0.65, [0.9, 0.8, 0.7, 0.65]),
        ({"remove": 0.4}, 0.0, [0.6, 0.2, 0.0]),
    ],
)
def test_the_densities_of_each_form(rounds, density, expected):
    assert Rounds(**rounds).densities(density) == pytest.approx(expected, abs=1e-12)


def test_a_level_on_the_chain_is_that_round_and_deeper_ones_share_it():
    shallow, deep = (
        rounds_of(**LEVELS | {"sparsities": [0.36]}, rounds={"keep": 0.8}),
        rounds_of(**LEVELS | {"sparsities": [0.488]}, rounds={"keep": 0.8}),
    )
    assert [trial.trial_id for trial in deep[:2]] == [trial.trial_id for trial in shallow]
    assert [is_step(trial) for trial in deep] == [True, True, False]
    assert [is_step(trial) for trial in shallow] == [True, False]
    both = rounds_of(**LEVELS | {"sparsities": [0.488, 0.36]}, rounds={"keep": 0.8})
    assert [(trial.round, is_step(trial)) for trial in both] == [(1, True), (2, False), (3, False)]
    assert {trial.chain.goes_on for trial in both} == {True}
    off = rounds_of(**LEVELS | {"sparsities": [0.5]}, rounds={"keep": 0.8})
    assert [trial.chain.goes_on for trial in off] == [True, True, True, False]
    assert [trial.trial_id for trial in off[:3]] == [trial.trial_id for trial in both]


def test_the_first_round_is_the_trial_that_prunes_at_once():
    at_once = {trial.sparsity: trial.trial_id for trial in rounds_of(**LEVELS)}
    in_rounds = rounds_of(**LEVELS, rounds={"keep": 0.8})
    assert in_rounds[0].trial_id == at_once[0.2]
    assert in_rounds[-1].trial_id != at_once[0.488]
    other = rounds_of(**LEVELS, rounds={"keep": 0.8, "retrain": {"epochs": 1}})
    asked, *between = [trial for trial in other if trial.sparsity == 0.2]
    assert (asked.trial_id, asked.chain.goes_on, is_step(asked)) == (at_once[0.2], False, False)
    assert [(trial.retrain.epochs, is_step(trial)) for trial in between] == [(1, True)]
    assert [trial.retrain.epochs for trial in other] == [12, 1, 1, 12]
    kept_head = rounds_of(**LEVELS, rounds={"keep": 0.8, "rewind_head": False})
    assert kept_head[0].trial_id != at_once[0.2]
    assert rounds_of(**LEVELS, rewind="none", rounds={"keep": 0.8, "rewind_head": False})[0].rewind_head


def test_an_id_depends_on_the_rounds_before_and_not_on_the_words_for_them():
    by_count = rounds_of(**LEVELS | {"sparsities": [0.36]}, rounds={"count": 2})
    by_keep = rounds_of(**LEVELS | {"sparsities": [0.36]}, rounds={"keep": 0.8})
    assert [trial.trial_id for trial in by_count] == [trial.trial_id for trial in by_keep]
    assert [trial.chain.rule for trial in (*by_count, *by_keep)] == ["count 2"] * 2 + ["keep 0.8"] * 2
    ids = {rounds_of(**LEVELS, rounds={"count": count})[-1].trial_id for count in (1, 2, 3)}
    assert len(ids) == 3
    read = TrialSpec.model_validate_json(by_keep[1].model_dump_json())
    assert read.trial_id == by_keep[1].trial_id
    assert read.score.network == by_keep[0].trial_id


def test_what_does_not_prune_has_no_rounds_and_the_rounds_come_before_what_needs_them():
    trials = sweep(**LEVELS | {"sparsities": [0, 0.488], "seeds": [0, 1]}, rounds={"remove": 0.2}).trials()
    assert [trial.strategy for trial in trials[:3]] == ["Dense", "Unpruned", "LayerMagWeight"]
    places = {trial.trial_id: place for place, trial in enumerate(trials)}
    assert len(trials) == 2 * (2 + 3)
    assert all(places[t.builds_on.trial_id] < places[t.trial_id] for t in trials if t.builds_on)
    assert describe(trials[4]) == "toy LayerMagWeight 48.8 % round 3 seed 0"


def test_compressions_reach_their_level_in_rounds_too():
    file = sweep(compressions=[2.5], rounds={"keep": 0.5}).file
    counts = Counts(parameters=1000, prunable=800, positions=None, encoder=900)
    spec = SweepSpec(file, TOY, {"toy": TASKS["toy"]}, "cpu", counts={"toy": counts})
    first, last = [trial for trial in spec.trials() if trial.prunes]  # 200 of 800 are kept
    assert (first.compression, first.sparsity, last.compression, last.sparsity) == (None, 0.5, 2.5, None)


def test_the_settings_of_rounds_lie_over_those_of_retraining(tmp_path):
    text = SMALL.replace("compressions: [2]", "sparsities: [0.5]")
    text += "finetune: {lr: 2e-5, batch_size: 8}\nretrain: {epochs: 6}\nrounds: {keep: 0.7, retrain: {epochs: 2}}\n"
    file = read_sweep_file(write(tmp_path, text))
    assert file.rounds.retraining(file.retraining()) == Training(epochs=2, lr=2e-5, batch_size=8)
    again = parse_sweep(file.resolved())
    assert again.resolved() == file.resolved()
    assert again.rounds.retraining(again.retraining()) == file.rounds.retraining(file.retraining())
    overridden = read_sweep_file(write(tmp_path, text + "overrides: {toy: {rounds: {keep: 0.5}}}\n"))
    assert overridden.for_dataset("toy").rounds.rule == "keep 0.5"
    assert overridden.for_dataset("toy").rounds.retrain.epochs == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("rounds: {keep: 1}", "rounds.keep: input should be less than 1, not 1"),
        ("rounds: {keep: 0}", "rounds.keep: input should be greater than 0, not 0"),
        ("rounds: {remove: 1.5}", "rounds.remove: input should be less than 1, not 1.5"),
        ("rounds: {count: 0}", "rounds.count: input should be greater than 0, not 0"),
        (
            "rounds: {count: 2, keep: 0.5}",
            "rounds: give one of count, keep and remove, as in keep: 0.8; count and keep",
        ),
        ("rounds: {}", "rounds: give one of count, keep and remove, as in keep: 0.8; none is given"),
        ("rounds: {kep: 0.5}", "rounds: unknown key 'kep'; did you mean 'keep'?"),
        ("rounds: {keep: 0.5, retrain: {epoch: 1}}", "rounds.retrain: unknown key 'epoch'; did you mean 'epochs'?"),
        ("mask_from: {}", "mask_from: give dataset or seed (or both), as in {dataset: sst2}, or file"),
        ("mask_from: {seed: 1, file: x}", "mask_from: give dataset or seed (or both)"),
        ("mask_from: {seed: 1, trial: abcd}", "mask_from: trial 'abcd' names a trial in file, and there is no file"),
        ("rounds: {keep: 0.5}\nmask_from: {file: a.parquet}", "rounds has no effect on a mask that the file"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path, keys, said):
    with pytest.raises(ValueError, match=r"small.yaml") as caught:
        read_sweep_file(write(tmp_path, SMALL + keys))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sparsities": [0.1], "rounds": {"keep": 0.8}}, r"keep 0.8 cannot reach 10 % of 'toy': it keeps 0.9 of the"),
        ({"sparsities": [0.1], "rounds": {"remove": 0.2}}, r"remove 0.2 cannot reach 10 %.*one round leaves 0.8"),
        ({"sparsities": [0.9], "rounds": {"keep": 0.999}}, f"more than {MOST_ROUNDS} rounds"),
        ({"sparsities": [0.9], "rounds": {"count": 500}}, f"more than {MOST_ROUNDS} rounds"),
        ({"sparsities": [0.5], "strategies": ["NM24MagWeight"], "rounds": {"count": 2}}, "'NM24MagWeight' cannot be"),
        ({"sparsities": [0.5], "strategies": ["OwlMagWeight"], "rounds": {"count": 2}}, "'OwlMagWeight' cannot be"),
        ({"sparsities": [0.5], "mask_from": {"dataset": "cola"}}, "mask_from: unknown dataset 'cola'; known: toy"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_anything_runs(fields, said):
    with pytest.raises(ValueError, match=said):
        sweep(**fields).trials()


# Masks of another trial


def test_the_source_of_a_mask_is_wanted_too_and_comes_first():
    trials = sweep(datasets=["toy", "cola"], sparsities=[0.5], mask_from={"dataset": "toy"}).trials()
    given = [trial for trial in trials if trial.mask_of]
    (trial,) = given
    own = next(each for each in trials if each.dense.dataset == "toy" and each.prunes)
    assert trial.mask_of.trial_id == own.trial_id  # on the source itself it is the ordinary trial
    assert own.trial_id == next(t for t in sweep(sparsities=[0.5]).trials() if t.prunes).trial_id
    assert (trial.dense.dataset, trial.passes, trial.strategy) == ("cola", (), "LayerMagWeight")
    assert describe(trial).endswith("with the mask of toy LayerMagWeight 50 % seed 0")
    assert trials.index(own) < trials.index(trial)
    assert selected_with_needs(trials, [each is trial for each in trials]) == [own, trial]


def test_a_seed_that_the_sweep_does_not_have_may_be_a_source_and_settings_of_scoring_decide_the_source_alone():
    made = [
        sweep(
            strategies=["LayerSNIP"],
            sparsities=[0.5],
            seeds=[1, 2],
            mask_from={"seed": 0},
            scoring={"batches": batches},
        ).trials()
        for batches in (3, 4)
    ]
    for trials in made:
        assert [(t.dense.seed, t.mask_of and t.mask_of.dense.seed) for t in trials if t.prunes] == [
            (0, None),
            (1, 0),
            (2, 0),
        ]
    assert {t.trial_id for t in made[0] if t.prunes}.isdisjoint(t.trial_id for t in made[1] if t.prunes)


def test_sources_of_masks_and_their_rounds_have_the_label_of_the_arm_that_wants_them():
    arm = {"use": "LayerMagWeight", "mask_from": {"seed": 0}, "rounds": {"keep": 0.8}}
    spec = sweep(strategies={"given": arm}, sparsities=[0.36], seeds=[1])
    labels = [(each.dense.seed, each.round, spec.labels.get(each.trial_id)) for each in spec.trials()]
    assert labels == [(1, 1, "Dense"), (0, 1, "given"), (0, 2, "given"), (1, 1, "given")]


def test_a_mask_found_in_rounds_is_that_of_the_last_one():
    trials = sweep(datasets=["toy", "cola"], sparsities=[0.36], rounds={"keep": 0.8}, mask_from={"dataset": "toy"})
    (given,) = [trial for trial in trials.trials() if trial.mask_of]
    assert (given.mask_of.round, given.round, given.previous) == (2, 1, None)


@pytest.mark.parametrize("strategy", ["NeuronMagWeight+shuffle", "RowMagWeight+shuffle"])
def test_rounds_are_refused_where_a_shuffled_mask_would_make_pruned_weights_come_back(strategy):
    with pytest.raises(ValueError, match=rf"{re.escape(repr(strategy))} cannot be pruned in rounds: "):
        rounds_of(**LEVELS | {"strategies": [strategy]}, rounds={"keep": 0.8})


def test_the_longest_chain_can_be_read_back():
    source = rounds_of(sparsities=[0.5], rounds={"count": MOST_ROUNDS - 1}, seeds=[1])[-1]
    asked = {"use": "LayerMagWeight", "rounds": {"count": MOST_ROUNDS - 1}, "mask_from": {"seed": 1}}
    trial = rounds_of(sparsities=[0.5], strategies={"given": asked})[-1]
    assert trial.mask_of.trial_id == source.trial_id
    assert source.round == MOST_ROUNDS - 1
    for each in (source, trial):
        assert TrialSpec.model_validate_json(canonical(each.model_dump(mode="json"))).trial_id == each.trial_id
