from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from builders.rows import mask_rows, random_masks, trial, write_trial
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.text import Text

from deepcuts.analysis.curves import curves
from deepcuts.analysis.overlap import overlap
from deepcuts.analysis.pairs import decompose
from deepcuts.figures.curves import plot_curves
from deepcuts.figures.overlap import plot_layers, plot_overlap
from deepcuts.figures.style import figure_options, looks, new_figure, save_figure
from deepcuts.store.store import Store


def points(strategy: str, *values: float, **fields: object) -> list[dict]:
    """Trials of one strategy at sparsity 0.5, 0.8 ..., a value each."""
    return [
        trial(f"{strategy}{asked}{fields}", strategy, sparsity_asked=asked, retrained=value, **fields)
        for asked, value in zip((0.5, 0.8, 0.9), values, strict=False)
    ]


@pytest.fixture
def trials() -> pd.DataFrame:
    rows = points("LayerMagWeight", 0.8, 0.7, 0.6) + points("LayerSmoothGrad", 0.82, 0.75, 0.5)
    rows += points("LayerMagWeight", 0.9, 0.6, 0.7, seed=1) + [trial("d", "Dense"), trial("u", "Unpruned")]
    return pd.DataFrame(rows).assign(compression=None)


def drawn(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def words(figure: Figure) -> set[str]:
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_a_line_per_strategy_goes_through_the_means(trials: pd.DataFrame) -> None:
    lines = drawn(plot_curves(curves(trials)).axes[0])
    assert lines["LayerMagWeight"] == ([0.5, 0.8, 0.9], pytest.approx([0.85, 0.65, 0.65]))
    assert lines["LayerSmoothGrad"] == ([0.5, 0.8, 0.9], [0.82, 0.75, 0.5])
    assert set(lines) == {"LayerMagWeight", "LayerSmoothGrad"}


def test_levels_axes_and_strategies_are_named(trials: pd.DataFrame) -> None:
    found = words(plot_curves(curves(trials)))
    assert {"toy", "accuracy, retrained", "50 %", "90 %", "LayerMagWeight", "LayerSmoothGrad"} <= found
    assert {"dense 0.900", "unpruned 0.800"} <= found


def test_the_level_of_the_most_frequent_class_is_drawn(trials: pd.DataFrame) -> None:
    figure = plot_curves(curves(trials.assign(majority=0.42)))
    assert "majority 0.420" in words(figure)
    assert figure.axes[0].get_ylim()[0] < 0.42
    near = plot_curves(curves(trials.assign(majority=0.79, metric="accuracy")))
    assert {"unpruned 0.800", "majority 0.790"} <= words(near)  # at the two ends


def test_levels_that_are_close_share_a_label(trials: pd.DataFrame) -> None:
    trials.loc[trials["strategy"] == "Unpruned", "retrained"] = 0.899
    assert "dense 0.900 · unpruned 0.899" in words(plot_curves(curves(trials)))


def test_every_seed_is_a_dot_and_three_make_a_band() -> None:
    rows = [row for seed in range(3) for row in points("LayerSNIP", *[0.7 + 0.1 * seed] * 2, seed=seed)]
    axes = plot_curves(curves(pd.DataFrame(rows).assign(compression=None))).axes[0]
    band, dots = axes.collections
    assert sorted(dots.get_offsets()[:, 1]) == pytest.approx([0.7, 0.7, 0.8, 0.8, 0.9, 0.9])
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (
        pytest.approx(0.551586, abs=1e-6),
        1.0,  # of 1.048414: no accuracy is above 1
    )


def one_level() -> pd.DataFrame:
    """Trials of 11 arms at one sparsity, with 3 seeds each."""
    names = [f"LayerGradCAMShift dropout=false shift={shift}" for shift in range(8)] + ["LayerMagWeight"]
    names += [f"LayerGradCAMShift dropout=true shift=10 (rewind={start})" for start in ("init", "none")]
    rows = [
        row | {"arm": name}
        for place, name in enumerate(names)
        for seed in range(3)
        for row in points(name.split(" ")[0], 0.7 + 0.01 * place + 0.001 * seed, seed=seed, tuned=name)
    ]
    dense = trial("d", "Dense", dense=0.85, arm="Dense")
    frame = pd.DataFrame([*rows, dense]).drop(columns="tuned").assign(compression=None, majority=0.3)
    return frame.assign(settings=["{}" if arm == "Dense" else f'{{"arm": "{arm}"}}' for arm in frame["arm"]])


def test_at_a_single_level_each_arm_has_a_row_with_its_seeds_and_interval() -> None:
    axes = plot_curves(curves(one_level())).axes[0]
    marks = drawn(axes)
    assert len(marks) == len({y for _, (y,) in marks.values()}) == 11
    assert marks["LayerGradCAMShift dropout=false shift=4"] == ([pytest.approx(0.741)], [4])
    dots = [sorted(each.get_offsets()[:, 0]) for each in axes.collections]
    assert dots[4] == pytest.approx([0.740, 0.741, 0.742])
    intervals = [line.get_xdata() for line in axes.get_lines() if len(set(line.get_xdata())) == 2]
    assert intervals[4] == pytest.approx([0.741 - 0.002484, 0.741 + 0.002484], abs=1e-6)  # t(2) = 4.303, s = 0.001
    low, high = axes.get_xlim()
    assert 0.68 < low < 0.7  # the majority's 0.3 would take most of the axis
    assert high > 0.8


def test_an_interval_that_goes_on_beyond_the_axis_ends_in_an_arrowhead() -> None:
    values = {"LayerSNIP": (0.6, 0.7, 0.95), "LayerMagWeight": (0.7, 0.71, 0.72)}
    rows = [trial(f"{name}{i}", name, i, retrained=each) for name, of in values.items() for i, each in enumerate(of)]
    axes = plot_curves(curves(pd.DataFrame(rows).assign(compression=None))).axes[0]
    heads = [line for line in axes.get_lines() if line.get_marker() in (CARETLEFT, CARETRIGHT)]
    assert [line.get_marker() for line in heads] == [CARETLEFT, CARETRIGHT]
    assert tuple(line.get_xdata()[0] for line in heads) == axes.get_xlim()


@pytest.mark.parametrize(("width", "font_size"), [(2.5, 8), (3.3, 8), (None, None)])
def test_names_beside_the_rows_of_a_single_level_do_not_overlap(width: float | None, font_size: float | None) -> None:
    with figure_options(width=width, font_size=font_size):
        figure = plot_curves(curves(one_level()))
        figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


@pytest.mark.parametrize(
    ("panels", "sparsities", "scale"),
    [
        (1, (0.64, 0.85, 0.91, 0.96), "linear"),
        (2, (0.5, 0.8, 0.9), "linear"),
        (3, (0.5, 0.8, 0.9), "linear"),
        (3, (0.64, 0.85, 0.91, 0.96), "function"),
        (1, (0.5, 0.9, 0.99, 0.999), "function"),
    ],
)
def test_the_labels_of_sparsities_do_not_touch(panels: int, sparsities: tuple[float, ...], scale: str) -> None:
    rows = [
        trial(f"{name}{place}", arm, sparsity_asked=asked, retrained=0.7, dataset=name, compression=None)
        for name in "abc"[:panels]
        for arm in ("LayerRandom", "LayerMagGrad")
        for place, asked in enumerate(sparsities)
    ]
    figure = plot_curves(curves(pd.DataFrame(rows)))
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 + 0.3 * left.height < right.x0 for left, right in pairwise(boxes))
        assert axes.get_xscale() == scale


