from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.rows import mask_rows, random_masks, trial, write_trial
from matplotlib.figure import Figure

from deepcuts.analysis.density import DENSITY_COLUMNS, density
from deepcuts.figures.density import plot_dead, plot_density
from deepcuts.model.folder import heads_of
from deepcuts.store.store import Store

PREFIX = "bert.encoder.layer.0."


def add(store: Store, trial_id: str, kept: dict[tuple[str, str], np.ndarray], **fields: object) -> None:
    store.write("masks", trial_id, mask_rows(trial_id, kept))
    write_trial(store, trial(trial_id, **fields))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One trial whose masks lack some rows, columns and heads of 4 rows."""
    store = Store(str(tmp_path))
    query, output = np.ones((16, 16), bool), np.ones((16, 16), bool)
    query[4:9] = False  # 5 rows: the second head and a row of the third
    output[:, 8:16] = False
    output[0] = False
    odd = np.ones((3, 5), bool)
    odd[1] = odd[:, 4] = False
    masks = {
        (f"{PREFIX}attention.self.query", "weight"): query,
        (f"{PREFIX}attention.self.query", "bias"): np.array([True] * 12 + [False] * 4),
        (f"{PREFIX}attention.output.dense", "weight"): output,
        (f"{PREFIX}intermediate.dense", "weight"): odd,
    }
    add(store, "aaaa", masks, model="toy")
    write_trial(store, trial("dddd", "Dense"))
    return store


def test_rows_columns_and_heads_that_are_gone_are_counted(store: Store) -> None:
    frame = density(store).set_index(["kind", "parameter"])
    assert list(density(store).columns) == DENSITY_COLUMNS
    columns = ["rows", "columns", "dead_rows", "dead_columns", "heads", "dead_heads"]
    assert frame.loc[("query", "weight"), columns].tolist() == [16, 16, 5, 0, 4, 1]
    assert frame.loc[("attention output", "weight"), columns].tolist() == [16, 16, 1, 8, 4, 2]
    assert frame.loc[("intermediate", "weight"), columns[:4]].tolist() == [3, 5, 1, 1]
    assert frame.loc[("intermediate", "weight"), columns[4:]].isna().all()
    assert frame.loc[("query", "bias"), columns].isna().all()


def test_densities_are_those_of_the_arrays(store: Store) -> None:
    frame = density(store).set_index(["kind", "parameter"])
    assert frame["density"].to_dict() == {
        ("query", "weight"): 11 / 16,
        ("query", "bias"): 0.75,
        ("attention output", "weight"): 15 / 32,
        ("intermediate", "weight"): 8 / 15,
    }
    assert set(frame["depth"]) == {0}


def test_random_masks_are_counted_as_boolean_arrays_are(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    masks = random_masks(3, 0.15)
    add(store, "aaaa", masks)
    for _, row in density(store).iterrows():
        mask = masks[row["layer"], row["parameter"]]
        if mask.ndim == 2:
            assert row["dead_rows"] == (~mask.any(axis=1)).sum()
            assert row["dead_columns"] == (~mask.any(axis=0)).sum()
    assert density(store)["heads"].isna().all()
    assert density(store, ["aaaa"], heads=4)["dead_heads"].notna().sum() == 1


def test_heads_are_those_of_a_config_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12}))
    assert heads_of(str(tmp_path)) == 12
    (tmp_path / "config.json").write_text(json.dumps({"n_heads": 6}))
    assert heads_of(str(tmp_path)) == 6
    (tmp_path / "config.json").write_text("{")
    assert heads_of(str(tmp_path)) is None
    assert heads_of(str(tmp_path / "gone")) is None
    assert heads_of("some-model") is None
    assert heads_of("toy") == 4


def test_missing_and_damaged_masks_are_named_and_the_rest_is_read(store: Store) -> None:
    add(store, "bbbb", random_masks(1))
    store.write_bytes("masks/bbbb.parquet", b"cut")
    rows = mask_rows("cccc", random_masks(2))
    store.write("masks", "cccc", [{**rows[0], "kept": 1}, *rows[1:]])
    write_trial(store, trial("cccc", seed=2))
    write_trial(store, trial("eeee", seed=3))
    frame = density(store)
    assert set(frame["trial_id"]) == {"aaaa"}
    damaged = {Path(path).stem: reason for path, reason in frame.attrs["damaged"].items()}
    assert sorted(damaged) == ["bbbb", "cccc", "eeee"]
    assert "where 1 were recorded" in damaged["cccc"]
    assert "missing" in damaged["eeee"]


def test_compacted_masks_are_found(store: Store) -> None:
    expected = density(store)
    rows = store.read("masks").table.to_pylist()
    store.write("masks", "compact-00", rows + mask_rows("zzzz", random_masks(0)))
    store.delete("masks/aaaa.parquet")
    pd.testing.assert_frame_equal(density(store), expected)


def test_an_unknown_trial_is_refused_and_an_empty_store_is_empty(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown trial 'aaab'; did you mean 'aaaa'"):
        density(store, ["aaab"])
    empty = density(Store(str(tmp_path / "none")))
    assert list(empty.columns) == DENSITY_COLUMNS
    assert empty.empty


# The figure


def counts(strategy: str, asked: float, shares: tuple[float, float]) -> list[dict]:
    return [
        {"trial_id": f"{strategy}{asked}", "layer": f"{PREFIX}{name}", "size": 100, "kept": int(100 * share)}
        for name, share in zip(("attention.self.query", "output.dense"), shares, strict=True)
    ]


def known(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame([trial(f"{s}{a}", s, compression=a, sparsity_asked=None) for s, a in rows])


def test_strategies_that_treat_layers_alike_are_left_out_and_named() -> None:
    rows = counts("GlobalSNIP", 2.0, (0.6, 0.4)) + counts("LayerSNIP", 2.0, (0.5, 0.5))
    rows += counts("LayerFisher", 2.0, (0.5, 0.5)) + counts("LayerFisher", 4.0, (0.3, 0.3))
    trials = known(("GlobalSNIP", 2.0), ("LayerSNIP", 2.0), ("LayerFisher", 2.0), ("LayerFisher", 4.0))
    figure = plot_density(pd.DataFrame(rows), trials)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["GlobalSNIP\n2x"]
    said = " ".join(figure.get_supxlabel().split())
    assert said == "encoder layer left out, the same share of every layer: LayerFisher, LayerSNIP"
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert (lines["query"], lines["output"]) == ([0.6], [0.4])
    assert figure.axes[0].get_ylim() == (0, pytest.approx(0.672))
    with pytest.raises(ValueError, match="every arm keeps the same share of every layer: LayerSNIP"):
        plot_density(pd.DataFrame(counts("LayerSNIP", 2.0, (0.5, 0.5))), known(("LayerSNIP", 2.0)))


def test_nothing_to_plot_is_said() -> None:
    with pytest.raises(ValueError, match="no density to plot"):
        plot_density(pd.DataFrame(columns=DENSITY_COLUMNS), known(("LayerSNIP", 2.0)))


def panels(figure: Figure) -> dict[str, dict[str, list[float]]]:
    """What is drawn, by title of the panel: strategies and what chance gives them."""
    found: dict[str, dict[str, list[float]]] = {}
    for axes in figure.axes:
        lines = axes.get_lines()
        found[axes.get_title("left")] = {"chance": list(lines[0].get_ydata()), "line": list(lines[1].get_ydata())}
    return found


def test_what_is_gone_whole_is_drawn_as_a_share_of_all_matrices(store: Store) -> None:
    drawn = panels(plot_dead(density(store), known(("LayerMagWeight", 2.0)).assign(trial_id="aaaa")))
    assert list(drawn) == ["Neurons (rows)", "Inputs (columns)", "Attention heads"]
    assert drawn["Neurons (rows)"]["line"] == [pytest.approx((5 + 1 + 1) / (16 + 16 + 3))]
    assert drawn["Inputs (columns)"]["line"] == [pytest.approx((0 + 8 + 1) / (16 + 16 + 5))]
    assert drawn["Attention heads"]["line"] == [pytest.approx((1 + 2) / (4 + 4))]


def test_masks_drawn_at_random_lose_what_chance_takes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    kept = np.random.default_rng(0).random((4000, 16)) < 0.1
    add(store, "aaaa", {(f"{PREFIX}attention.self.query", "weight"): kept})
    drawn = panels(plot_dead(density(store, heads=1000), known(("LayerRandom", 2.0)).assign(trial_id="aaaa")))
    for name, weights in (("Neurons (rows)", 16), ("Inputs (columns)", 4000), ("Attention heads", 64)):
        expected = (1 - kept.mean()) ** weights
        assert drawn[name]["chance"] == [pytest.approx(expected)]
        assert drawn[name]["line"] == [pytest.approx(expected, rel=0.1, abs=0.003)]


def test_heads_that_nobody_counted_have_no_panel() -> None:
    row = {"trial_id": "LayerSNIP2.0", "layer": "x", "parameter": "weight", "size": 4, "kept": 2, "density": 0.5}
    row |= {"rows": 2, "columns": 2, "dead_rows": 1, "dead_columns": 0, "heads": None, "dead_heads": None}
    figure = plot_dead(pd.DataFrame([row], columns=DENSITY_COLUMNS), known(("LayerSNIP", 2.0)))
    assert list(panels(figure)) == ["Neurons (rows)", "Inputs (columns)"]
    with pytest.raises(ValueError, match="no rows and columns to plot"):
        plot_dead(pd.DataFrame(columns=DENSITY_COLUMNS), known(("LayerSNIP", 2.0)))
