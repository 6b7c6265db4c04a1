"""Scoring in rounds, controls of masks and starts: which trials a sweep makes of them, their ids, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from builders.specs import sweep, trial

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.settings import Scoring
from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import TASKS
from deepcuts.pruning.criteria import CRITERIA, is_control, parse_strategy
from deepcuts.sweep.pace import place_of

SANITY = Path(__file__).parents[2] / "sweeps" / "sanity.yaml"
ALONE = {"MagWeight", "MagInit", "MagIncrease", "Random"}  # their scores do not depend on the other weights


def pruned(**fields: Any) -> dict[str, Any]:
    """The trials of a sweep on the toy that prune, by their arms."""
    spec = sweep(**fields)
    return {spec.labels[each.trial_id]: each for each in spec.trials() if each.prunes}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rounds_of_scoring_are_of_the_trial_and_of_criteria_that_see_the_network(criterion: str) -> None:
    name = f"Layer{criterion}"
    one, eight = (pruned(strategies=[name], scoring={"rounds": rounds})[name] for rounds in (1, 8))
    assert one.score == eight.score
    assert (one.trial_id == eight.trial_id) == (criterion in ALONE)
    assert eight.scoring_rounds == (1 if criterion in ALONE else 8)


def test_an_axis_over_rounds_multiplies_only_what_they_change() -> None:
    arms = pruned(strategies=["LayerMagWeight", "LayerSynFlow", "LayerSNIP"], axes={"scoring.rounds": [1, 100]})
    assert list(arms) == [
        "LayerMagWeight",
        *(f"Layer{name} rounds={rounds}" for name in ("SynFlow", "SNIP") for rounds in (1, 100)),
    ]
    with pytest.raises(ValueError, match=r"changes no arm: of the criteria only MagGrad, .*GraSP, SynFlow use it"):
        sweep(strategies=["LayerMagInit"], axes={"scoring.rounds": [1, 2]})


@pytest.mark.parametrize(("strategy", "why"), [("NM24SNIP", "two of four"), ("OwlSNIP+shuffle", "may rise")])
def test_scopes_whose_masks_cannot_be_nested_refuse_rounds(strategy: str, why: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"scoring.rounds: {strategy!r} cannot be scored in 3 rounds: ")
    ) as e:
        sweep(strategies=[strategy], sparsities=[0.5], scoring={"rounds": 3}).trials()
    assert why in str(e.value)
    assert str(e.value).endswith("set scoring: {rounds: 1} for it")
    magnitudes = sweep(strategies=["NM24MagWeight"], sparsities=[0.5], scoring={"rounds": 3})
    assert magnitudes.trials()[-1].scoring_rounds == 1


def test_a_given_mask_is_scored_in_no_rounds() -> None:
    arms = {"given": {"use": "LayerSNIP", "mask_from": {"dataset": "sst2"}, "scoring": {"rounds": 4}}}
    given = next(each for each in sweep(datasets=["toy", "sst2"], strategies=arms).trials() if each.mask_of)
    assert given.mask_of is not None
    assert (given.scoring_rounds, given.mask_of.scoring_rounds) == (1, 4)


def test_each_round_of_iterative_pruning_has_the_start_and_the_rounds_of_scoring() -> None:
    made = sweep(
        strategies=["GlobalSNIP"],
        sparsities=[0.488],
        rounds={"keep": 0.8},
        scoring={"rounds": 2},
        start="shuffled",
    ).trials()
    assert [(each.round, each.start, each.scoring_rounds) for each in made if each.prunes] == [
        (number, "shuffled", 2) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("rewind", ["none", 100])
def test_a_random_start_goes_with_no_other_rewind(rewind: Any) -> None:
    raw = {"datasets": ["toy"], "strategies": ["LayerSNIP"], "compressions": [2], "rewind": rewind}
    with pytest.raises(ValueError, match=f"start: random takes the place of what rewind: {rewind} would restore"):
        parse_sweep(raw | {"start": "random"})
    with pytest.raises(ValueError, match=r"arm 'drawn': start: random takes the place"):
        parse_sweep(raw | {"strategies": {"drawn": {"use": "LayerSNIP", "start": "random"}}})
    assert parse_sweep(raw | {"start": "shuffled"}).start == "shuffled"
    assert parse_sweep(raw | {"start": "random", "rewind": 0}).start == "random"


def test_an_inverted_mask_is_a_control_of_its_own() -> None:
    assert parse_strategy("GlobalSNIP+invert") == ("SNIP", "global", "invert")
    assert is_control("GlobalSNIP+invert")
    plain, inverted, shuffled = (trial("SNIP", control=control) for control in ("none", "invert", "shuffle"))
    assert len({plain.trial_id, inverted.trial_id, shuffled.trial_id}) == 3
    assert plain.score.score_id == inverted.score.score_id


def test_the_sanity_checks_are_six_arms_and_what_is_not_pruned() -> None:
    file = read_sweep_file(SANITY)
    spec = SweepSpec(file, ModelSource(name="minilm"), {name: TASKS[name] for name in file.dataset_rows()}, "cpu")
    of_one = [each for each in spec.trials() if (each.dense.dataset, each.dense.seed) == ("cola", 1)]
    assert len(spec.trials()) == 4 * len(of_one)
    assert {spec.labels[each.trial_id]: (each.strategy, each.start) for each in of_one} == {
        "Dense": ("Dense", "rewind"),
        "Unpruned": ("Unpruned", "rewind"),
        "Unpruned (start=random)": ("Unpruned", "random"),
        "Unpruned (start=shuffled)": ("Unpruned", "shuffled"),
        "GlobalMagWeight": ("GlobalMagWeight", "rewind"),
        "GlobalMagWeight+shuffle": ("GlobalMagWeight+shuffle", "rewind"),
        "GlobalMagWeight+invert": ("GlobalMagWeight+invert", "rewind"),
        "new encoder": ("GlobalMagWeight", "random"),
        "shuffled weights": ("GlobalMagWeight", "shuffled"),
        "LayerRandom": ("LayerRandom", "rewind"),
    }


def test_a_trial_of_several_rounds_counts_the_steps_of_all() -> None:
    one, three = (trial("GraSP", Scoring(batches=5), scoring_rounds=rounds) for rounds in (1, 3))
    steps = [place_of(each, {"toy": 1000}, "score", 0, 0, None)["steps"] for each in (one, three)]
    assert steps == [5, 15]
