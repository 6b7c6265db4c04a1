"""The sentence that begins the report: who wins where, and no more than the comparisons say."""

from __future__ import annotations

from typing import Any

from deepcuts.publish.answer import answer


def row(strategy: str, compression: float, verdict: str = "undecided", **fields: Any) -> dict[str, Any]:
    made = {"dataset": "cola", "baseline": "LayerMagWeight", "strategy": strategy, "compression": compression}
    return made | {"sparsity": 0.9, "verdict": verdict, "n": 8} | fields


def mean(arm: str, compression: float, value: float) -> dict[str, Any]:
    return {"dataset": "cola", "arm": arm, "compression": compression, "sparsity_asked": None, "mean": value}


def test_a_decided_winner_is_named_with_its_levels_and_datasets() -> None:
    rows = [row("LayerSNIP", 2, "better"), row("LayerSNIP", 4, "better"), row("LayerRandom", 4, "worse")]
    assert answer(rows, []) == "LayerSNIP beats LayerMagWeight at 2x and 4x."
    more = [*rows, row("LayerSNIP", 4, "better", dataset="rte"), row("LayerRandom", 2, dataset="rte")]
    assert answer(more, []) == (
        "LayerSNIP beats LayerMagWeight on cola at 2x and 4x and on rte at 4x. 1 of 5 comparisons is undecided."
    )


def test_a_baseline_that_nothing_beats_is_said_to_be_unbeaten() -> None:
    rows = [row("LayerRandom", 4, "worse"), row("LayerSNIP", 4)]
    said = "No arm beats LayerMagWeight: LayerRandom is worse at 4x. 1 of 2 comparisons is undecided."
    assert answer(rows, []) == said


def test_few_seeds_name_the_highest_mean_and_claim_nothing() -> None:
    means = [mean("LayerSNIP", 4, 0.9), mean("LayerMagWeight", 4, 0.8)]
    means += [mean("LayerSNIP", 2, 0.9), mean("LayerMagWeight", 2, 0.9)]
    assert answer([row("LayerSNIP", 4, n=2), row("LayerSNIP", 2, n=2)], means) == (
        "No arm is shown to beat LayerMagWeight yet: 2 seeds cannot tell; the highest mean is LayerSNIP's at 4x."
    )
    assert answer([row("LayerSNIP", 4, "equivalent")], []) == "Every arm is equivalent to LayerMagWeight."
    assert answer([row("LayerSNIP", 4, n=0)], []) == "No two arms share a seed, so none can be compared."
    assert answer([], means) == ""


def test_many_winners_and_datasets_are_counted() -> None:
    rows = [row(f"Layer{name}", 4, "better", dataset=f"d{place}") for name in "ABCDE" for place in range(5)]
    said = answer(rows, [])
    assert said.startswith("LayerA beats LayerMagWeight on d0 at 4x, on d1 at 4x, on d2 at 4x and on 2 more datasets; ")
    assert said.endswith("; so do 2 more somewhere.")
