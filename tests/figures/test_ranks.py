from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders.many_datasets import ARMS, many_datasets, noisy
from matplotlib.figure import Figure
from matplotlib.text import Text

from deepcuts.analysis.across import compare_over_datasets
from deepcuts.figures.ranks import plot_ranks
from deepcuts.figures.style import INK, figure_options, looks


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return compare_over_datasets(many_datasets(noisy(0), datasets=8))


def texts(figure: Figure) -> dict[str, Text]:
    figure.canvas.draw()
    return {text.get_text(): text for axes in figure.axes for text in axes.texts}


def bars(figure: Figure) -> list[list[float]]:
    """The thick bars of the first panel, from left to right."""
    lines = [line for line in figure.axes[0].get_lines() if line.get_linewidth() == 3 and line.get_color() == INK]
    return [list(line.get_xdata()) for line in lines]


def test_every_arm_has_its_marker_at_its_rank_and_its_name(frame: pd.DataFrame) -> None:
    figure = plot_ranks(frame)
    marks = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1 and line.get_color() != INK]
    at = {line.get_color(): float(line.get_xdata()[0]) for line in marks}
    assert at == {looks(ARMS)[arm].color: rank for arm, rank in zip(ARMS, (1, 2, 3), strict=True)}
    assert {"LayerMagWeight 1.00", "LayerSNIP 2.00", "3.00 LayerRandom", "1", "2", "3"} <= set(texts(figure))
    assert figure.axes[0].get_title(loc="left") == "4x · 8 datasets"
    assert "4x: ranks over 8 datasets differ (Friedman, p < 0.001)" in figure.get_supxlabel()


def test_bars_join_what_the_critical_difference_does_not_tell_apart(frame: pd.DataFrame) -> None:
    figure = plot_ranks(frame)
    assert bars(figure) == [pytest.approx([1, 2], abs=0.05), pytest.approx([2, 3], abs=0.05)]
    assert "critical difference 1.17" in texts(figure)


def test_one_bar_joins_all_where_ranks_decide_nothing() -> None:
    figure = plot_ranks(compare_over_datasets(many_datasets(noisy(0), datasets=3)))
    assert bars(figure) == [pytest.approx([1, 3], abs=0.05)]
    assert not any("critical" in text for text in texts(figure))
    assert "3 datasets cannot decide about ranks" in figure.get_supxlabel()


def test_a_panel_per_level() -> None:
    both = pd.concat([many_datasets(noisy(0)), many_datasets(noisy(0), compression=9.0, sparsity=0.95)])
    figure = plot_ranks(compare_over_datasets(both))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["4x · 3 datasets", "9x · 3 datasets"]
    assert figure.get_supxlabel() == "4x, 9x: 3 datasets cannot decide about ranks: at least 6 are needed"


@pytest.mark.parametrize("width", [3.3, 6.4])
def test_names_are_inside_the_figure_and_never_over_each_other(frame: pd.DataFrame, width: float) -> None:
    long = ("GlobalMagWeight+shuffle", *ARMS[1:], "LayerSmoothGradCAMShift")
    many = compare_over_datasets(many_datasets(noisy(0), long, datasets=8), "LayerSNIP")
    for some in (frame, many):
        with figure_options(width=width, font_size=8):
            figure = plot_ranks(some)
        figure.canvas.draw()
        assert figure.get_figwidth() == width
        boxes = [text.get_window_extent() for text in texts(figure).values()]
        boxes += [text.get_window_extent() for text in figure.texts]
        for number, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= 0
            assert not any(box.overlaps(other) for other in boxes[:number])


def test_an_arm_may_be_called_otherwise(frame: pd.DataFrame) -> None:
    with figure_options(labels={"LayerSNIP": "SNIP"}):
        assert "SNIP 2.00" in texts(plot_ranks(frame))


def test_without_ranks_there_is_nothing_to_plot(frame: pd.DataFrame) -> None:
    for nothing in (frame.iloc[:0], frame.iloc[:1].assign(critical_difference=np.nan)):
        with pytest.raises(ValueError, match="no ranks to plot"):
            plot_ranks(nothing)
