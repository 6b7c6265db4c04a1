"""The study's page says what its committed tables say, and a verdict follows from them as the plan says."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deepcuts.cli.main import _parsed
from deepcuts.experiment.reading import read_sweep_file
from deepcuts.names import chosen_values
from docs.study import __main__ as study
from docs.study import page as made_parts
from docs.study.claims import LEVELS, claims
from docs.study.evidence import AnyOf, Claim, Condition, by_tests_alone, holm, verdicts
from docs.study.figures import forest
from docs.study.results import Arm, Results, read

ROOT = Path(__file__).parent.parent
SWEEPS = ROOT / "sweeps" / "study"
PAGE = ROOT / "docs" / "study" / "README.md"
SEEDS = 6


def frame(columns: str, *rows: tuple[object, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


def made(*trials: tuple[object, ...], pairs: pd.DataFrame | None = None) -> Results:
    """Return results of one machine, of trials (id, sweep, arm, dataset, sparsity, seed, pruned, retrained)."""
    rows = frame("trial_id sweep arm dataset sparsity_asked seed pruned retrained", *trials)
    rows = rows.assign(status="completed", dense=0.9, rewound=rows["pruned"] - 0.1)
    none = frame("trial_a trial_b kept_iou kappa")
    frames = (
        rows,
        none,
        rows[["sweep", "trial_id", "arm"]],
        none if pairs is None else pairs,
        frame("trial_id density"),
    )
    return Results(*(each.assign(machine="1") for each in frames))


def ran(arm: str, seed: int, metric: float) -> tuple[object, ...]:
    """Return a trial for `made`, whose metric was lower before retraining."""
    return f"{arm}-{seed}", "accuracy", arm, "sst2", 0.64, seed, metric - 0.1, metric


def together(*machines: Results) -> Results:
    """Return the results of several machines: the first is machine 1."""
    each = [(found.trials, found.metrics, found.sweeps, found.overlap, found.pooler) for found in machines]
    return Results(
        *(
            pd.concat([part.assign(machine=f"{at + 1}") for at, part in enumerate(parts)])
            for parts in zip(*each, strict=True)
        )
    )


def with_values(claim: Claim, of: Callable[[Condition], np.ndarray]) -> Claim:
    """Return the claim with other values in each of its conditions."""

    def changed(condition: Condition | AnyOf) -> Condition | AnyOf:
        if isinstance(condition, AnyOf):
            return replace(condition, conditions=[replace(each, values=of(each)) for each in condition.conditions])
        return replace(condition, values=of(condition))

    return replace(claim, conditions=[changed(each) for each in claim.conditions])


def inside(condition: Condition) -> np.ndarray:
    """Return values of six seeds whose mean is clearly what the condition wants."""
    low, high = condition.low, condition.high
    middle = (low + high) / 2 if np.isfinite(low + high) else low + 1 if np.isfinite(low) else high - 1
    return middle + 0.01 * np.array([-3.0, -1, 0, 0, 1, 3])


def outside(condition: Condition) -> np.ndarray:
    low, high = condition.low, condition.high
    return (low - 1 if np.isfinite(low) else high + 1) + 0.01 * np.array([-3.0, -1, 0, 0, 1, 3])


def section_of(claim: Claim) -> str:
    [found], [by_tests] = verdicts([claim]), verdicts([by_tests_alone(claim)])
    return made_parts.section(claim, found, by_tests, 1)


@cache
def every_claim() -> list[Claim]:
    return claims(made())


def test_p_values_are_those_of_scipys_one_sided_t_tests() -> None:
    values = np.array([1.2, 0.4, 0.9, 2.0, -0.1, 1.1])
    above = stats.ttest_1samp(values, 0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 1.5, alternative="less").pvalue
    assert Condition("", values, low=0.5).p_true == pytest.approx(above)
    assert Condition("", values, low=0.5).p_false == pytest.approx(1 - above)
    assert Condition("", values, high=1.5).p_true == pytest.approx(below)
    both = Condition("", values, low=0.5, high=1.5)
    assert both.p_true == pytest.approx(max(above, below))
    assert both.p_false == 1
    missed = Condition("", values, low=1.2, high=1.5)
    assert missed.p_false == pytest.approx(2 * stats.ttest_1samp(values, 1.2, alternative="less").pvalue)
    assert np.isnan(Condition("", values[:5], low=0.5).p_true)
    assert np.isnan(Condition("", values[:5], low=0.5).p_false)


def test_a_mean_on_a_bound_is_not_above_it() -> None:
    """As where two networks both predict one class alone: their difference is 0 in every seed."""
    same = Condition("", np.zeros(6), low=0)
    assert not same.holds
    claim = Claim(1, "", "A", [same])
    [(verdict, p)] = verdicts([claim])
    assert (verdict, p >= 0.5) == ("undecided", True)
    assert np.isnan(claim.seeds_needed(8))
    every = claim, with_values(claim, inside), with_values(claim, outside)
    assert len({forest(each).axes[0].lines[0].get_color() for each in every}) == 3
    assert replace(claim, conditions=[replace(same, values=same.values + [0, 0, 0, 1, 1, 2])]).seeds_needed(8) > 6


def test_holm_is_that_of_the_definition() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.3: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.03, 0.01, 0.3, 0.02]) == pytest.approx([0.06, 0.04, 0.3, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("number", range(1, 14))
def test_a_claim_is_confirmed_by_all_of_its_conditions_and_refuted_by_one(number: int) -> None:
    every = [with_values(claim, inside) for claim in every_claim()]
    assert [verdict for verdict, _ in verdicts(every)] == ["confirmed"] * 13
    claim = every[number - 1]
    first = claim.conditions[0]
    assert isinstance(first, Condition)
    false = replace(claim, conditions=[replace(first, values=outside(first)), *claim.conditions[1:]])
    found = verdicts([*every[: number - 1], false, *every[number:]])
    assert [verdict for verdict, _ in found].count("refuted") == 1
    assert found[number - 1][0] == "refuted"
    unclear = replace(first, values=np.array([-1.0, 1, -1, 1, -1, 1]) + first.bounds[0])
    open_claim = replace(claim, conditions=[unclear, *claim.conditions[1:]])
    assert verdicts([*every[: number - 1], open_claim, *every[number:]])[number - 1][0] == "undecided"
    few = replace(first, values=inside(first)[:5])
    lacking = replace(claim, conditions=[few, *claim.conditions[1:]])
    assert verdicts([lacking])[0][0] == "undecided"


def test_any_arm_suffices_where_a_claim_asks_for_some() -> None:
    claim = with_values(every_claim()[4], inside)
    some = claim.conditions[-1]
    assert isinstance(some, AnyOf)
    one = AnyOf(some.text, [*(replace(each, values=outside(each)) for each in some.conditions[1:]), some.conditions[0]])
    assert verdicts([replace(claim, conditions=[*claim.conditions[:-1], one])])[0][0] == "confirmed"
    late = AnyOf(some.text, [replace(some.conditions[0], values=np.empty(0)), *some.conditions[1:]])
    assert late.p_true == pytest.approx(len(some.conditions) * min(each.p_true for each in some.conditions[1:]))
    assert late.p_false == 1
    none = AnyOf(some.text, [replace(each, values=outside(each)) for each in some.conditions])
    assert verdicts([replace(claim, conditions=[*claim.conditions[:-1], none])])[0][0] == "refuted"


def test_nothing_is_said_of_a_claim_without_trials() -> None:
    assert {verdict for verdict, _ in verdicts(every_claim())} == {"not run"}


def test_differences_are_paired_by_seed_and_in_points() -> None:
    trials = [
        (f"{arm}{seed}", "accuracy", arm, "sst2", sparsity, seed, 0.5, 0.8 + 0.01 * gain + 0.001 * seed)
        for arm, gain in (("LayerSmoothGrad", 3), ("LayerMagWeight", 0))
        for sparsity in (0.85, 0.91)
        for seed in range(SEEDS)
    ]
    without_one = [(f"{name}-{rest[3]}", *rest) for name, *rest in trials if name != "LayerMagWeight5"]
    results = made(*without_one)
    ours, theirs = Arm("accuracy", "LayerSmoothGrad"), Arm("accuracy", "LayerMagWeight")
    assert results.difference(ours, theirs, "sst2", 0.85, "retrained") == pytest.approx([3.0] * 5)
    assert len(results.difference(ours, theirs, "sst2", 0.64, "retrained")) == 0
    assert len(results.difference(ours, theirs, "cola", 0.85, "retrained")) == 0
    seen = [each.mean for each in claims(results)[2].conditions if isinstance(each, Condition)]
    assert seen[:2] == pytest.approx([3.0, 3.0])


def test_overlaps_are_found_whichever_mask_comes_first() -> None:
    trials = [(f"{arm}-{seed}", "masks", arm, "sst2", 0.64, seed, 0.5, None) for arm in "ab" for seed in (0, 1)]
    pairs = frame(
        "trial_a trial_b kept_iou kappa", ("a-0", "b-0", 0.5, 0.1), ("b-1", "a-1", 0.6, 0.2), ("a-0", "b-1", 0, 0)
    )
    results = made(*trials, pairs=pairs)
    assert list(results.overlaps(Arm("masks", "a"), Arm("masks", "b"), "sst2", 0.64)) == [0.5, 0.6]
    assert list(results.overlaps(Arm("masks", "b"), Arm("masks", "a"), "sst2", 0.64, "kappa")) == [0.1, 0.2]


def test_differences_and_overlaps_are_of_one_machine_the_first_that_ran_both() -> None:
    """Of seed 0 both ran on the first machine, of seed 1 both on the second alone, of seed 2 one on each."""
    pairs = frame("trial_a trial_b kept_iou kappa", ("a-0", "b-0", 0.5, 0.1))
    first = made(ran("a", 0, 0.9), ran("b", 0, 0.8), ran("a", 1, 0.7), ran("a", 2, 0.7), pairs=pairs)
    pairs = frame("trial_a trial_b kept_iou kappa", ("b-0", "a-0", 0.6, 0.2), ("b-1", "a-1", 0.7, 0.3))
    second = made(*(ran(arm, seed, 0.6) for arm in "ab" for seed in (0, 1)), ran("b", 2, 0.1), pairs=pairs)
    both = together(first, second)
    at = Arm("accuracy", "a"), Arm("accuracy", "b"), "sst2", 0.64
    assert both.difference(*at, "retrained") == pytest.approx([10, 0])
    assert together(second, first).difference(*at, "retrained") == pytest.approx([0, 0])
    assert list(both.overlaps(*at)) == [0.5, 0.7]
    assert list(both.overlaps(*at, "kappa")) == [0.1, 0.3]
    assert list(both.metric(Arm("accuracy", "b"), "sst2", 0.64, "retrained")) == pytest.approx([80, 60, 10])
    density = frame("trial_id density machine", ("a-0", 0.3, "2"), ("a-0", 0.2, "1"), ("a-1", 0.4, "2"))
    assert list(replace(both, pooler=density).pooler_density(Arm("accuracy", "a"), "sst2", 0.64)) == [0.2, 0.4]


def test_overlaps_and_gains_are_of_the_same_seeds() -> None:
    pairs = frame("trial_a trial_b kept_iou kappa", *((f"a-{seed}", f"b-{seed}", seed / 10, 0.0) for seed in (1, 2, 3)))
    results = made(*(ran(arm, seed, 0.8 + seed / 100) for arm in "ac" for seed in (0, 1, 3)), pairs=pairs)
    more = made(*(ran("b", seed, 0.7) for seed in range(4)), ran("a", 2, 0.9))
    results = replace(
        results, trials=pd.concat([results.trials, more.trials]), sweeps=pd.concat([results.sweeps, more.sweeps])
    )
    a, b, c = (Arm("accuracy", arm) for arm in "abc")
    shared, gains = results.overlaps_and_gains((a, b), (c, b), "sst2", 0.64)
    assert (list(shared), gains) == ([0.1, 0.3], pytest.approx([11, 13]))


def test_a_trial_that_ran_on_two_machines_is_counted_once_and_compared() -> None:
    first = made(ran("a", 0, 0.9), ran("b", 0, 0.8), ran("a", 1, 0.7), ran("a", 2, 0.7))
    both = together(first, made(*(ran(arm, seed, 0.6) for arm in "ab" for seed in (0, 1)), ran("b", 2, 0.1)))
    networks = both.trials.assign(dense_id=[*"xxxy", *"xxyyz"], dense=[0.9] * 4 + [0.8, 0.8, 0.93, 0.93, 0.5])
    not_retrained = networks["trial_id"] == "a-1"
    networks["spec"] = np.where(not_retrained, '{"retrain": {"epochs": 0}}', '{"retrain": {"epochs": 3}}')
    assert made_parts.machines(replace(both, trials=networks)).splitlines()[2:] == [
        "| sst2 | dense | 2 | 6.50 | 10.00 |",
        "| sst2 | pruned | 3 | 20.00 | 30.00 |",
        "| sst2 | rewound | 3 | 20.00 | 30.00 |",
        "| sst2 | retrained | 2 | 25.00 | 30.00 |",
    ]
    row = "| accuracy | 6 | 6 | 0 | 0 |"
    assert made_parts.counts(both).splitlines()[-1] == row
    failed = replace(
        both, trials=both.trials.assign(status=np.where(both.trials["machine"] == "1", "failed", "completed"))
    )
    assert made_parts.counts(failed).splitlines()[-1] == "| accuracy | 6 | 5 | 1 | 0 |"


def test_claims_are_about_arms_and_levels_that_the_sweeps_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[Arm, str, float]] = set()

    def noted(self: Results, arm: Arm, dataset: str, sparsity: float) -> pd.DataFrame:
        asked.add((arm, dataset, sparsity))
        return found(self, arm, dataset, sparsity)

    found = Results._of
    monkeypatch.setattr(Results, "_of", noted)
    claims(made())
    known = set()
    for path in SWEEPS.glob("*.yaml"):
        sweep = read_sweep_file(path)
        known |= {
            (Arm(sweep.name, arm.label), dataset, level)
            for arm in sweep.arms
            for dataset in sweep.dataset_rows()
            for level in sweep.sparsities
        }
    # Extra levels are asked for only to correlate what there is.
    unknown = {each for each in asked - known if each[0].sweep != "extreme" or each[2] == 0.96}
    assert len(asked) > 200
    assert not unknown
    assert set(LEVELS) <= {level for _, _, level in known}


def test_commands_choose_arms_and_levels_that_the_sweeps_have() -> None:
    sweeps = {path.stem: read_sweep_file(path) for path in SWEEPS.glob("*.yaml")}
    for claim in every_claim():
        assert claim.commands
        for command in claim.commands:
            args = _parsed(shlex.split(command))
            chosen = chosen_values(args.only)
            of_sweep = {name: {arm.label for arm in sweeps[name].arms} for name in chosen["sweep"]}
            assert set(chosen["arm"]) <= set().union(*of_sweep.values())
            assert all(labels & set(chosen["arm"]) for labels in of_sweep.values())
            assert getattr(args, "baseline", chosen["arm"][0]) in chosen["arm"]
            assert {float(level) for level in chosen.get("sparsity", ())} <= {
                float(level) for name in chosen["sweep"] for level in sweeps[name].sparsities
            }


def test_the_page_is_what_the_committed_tables_say(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    parts = r"(<!-- (verdicts|counts|checklist|machines|claim \d+) -->\n).*?(<!-- end \2 -->)"
    page.write_text(re.sub(parts, r"\1\3", PAGE.read_text(), flags=re.DOTALL))
    study.main(tmp_path)
    assert page.read_text() == PAGE.read_text()
    drawn = set(re.findall(r"\(img/([\w-]+\.png)\)", page.read_text()))
    assert drawn == {path.name for path in (tmp_path / "img").glob("*.png")}
    assert drawn <= {path.name for path in (PAGE.parent / "img").glob("*.png")}


def test_what_the_study_does_without_needs_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    results = read()
    ended = replace(results, sweeps=results.sweeps[results.sweeps["trial_id"].isin(results.trials["trial_id"])])
    running = replace(results, sweeps=pd.concat([ended.sweeps, ended.sweeps.head(1).assign(trial_id="not run")]))
    monkeypatch.setitem(made_parts.REASONS, "several seeds", "Not all trials of an arm have run yet.")
    assert "The claims are about the paper's criteria" in made_parts.checked(ended)
    monkeypatch.setattr(made_parts, "REASONS", {})
    with pytest.raises(ValueError, match="the study does without '.*': meet it, or say in REASONS"):
        made_parts.checked(ended)
    rows = made_parts.checked(running).splitlines()
    assert all(row.endswith("Not all trials have run yet. |") for row in rows if "| no |" in row)


def test_the_page_says_what_a_verdict_is_without_values_that_are_the_same_in_every_seed() -> None:
    spread = np.array([1.9, 2.0, 1.7, 2.2, 1.8, 2.1])
    same, near = Condition("same", np.zeros(6), low=2), Condition("near", spread, low=2)
    assert (same.certain, near.certain, Condition("few", np.zeros(5), low=2).certain) == (True, False, False)
    claim = Claim(1, "gains", "A", [near, same])
    first = section_of(claim).splitlines()[0]
    assert first.startswith(
        "**Refuted** (p < 0.001, corrected over the 1 claims of family A). Values that are the same"
    )
    p = 2 * stats.ttest_1samp(spread, 2, alternative="less").pvalue
    assert first.endswith(f"; without such conditions the claim is undecided (p = {p:.3f}).")
    alone = replace(claim, conditions=[near, replace(same, low=-1)])
    assert "in every seed" not in section_of(alone)
    assert "in every seed" not in section_of(replace(claim, conditions=[Condition("below", spread, high=0)]))
    either = AnyOf("either", [same, replace(same, text="other")])
    assert [each.seeds for each in by_tests_alone(replace(claim, conditions=[near, either])).all_conditions()] == [
        6,
        0,
        0,
    ]


def test_committed_tables_are_small_and_whole() -> None:
    results = read()
    data = PAGE.parent / "data"
    assert sum(path.stat().st_size for path in data.glob("*/*.parquet")) < 5_000_000
    keys = ["machine", "trial_id"]
    assert not results.trials.duplicated(keys).any()
    completed = results.trials.loc[results.trials["status"] == "completed", "trial_id"]
    assert results.wanted["trial_id"].isin(completed).all()
    assert results.metrics.merge(results.trials[keys], on=keys, how="left", indicator=True)["_merge"].eq("both").all()
    last = results.metrics.merge(results.trials[[*keys, "metric"]], on=[*keys, "metric"])
    last = last[(last["stage"] == "retrained") & (last["split"] == "validation")]
    last = last.sort_values("epoch").groupby(keys)["value"].last()
    retrained = results.trials.set_index(keys)["retrained"].dropna()
    shared = retrained.index.intersection(last.index)
    assert len(shared) > 0
    assert np.array_equal(retrained[shared], last[shared])


def test_the_numbers_of_the_readme_are_those_of_the_tables() -> None:
    results, text = read(), " ".join((ROOT / "README.md").read_text().split())
    smooth, magnitude, dense = (
        results.metric(Arm("masks", arm), "sst2", 0.85, stage).mean() / 100
        for arm, stage in (("LayerSmoothGrad", "pruned"), ("LayerMagWeight", "pruned"), ("LayerMagWeight", "dense"))
    )
    assert (
        f"masks keep {smooth:.2f} of accuracy and those of magnitude {magnitude:.2f} (means; dense {dense:.2f})" in text
    )
    every = claims(results)
    counts = Counter(verdict for verdict, _ in verdicts(every))
    said = f"{counts['confirmed']} is confirmed, {counts['refuted']} are refuted, {counts['undecided']} undecided"
    assert said in text
    found = {claim.number: claim.all_conditions() for claim in every}
    shifted = [each.mean for each in found[1] if each.unit == "IoU" and each.seeds]
    assert f"is nearly abs(W g) (IoU {min(shifted):.2f} to {max(shifted):.2f})" in text
    leads = [each.mean for each in found[3]]
    assert f"retrained, they are {leads[0]:.1f} points apart, and at 96 % {leads[2]:.1f}." in text
    shared = max(each.mean for each in found[7] if each.unit == "IoU")
    assert f"Both kinds share little at 91 % (IoU at most {shared:.2f})" in text