def test_compressions_are_labelled_with_the_sparsity_that_they_are() -> None:
    rows = [trial(str(c), compression=c, sparsity_asked=None, sparsity=1 - 1 / c) for c in (2.0, 4.0)]
    figure = plot_curves(curves(pd.DataFrame(rows)))
    assert {"2x\n50 %", "4x\n75 %"} <= words(figure)


def test_a_panel_per_dataset_with_one_legend(trials: pd.DataFrame) -> None:
    both = pd.concat([trials, trials.assign(dataset="cola", metric="matthews"), trials.assign(model="$big$")])
    figure = plot_curves(curves(both))
    assert len(figure.axes) == 3
    assert [axes.get_title("left") for axes in figure.axes] == [r"toy · \$big\$", "cola · tiny", "toy · tiny"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "LayerMagWeight",
        "LayerSmoothGrad",
    ]


def test_nothing_to_plot_is_said(trials: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no curve to plot"):
        plot_curves(curves(trials[trials["strategy"] == "Dense"]))
    empty = pd.DataFrame({"trial_a": [], "trial_b": [], "layer": [], "kappa": []})
    with pytest.raises(ValueError, match="no overlap to plot"):
        plot_overlap(empty, trials)
    with pytest.raises(ValueError, match="no overlap per layer"):
        plot_layers(empty)


def end_labels(ends: dict[str, float]) -> tuple[Axes, list[Text]]:
    """The names beside lines that end at these values, from the lowest to the highest."""
    rows = [row for name, end in ends.items() for row in points(name, 0.5, 0.5, end)]
    figure = plot_curves(curves(pd.DataFrame(rows).assign(compression=None)))
    figure.canvas.draw()
    axes = figure.axes[0]
    return axes, sorted((text for text in axes.texts if text.get_text() in ends), key=lambda text: text.xyann[1])


def test_names_at_the_ends_of_lines_keep_apart_and_inside() -> None:
    criteria = ("MagWeight", "SNIP", "Fisher", "Wanda", "MagAct", "Random")
    ends = {f"Layer{name}": end for name, end in zip(criteria, (0.1, 0.1, 0.12, 0.9, 0.99, 1.0), strict=True)}
    axes, labels = end_labels(ends)
    boxes = [Text.get_window_extent(label) for label in labels]  # an annotation's own extent has its arrow in it
    assert len(boxes) == len(ends)
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))
    assert boxes[0].y0 > axes.bbox.y0 - boxes[0].height
    assert boxes[-1].y1 < axes.bbox.y1 + boxes[-1].height


