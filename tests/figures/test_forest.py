from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from deepcuts.figures.forest import plot_forest
from deepcuts.figures.style import looks, save_figure


def row(strategy: str = "LayerSNIP", **fields: object) -> dict:
    return {
        "dataset": "cola",
        "compression": 4.0,
        "sparsity": 0.96,
        "strategy": strategy,
        "baseline": "LayerMagWeight",
        "metric": "matthews",
        "n": 8,
        "difference": 0.03,
        "low": 0.01,
        "high": 0.05,
        "verdict": "better",
    } | fields


def words(figure: Figure) -> set[str]:
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def marks(figure: Figure, strategy: str) -> list:
    return [line for line in figure.axes[0].get_lines() if line.get_color() == looks([strategy])[strategy].color]


def test_every_comparison_has_its_difference_interval_and_verdict() -> None:
    figure = plot_forest(pd.DataFrame([row(), row("LayerFisher", difference=-0.01, verdict="undecided", n=1)]), 0.01)
    line, point = marks(figure, "LayerSNIP")
    assert list(line.get_xdata()) == [0.01, 0.05]
    assert list(point.get_xdata()) == [0.03]
    assert {"LayerSNIP", "LayerFisher", "better, 8 seeds", "undecided, 1 seed", "4x", "cola · matthews"} <= words(
        figure
    )


def test_a_difference_below_the_margin_is_said_with_its_direction() -> None:
    figure = plot_forest(pd.DataFrame([row(verdict="equivalent", difference=-0.005, p_differs=1e-8)]), 0.01)
    assert "lower by less than the margin, 8 seeds" in words(figure)


def test_numbers_below_the_axis_are_apart_beside_long_names(tmp_path: Path) -> None:
    arm = "LayerGradCAMShift dropout=false shift=0.1"
    figure = plot_forest(pd.DataFrame([row(arm, difference=-0.018, low=-0.077, high=0.04, n=2)]), 0.01)
    save_figure(figure, tmp_path / "forest.png")
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert len(boxes) >= 3
    assert all(one.x1 + 4 < other.x0 for one, other in pairwise(boxes))


def test_undecided_ones_are_hollow() -> None:
    figure = plot_forest(pd.DataFrame([row(), row("LayerFisher", verdict="undecided")]), 0.01)
    assert marks(figure, "LayerSNIP")[-1].get_markerfacecolor() == looks(["LayerSNIP"])["LayerSNIP"].color
    assert marks(figure, "LayerFisher")[-1].get_markerfacecolor() == "white"


def test_an_interval_that_would_hide_the_others_ends_in_arrows() -> None:
    figure = plot_forest(pd.DataFrame([row(), row("LayerFisher", low=-3.0, high=3.0)]), 0.01)
    assert figure.axes[0].get_xlim()[1] < 0.2
    assert {line.get_marker() for line in marks(figure, "LayerFisher")} >= {"<", ">"}


def test_unknown_differences_and_intervals_leave_their_line_empty() -> None:
    alone = row("LayerFisher", n=0, difference=np.nan, low=np.nan, high=np.nan, verdict="undecided")
    figure = plot_forest(pd.DataFrame([row(low=np.nan, high=np.nan), alone]), 0.01)
    assert len(marks(figure, "LayerSNIP")) == 1
    assert marks(figure, "LayerFisher") == []
    assert "undecided, 0 seeds" in words(figure)


def test_datasets_have_panels_and_compressions_are_in_order() -> None:
    rows = [row(compression=4.0), row(compression=2.0, sparsity=0.6), row(dataset="$x$", metric="mse")]
    figure = plot_forest(pd.DataFrame(rows), 0.01)
    assert [axes.get_title("left") for axes in figure.axes] == ["cola · matthews", r"\$x\$ · mse"]
    places = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts}
    assert places["2x"] < places["4x"]


@pytest.mark.parametrize(
    ("metrics", "side"),
    [
        (["matthews", "accuracy (test)"], "right is better"),
        (["mse", "mse (test)"], "left is better"),
        (["matthews", "mse (test)"], "right is better, of mse (test) left"),
    ],
)
def test_it_is_said_on_which_side_a_difference_is_for_the_better(metrics: list[str], side: str) -> None:
    rows = [row(dataset=metric, metric=metric) for metric in metrics]
    assert f"({side})" in " ".join(plot_forest(pd.DataFrame(rows), 0.01).get_supxlabel().split())


def test_no_label_is_cut_off() -> None:
    figure = plot_forest(pd.DataFrame([row("LayerSmoothGradCAMShift+shuffle")]), 0.01)
    figure.canvas.draw()
    for text in [*figure.axes[0].get_yticklabels(), *figure.axes[0].texts]:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width


def test_nothing_to_plot_is_said() -> None:
    with pytest.raises(ValueError, match="no comparison to plot"):
        plot_forest(pd.DataFrame([row(difference=np.nan)]), 0.01)
