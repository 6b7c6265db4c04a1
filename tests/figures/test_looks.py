"""How arms, levels and notes look in figures."""

from __future__ import annotations

import pandas as pd
from builders.rows import trial

from deepcuts.analysis.curves import curves
from deepcuts.figures.curves import plot_curves
from deepcuts.figures.one_level import level_names
from deepcuts.figures.style import figure_options, line_style, looks


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
