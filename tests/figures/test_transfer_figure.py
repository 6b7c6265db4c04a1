"""The figure of the transfer matrix: its numbers, one scale of colours, and text that fits."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from builders.transfers import arms_of, transfers
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deepcuts.analysis.transfer import transfer
from deepcuts.figures.style import DIVERGING, FAINT, figure_options
from deepcuts.figures.transfer import plot_transfer


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return transfer(transfers(sparsities=[0.5, 0.64]))


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.texts}


def colors(axes: Axes) -> dict[tuple[int, int], str]:
    """The colour of each cell by its column and row."""
    cells = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_fill()]
    return {(int(c.get_x() + 0.5), int(c.get_y() + 0.5)): to_hex(c.get_facecolor()) for c in cells}


def test_a_panel_per_level_and_control_with_the_means_in_the_cells(frame: pd.DataFrame) -> None:
    found = panels(plot_transfer(frame))
    assert list(found) == [f"{asked} % · {what}" for asked in (50, 64) for what in ("as found", "shuffled")]
    for title, axes in found.items():
        assert [label.get_text() for label in axes.get_xticklabels()] == ["cola", "sst2"]
        written = {text.get_position(): text.get_text() for text in axes.texts}
        rows = frame[(frame["control"] == "none") == ("found" in title)]
        for row in rows[rows["sparsity_asked"] == float(title[:2]) / 100].to_dict("records"):
            x, y = (["cola", "sst2"].index(row[name]) for name in ("target", "source"))
            assert written[(x, y - 0.16)] == f"{row['mean']:.3f}"
            assert written[(x, y + 0.24)] == f"± {row['high'] - row['mean']:.3f}"


def test_colours_are_the_difference_from_the_own_mask_on_one_scale(frame: pd.DataFrame) -> None:
    found = panels(plot_transfer(frame))
    plain, shuffled = (colors(found[f"64 % · {what}"]) for what in ("as found", "shuffled"))
    largest = 0.33  # a shuffled mask of the other dataset
    assert plain[(0, 0)] == plain[(1, 1)] == to_hex(DIVERGING(0.5))
    for cell, difference in (((0, 1), -0.11), ((1, 0), -0.11)):
        assert plain[cell] == to_hex(DIVERGING(0.5 + 0.5 * difference / largest))
    assert shuffled[(0, 0)] == to_hex(DIVERGING(0.5 - 0.5 * 0.22 / largest))
    assert shuffled[(1, 0)] == to_hex(DIVERGING(0.0))


def test_without_the_own_mask_a_cell_is_grey_and_two_seeds_are_counted(frame: pd.DataFrame) -> None:
    trials = transfers(seeds=[0, 1])
    some = transfer(trials[(trials["arm"] != "own") | (trials["dataset"] != "cola")])
    axes = panels(plot_transfer(some))["64 % · as found"]
    assert colors(axes)[(0, 1)] == FAINT
    assert (0, 0) not in colors(axes)
    assert {text.get_text() for text in axes.texts} >= {"2 seeds"}
    assert "too few seeds for intervals" in " ".join(str(plot_transfer(some).get_supxlabel()).split())


def test_an_interval_that_is_cut_is_written_with_its_ends(frame: pd.DataFrame) -> None:
    cut = frame.assign(low=frame["mean"] - 0.2, high=frame["mean"] + 0.05)
    for axes in panels(plot_transfer(cut)).values():
        numbers = [text.get_text() for text in axes.texts]
        means, below = numbers[::2], numbers[1::2]
        assert len(means) == 4
        for mean, ends in zip(means, below, strict=True):
            low, high = map(float, ends.split(" to "))
            assert (float(mean) - low, high - float(mean)) == pytest.approx((0.2, 0.05), abs=0.006)


def boxes(figure: Figure) -> list[Any]:
    figure.canvas.draw()
    matrices = [axes for axes in figure.axes if axes.texts]  # the scale has ticks outside its ends
    said = [text for axes in matrices for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())]
    said += [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label)]
    said += [getattr(axes, "_left_title") for axes in matrices]  # noqa: B009
    return [text.get_window_extent() for text in (*said, *figure.texts) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("cut", [0.0, 0.03])
@pytest.mark.parametrize(("width", "size"), [(3.3, 8), (None, None)])
@pytest.mark.parametrize("datasets", [["sst2", "cola"], ["sst2", "cola", "stsb"]])
def test_text_is_inside_the_figure_and_never_over_other_text(
    width: float | None, size: float | None, datasets: list[str], cut: float
) -> None:
    some = transfer(transfers(strategies=arms_of("LayerSNIP", datasets), datasets=datasets))
    some["high"] -= cut
    with figure_options(width=width, font_size=size):
        figure = plot_transfer(some)
    found = boxes(figure)
    for number, box in enumerate(found):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1 + 0.5
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1 + 0.5
        assert not any(box.overlaps(other) for other in found[:number])


@pytest.mark.parametrize(("width", "beside"), [(3.3, False), (7.0, True)])
def test_shuffled_masks_are_below_the_others_where_there_is_no_room_beside(width: float, beside: bool) -> None:
    datasets = ["sst2", "cola", "stsb"]
    some = transfer(transfers(strategies=arms_of("LayerSNIP", datasets), datasets=datasets, seeds=[0]))
    with figure_options(width=width, font_size=8):
        figure = plot_transfer(some)
    figure.canvas.draw()
    plain, shuffled = (axes.get_position() for axes in panels(figure).values())
    assert (plain.y0 == shuffled.y0) == beside
    assert (plain.x0 == shuffled.x0) != beside


def test_an_arm_may_be_called_otherwise_where_there_are_several() -> None:
    arms = arms_of("LayerSNIP", ["sst2"]) | {"late": {"use": "LayerSNIP", "rewind": 100}}
    arms |= {"late of sst2": {"use": "LayerSNIP", "rewind": 100, "mask_from": {"dataset": "sst2"}}}
    with figure_options(labels={"late": "Late $x$"}):
        titles = list(panels(plot_transfer(transfer(transfers(strategies=arms)))))
    assert titles == [r"Late \$x\$ · 64 % · as found", "own · 64 % · as found", "own · 64 % · shuffled"]


def test_without_masks_of_others_there_is_nothing_to_plot(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no completed trial takes the mask of another one"):
        plot_transfer(frame.head(0))
