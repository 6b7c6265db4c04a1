from __future__ import annotations

import math

import pytest

from deepcuts.analysis.compare import in_words
from deepcuts.wording import level

ROW = {
    "dataset": "cola",
    "compression": 4.0,
    "sparsity": 0.96,
    "strategy": "LayerSNIP",
    "baseline": "LayerMagWeight",
    "metric": "matthews",
    "n": 8,
    "difference": 0.031,
    "low": 0.012,
    "high": 0.05,
    "p_holm": 0.008,
    "seeds_needed": 9.0,
}
PLACE = "LayerMagWeight on cola at 4x: "
PAIR = f"LayerSNIP against {PLACE}undecided, "
SEEN = "matthews +0.031 (95 % interval +0.012 to +0.050, "
FEW = "2 seeds can show nothing; about 9 would tell."


@pytest.mark.parametrize(
    ("verdict", "changed", "words"),
    [
        ("better", {}, f"LayerSNIP is better than {PLACE}{SEEN}8 seeds, p = 0.008 after Holm's correction)."),
        (
            "worse",
            {"p_holm": 1e-4},
            f"LayerSNIP is worse than {PLACE}{SEEN}8 seeds, p < 0.001 after Holm's correction).",
        ),
        ("equivalent", {}, f"LayerSNIP is no different from {PLACE}{SEEN}8 seeds, within ± 0.01)."),
        ("undecided", {}, f"{PAIR}{SEEN}8 seeds); about 9 would tell."),
        ("undecided", {"seeds_needed": 8}, f"{PAIR}{SEEN}8 seeds); as many again may tell."),
        ("undecided", {"seeds_needed": None}, f"{PAIR}{SEEN}8 seeds); no number of seeds below 10,000 would tell."),
        ("undecided", {"n": 2}, f"{PAIR}{SEEN}2 seeds); {FEW}"),
        ("undecided", {"n": 2, "low": math.nan}, f"{PAIR}matthews +0.031 (the same in all 2 seeds); {FEW}"),
        (
            "undecided",
            {"n": 1, "seeds_needed": math.nan},
            f"{PAIR}matthews +0.031 with one seed, which says nothing of the spread; at least 6 are needed.",
        ),
        ("undecided", {"n": 0}, f"{PAIR}they have no seed in common; run both with the same seeds."),
    ],
)
def test_every_verdict_is_said_with_its_uncertainty(verdict: str, changed: dict, words: str) -> None:
    assert in_words(ROW | changed | {"verdict": verdict}, 0.01) == words


def test_what_was_asked_for_is_named() -> None:
    assert (level(3.5, 0.914), level(math.nan, 0.9), level(None, 0.955)) == ("3.5x", "90 %", "95.5 %")
    assert level(None, None) == "any sparsity"
