from __future__ import annotations

import pandas as pd
import pytest

from deepcuts.figures.curves import plot_training
from deepcuts.figures.style import INK, looks


def lines(strategy: str, stage: str, seed: int, *values: float, **fields: object) -> list[dict]:
    common = {"model": "tiny", "dataset": "toy", "metric": "accuracy", "compression": 4.0, "sparsity_asked": None}
    own = {"trial_id": f"{strategy}{seed}{fields}", "strategy": strategy, "arm": strategy, "stage": stage, "seed": seed}
    return [common | own | {"epochs": i, "value": value} | fields for i, value in enumerate(values)]


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = lines("Dense", "dense", 0, 0.7, 0.9) + lines("LayerSNIP", "retrained", 0, 0.5, 0.6)
    rows += lines("LayerSNIP", "retrained", 1, 0.5, 0.8) + lines("LayerSNIP", "retrained", 0, 0.5, compression=9.0)
    return pd.DataFrame(rows)


def test_fine_tuning_and_every_compression_have_a_panel(frame: pd.DataFrame) -> None:
    axes = plot_training(frame).axes
    assert [each.get_title("left") for each in axes] == ["toy\nfine-tuning", "retraining, 4x", "retraining, 9x"]
    assert axes[0].get_ylabel() == "accuracy"


def test_a_line_goes_through_the_means_beside_one_for_each_seed(frame: pd.DataFrame) -> None:
    dense, retrained, _ = plot_training(frame).axes
    assert {line.get_color() for line in dense.get_lines()} == {INK}
    assert {line.get_color() for line in retrained.get_lines()} == {looks(["LayerSNIP"])["LayerSNIP"].color}
    mean = next(line for line in retrained.get_lines() if line.get_label() == "LayerSNIP")
    assert list(mean.get_ydata()) == pytest.approx([0.5, 0.7])
    assert len(retrained.get_lines()) == 3


def test_networks_that_were_fine_tuned_otherwise_have_a_line_each_and_are_named(frame: pd.DataFrame) -> None:
    tuned = [row for lr in ("0.1", "0.2") for row in lines(f"Dense (finetune.lr={lr})", "dense", 0, 0.5, float(lr))]
    figure = plot_training(pd.concat([frame[frame["stage"] != "dense"], pd.DataFrame(tuned)]))
    means = {
        line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines() if line.get_linewidth() > 1
    }
    assert means == {"Dense (finetune.lr=0.1)": [0.5, 0.1], "Dense (finetune.lr=0.2)": [0.5, 0.2]}
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"LayerSNIP", *means}


def test_a_row_of_panels_per_dataset(frame: pd.DataFrame) -> None:
    both = pd.concat([frame, frame[frame["compression"] == 4].assign(dataset="$x$", metric="f1")])
    figure = plot_training(both)
    assert len(figure.axes) == 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LayerSNIP"]


def test_what_does_not_fit_or_is_not_there_is_said(frame: pd.DataFrame) -> None:
    many = pd.concat([frame.assign(compression=float(c)) for c in range(2, 9)])
    with pytest.raises(ValueError, match="7 compressions do not fit on a page; choose up to 5"):
        plot_training(many)
    with pytest.raises(ValueError, match="no training to plot"):
        plot_training(frame.iloc[:0])