def test_a_name_with_room_is_at_the_end_of_its_line() -> None:
    _, labels = end_labels({"LayerSNIP": 0.2, "LayerFisher": 0.8})
    assert [label.xyann[1] for label in labels] == [0.2, 0.8]


# Looks


def test_a_strategy_looks_the_same_in_every_figure(trials: pd.DataFrame) -> None:
    alone = plot_curves(curves(trials[trials["strategy"] == "LayerSmoothGrad"])).axes[0].get_lines()[0]
    beside = plot_curves(curves(trials)).axes[0].get_lines()
    same = next(line for line in beside if line.get_label() == "LayerSmoothGrad")
    assert alone.get_color() == same.get_color() == looks(["LayerSmoothGrad"])["LayerSmoothGrad"].color


def test_long_names_of_arms_are_in_a_legend(trials: pd.DataFrame) -> None:
    frame = curves(trials).replace({"arm": {"LayerMagWeight": "LayerMagWeight (retrain.epochs=12, rewind=none)"}})
    figure = plot_curves(frame)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(frame["arm"])
    assert not plot_curves(curves(trials)).legends


# What the user chooses


def test_what_a_matplotlibrc_sets_stays_and_the_rest_is_ours(
    trials: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "matplotlibrc"
    file.write_text("axes.spines.top: True\nfont.size: 14\naxes.titleweight: normal\naxes.grid: False\n")
    monkeypatch.setattr("matplotlib.matplotlib_fname", lambda: str(file))
    with mpl.rc_context({"font.size": 14, "xtick.labelsize": 5}):  # 5: set since, as in a notebook
        axes = plot_curves(curves(trials)).axes[0]
    assert axes.spines["top"].get_visible()
    assert not axes.spines["right"].get_visible()
    assert axes.title.get_fontweight() == "normal"
    assert axes.xaxis.label.get_fontsize() == pytest.approx(14 * 0.833)
    assert {text.get_fontsize() for text in axes.get_xticklabels()} == {5}
    assert not any(line.get_visible() for line in axes.get_ygridlines())


def test_the_options_of_a_figure_end_with_their_block(trials: pd.DataFrame) -> None:
    with figure_options(width=3.3, font_size=6, labels={"LayerMagWeight": "Magnitude $"}):
        figure = plot_curves(curves(trials))
    assert figure.get_figwidth() == 3.3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"Magnitude \$", "LayerSmoothGrad"]
    assert figure.legends[0].get_texts()[0].get_fontsize() == pytest.approx(6 * 0.833)
    usual = plot_curves(curves(trials))
    assert usual.get_figwidth() == 6
    assert not usual.legends


def test_nothing_of_a_narrow_figure_is_cut_off(trials: pd.DataFrame) -> None:
    with figure_options(width=3.3, font_size=8):
        figure = plot_curves(curves(trials))
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 > -0.05
    assert box.x1 < 3.35


# Masks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    rows = [
        ("b", "LayerSNIP", 0, 0.5),
        ("a", "LayerSNIP", 1, 0.5),
        ("c", "LayerFisher", 0, 0.5),
        ("d", "LayerSNIP", 0, 0.9),
    ]
    for number, (name, strategy, seed, asked) in enumerate(rows):
        write_trial(store, trial(name * 16, strategy, seed, sparsity_asked=asked, compression=None))
        store.write("masks", name * 16, mask_rows(name * 16, random_masks(number, 1 - asked)))
    return store


