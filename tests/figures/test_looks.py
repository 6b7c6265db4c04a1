"""How arms, levels and notes look in figures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from builders.rows import trial
from matplotlib.colors import to_rgb

from deepcuts.analysis.curves import curves
from deepcuts.figures.curves import plot_curves
from deepcuts.figures.one_level import level_names
from deepcuts.figures.style import LOOKS, figure_options, line_style, looks
from deepcuts.pruning.criteria import CRITERIA


def test_levels_of_one_name_that_are_close_are_named_once() -> None:
    levels = pd.DataFrame({"name": ["majority", "dense", "unpruned", "dense"], "value": [0.5, 0.85, 0.86, 0.87]})
    assert level_names(levels, 0.05) == [("majority 0.500", 0.5), ("dense 0.850 to 0.870 · unpruned 0.860", 0.87)]


def test_inverted_masks_and_networks_in_other_settings_look_other() -> None:
    found = looks(["LayerSNIP", "LayerSNIP+invert", "LayerSNIP+shuffle", "Unpruned (rewind=7)", "Unpruned (rewind=8)"])
    assert len({str(line_style(look)) for look in found.values()}) == len(found)
    assert line_style(found["LayerSNIP+invert"])["fillstyle"] != line_style(found["LayerSNIP+shuffle"])["fillstyle"]


def test_a_note_is_above_the_legend_or_below_the_figure() -> None:
    note = "all with finetune.lr=2e-05"
    rows = pd.DataFrame([trial(str(level), compression=level) for level in (2.0, 4.0)])
    with figure_options(note=note):
        assert plot_curves(curves(rows)).get_supxlabel() == note
    with figure_options(note=note, width=3.3):
        assert plot_curves(curves(rows)).legends[0].get_title().get_text() == note


def test_every_criterion_has_a_look_of_its_own() -> None:
    assert set(LOOKS) == set(CRITERIA)
    assert len(set(LOOKS.values())) == len(LOOKS)


def lab(color: str) -> np.ndarray:
    """CIE 1976 L*a*b* of an sRGB colour (white: D65)."""
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in to_rgb(color)]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        np.cbrt(p) if p > 0.008856 else 7.787 * p + 16 / 116 for p in to_xyz @ np.array(linear) / [0.9505, 1, 1.089]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_colours_of_criteria_are_far_apart() -> None:
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.1)
    places = [lab(color) for color, _ in LOOKS.values()]
    assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) > 38


def test_scope_and_control_show_beside_the_colour() -> None:
    controls = ["RowWanda+shuffle", "RowWanda+invert"]
    found = looks(["LayerWanda", "GlobalWanda", "RowWanda", *controls])
    assert len({style.color for style in found.values()}) == 1
    assert len({style.dashes for style in found.values()}) == 5
    assert sorted(name for name, style in found.items() if style.hollow) == sorted(controls)


def test_arms_of_a_strategy_can_be_told_apart() -> None:
    names = ["RowRandom", "RowRandom (code=older)", *(f"RowRandom (retrain.epochs={epochs})" for epochs in (1, 3, 12))]
    found = looks(names)
    assert len({style.color for style in found.values()}) == len(names)
    assert {style.dashes for style in found.values()} == {found["RowRandom"].dashes}


def luminance(color: tuple[float, ...] | str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in to_rgb(color)]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("criterion", LOOKS)
def test_names_in_colour_can_be_read_on_white(criterion: str) -> None:
    assert 1.05 / (luminance(looks([f"Layer{criterion}"])[f"Layer{criterion}"].text) + 0.05) >= 3
