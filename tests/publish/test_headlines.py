"""Comparisons in the words and cells of the report."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from deepcuts.publish.headlines import all_comparisons, headlines


def row(**fields: Any) -> dict[str, Any]:
    made = {"dataset": "cola", "metric": "matthews", "baseline": "LayerMagWeight", "strategy": "LayerSNIP", "n": 8}
    made |= {"compression": 4.0, "sparsity": 0.9, "difference": 0.005, "low": 0.004, "high": 0.006}
    return made | {"verdict": "equivalent", "p_differs": 1e-8, "p_within": 0.03, "seeds_needed": 6.0} | fields


def text(*rows: dict[str, Any]) -> str:
    return re.sub(r"<[^>]+>", "", str(headlines(pd.DataFrame(rows))))


def test_a_difference_below_the_margin_is_said_apart_from_equivalence() -> None:
    said = text(row(), row(compression=2.0, difference=0.001, low=-0.001, high=0.003, p_differs=0.4))
    assert "higher by less than the margin at 4x (+0.005, +0.004 to +0.006, 8 seeds)" in said
    assert "equivalent at 2x (+0.001, −0.001 to +0.003, 8 seeds)" in said


def test_undecided_comparisons_say_how_many_seeds_would_decide() -> None:
    undecided = {"verdict": "undecided", "p_differs": 0.4, "p_within": 0.1}
    assert "8 seeds; about 20 seeds would decide)" in text(row(**undecided, seeds_needed=20.0))
    assert "8 seeds; as many seeds again may decide)" in text(row(**undecided, seeds_needed=8.0))
    many = [row(**undecided, compression=place, seeds_needed=needed) for place, needed in ((2, 20), (3, 8), (4, 30))]
    assert "8 seeds; about 20 to 30 seeds would decide)" in text(*many)


def test_the_corrected_p_of_a_comparison_is_that_of_what_is_said() -> None:
    for fields, p in (({}, "1e-08"), ({"p_differs": 0.4}, "0.03"), ({"verdict": "undecided", "p_differs": 0.4}, "0.4")):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", str(all_comparisons(pd.DataFrame([row(**fields)]), {})))
        assert p in cells