def test_the_heatmap_is_symmetric_and_groups_trials(store: Store) -> None:
    frame, trials = overlap(store), store.read("trials").table.to_pandas()
    axes = plot_overlap(frame, trials).axes[0]
    shown = axes.get_images()[0].get_array()
    assert shown.shape == (4, 4)
    assert np.isnan(np.diagonal(shown.filled(np.nan))).all()
    order = ["c" * 16, "b" * 16, "a" * 16, "d" * 16]  # by what was asked, then strategy, then seed
    whole = frame[frame["layer"].isna()].set_index(["trial_a", "trial_b"])["kappa"]
    for i, one in enumerate(order):
        for j, other in enumerate(order[:i]):
            assert shown[i, j] == shown[j, i] == whole[min(one, other), max(one, other)]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["LayerFisher", "LayerSNIP", "LayerSNIP"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["toy\n50 %", "toy\n90 %"]
    assert "seeds 0, 1" in axes.get_ylabel()
    assert f"{whole.iloc[0]:.2f}" in {text.get_text() for text in axes.texts}


def test_no_label_of_the_heatmap_is_cut_off(store: Store) -> None:
    trials = store.read("trials").table.to_pandas()
    trials["strategy"] = trials["strategy"] + "WithALongNameOfItsOwn"
    figure = plot_overlap(overlap(store), trials)
    figure.canvas.draw()
    for label in figure.axes[0].get_yticklabels():
        assert label.get_window_extent().x0 >= 0


def test_the_heatmap_says_how_far_kappa_can_reach(store: Store) -> None:
    frame, trials = overlap(store), store.read("trials").table.to_pandas()
    note = " ".join(plot_overlap(frame, trials).axes[0].get_xlabel().split())
    found = frame[frame["layer"].isna() & frame[["trial_a", "trial_b"]].eq("d" * 16).any(axis=1)]["kappa_highest"]
    assert found.max() < 0.5  # half of the weights, and a tenth
    assert note.startswith("Masks that keep shares p < q of a tensor reach at most 2p(1 - q)/(p + q - 2pq), not 1.")
    assert note.endswith(f"50 % with 90 %: {found.min():.2f} to {found.max():.2f}.")
    even = frame.assign(kappa_highest=1.0)
    assert plot_overlap(even, trials).axes[0].get_xlabel() == ""


def test_layers_are_placed_by_depth_beside_chance_and_the_highest(store: Store) -> None:
    frame = overlap(store, ["bbbb", "dddd"])
    left, right = plot_layers(frame).axes
    query, output = (row for _, row in frame.dropna(subset=["layer"]).iterrows())
    for axes, name, beside in ((left, "pruned_iou", "pruned_iou_chance"), (right, "kappa", "kappa_highest")):
        assert drawn(axes) == {"one pair": ([0.0, 1.0], [query[name], output[name]])}
        assert [query[beside], output[beside]] in [list(line.get_ydata()) for line in axes.get_lines()]


def test_layers_without_a_number_stand_apart(store: Store) -> None:
    frame = overlap(store, ["aaaa", "bbbb"])
    frame["layer"] = frame["layer"].replace({"encoder.layer.1.output.dense": "pooler.dense"})
    axes = plot_layers(frame).axes[0]
    assert drawn(axes)["one pair"][0] == [0.0, 2.0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "pooler"]


def test_pairs_that_differ_in_one_thing_have_a_line_each_and_controls_their_own(store: Store) -> None:
    write_trial(store, trial("e" * 16, "LayerRandom", sparsity_asked=0.5, compression=None))
    store.write("masks", "e" * 16, mask_rows("e" * 16, random_masks(7, 0.5)))
    frame, trials = overlap(store), store.read("trials").table.to_pandas()
    lines = drawn(plot_layers(frame, trials).axes[1])
    assert list(lines) == [
        "other seed, methods, 1 pair",
        "other strategy, methods, 1 pair",
        "other strategy, controls, 2 pairs",
        "other compression, methods, 1 pair",
    ]
    means = decompose(frame[frame["layer"].notna()], trials)
    those = means[(means["relation"] == "other strategy") & (means["of"] == "controls")]
    assert lines["other strategy, controls, 2 pairs"][1] == pytest.approx(list(those["kappa"]))
    for ids, said in (
        (None, "controls: LayerRandom; 5 pairs that differ in more than one thing are left out"),
        (["aaaa", "bbbb", "cccc"], "1 pair that differs in more than one thing is left out"),
    ):
        (legend,) = plot_layers(overlap(store, ids), trials).legends
        assert " ".join(legend.get_title().get_text().split()) == f"methods: LayerFisher, LayerSNIP; {said}"


# Files


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "SVG"])
def test_figures_are_written_by_suffix_with_the_same_bytes_every_time(
    trials: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    for name in ("one", "two"):
        save_figure(plot_curves(curves(trials)), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write a figure as '.gif' .* choose .png, .svg, .pdf"):
        save_figure(new_figure(1, 1), tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_a_figure_by_itself():
    assert new_figure(2, 2)._repr_png_().startswith(b"\x89PNG")
