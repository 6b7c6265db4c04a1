"""Every verb that looks at a store shows one strategy in several settings, and labelled arms, apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from builders.arms import EPOCHS, LABELLED, ONCE, armed_store, write_arm
from builders.specs import dense, trial

from deepcuts.analysis.curves import curves, training_curves
from deepcuts.analysis.density import density
from deepcuts.analysis.frames import metrics, trials
from deepcuts.analysis.overlap import overlap
from deepcuts.analysis.selection import labels_of_store
from deepcuts.cli.main import main
from deepcuts.figures.curves import plot_curves, plot_training
from deepcuts.figures.density import plot_dead, plot_density
from deepcuts.figures.overlap import plot_layers, plot_overlap
from deepcuts.figures.style import LOOKS, figure_options, looks
from deepcuts.publish.report import report
from deepcuts.store.store import Store

EDITED = [f"LayerMagWeight (retrain.epochs={epochs})" for epochs in EPOCHS]
ARMS = {*LABELLED, *EDITED}
HOSTILE = "[50% & <b>x_1|y"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return armed_store(Store(str(tmp_path_factory.mktemp("arms"))))


EVERY = ("--sweep", "all")


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main([*words]) == code
    return capsys.readouterr().out


def test_the_table_has_rows_for_each_arm_in_every_format(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "table", store.uri, *EVERY, "--json", "--columns", "retrain.epochs"))
    assert {row["arm"] for row in rows} == {"Dense", *ARMS}
    for kind in ("--csv", "--latex", "--markdown"):
        text = printed(capsys, "table", store.uri, *EVERY, kind).replace(r"\_", "_")
        assert all(arm in text for arm in ARMS)
    assert printed(capsys, "table", store.uri, *EVERY).split()[1] == "arm"
    one = printed(capsys, "table", store.uri, *EVERY, "--only", "arm=LayerMagWeight (retrain.epochs=3),seed=0")
    said, header, *rows = one.splitlines()
    assert said == "all of these have retrain.epochs=3"
    assert header.split()[1] == "strategy"
    assert [line.split("  ")[1].strip() for line in rows[:2]] == ["LayerMagWeight"] * 2
    assert main(["table", store.uri, *EVERY, "--only", "arm=no dropuot"]) == 2
    assert "did you mean 'no dropout'?" in capsys.readouterr().err


def test_the_commas_in_a_name_are_the_names_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "store"))
    for fields in ({}, {"retrain": ONCE, "rewind": 7}):
        write_arm(store, trial("SNIP", **fields), "mine", 0.8)
    name = "mine (retrain.epochs=1, rewind=7)"
    rows = json.loads(printed(capsys, "table", store.uri, "--json", "--only", f"arm={name},seed=0"))
    assert [row["arm"] for row in rows] == ["mine (rewind=7)"]
    made = json.loads(printed(capsys, "curves", store.uri, "--json", "--arms", f"{name},{name}"))
    assert [row["arm"] for row in made] == ["mine (rewind=7)"]


def test_compare_takes_an_arm_as_its_baseline(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "compare", store.uri, *EVERY, "--baseline", "no dropout", "--json"))
    assert {(row["baseline"], row["strategy"], row["n"]) for row in rows} == {
        ("no dropout", arm, 2) for arm in ARMS - {"no dropout"}
    }
    assert main(["compare", store.uri, *EVERY, "--baseline", "no dropuot"]) == 2
    assert "unknown baseline 'no dropuot'; did you mean 'no dropout'?" in capsys.readouterr().err


def test_figures_are_drawn_of_the_arms_that_are_asked_for(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = "no dropout,LayerGradCAMShift shift=0.1,LayerMagWeight (retrain.epochs=3)"
    labels = ["LayerGradCAMShift shift=0.1=shift = 0.1", "no dropout=No dropout"]
    for verb, *more in (["curves"], ["iou", "--only", "seed=0,compression=2"], ["compare"]):
        out = tmp_path / f"{verb}.svg"
        asked = [*EVERY, "--arms", chosen, *(word for label in labels for word in ("--label", label))]
        baseline = ["--baseline", "no dropout"] if verb == "compare" else []
        printed(capsys, verb, store.uri, *more, "-o", str(out), *asked, *baseline)
        text = re.sub(r"<!--\s*(.*?)\s*-->", r"\1", out.read_text())
        assert all(name in text for name in ("shift = 0.1", "No dropout", "LayerMagWeight (retrain.epochs=3)"))
        assert "rewound late" not in text
    assert main(["curves", store.uri, *EVERY, "--label", "no dropuot=x"]) == 2
    assert "--label: unknown arm 'no dropuot'; did you mean 'no dropout'?" in capsys.readouterr().err


def test_show_status_and_rm_name_the_arm(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    row = trials(store, arm="no dropout").iloc[0]
    shown = printed(capsys, "show", store.uri, row["trial_id"])
    assert re.search(r"^arm +no dropout$", shown, re.M)
    names = [line.split()[0] for line in shown.partition("\n\n")[0].splitlines()]
    assert (names[2], names[-1]) == ("arm", "spec")  # not below the spec, which fills a screen
    told = printed(capsys, "status", store.uri, "--by-arm")
    assert re.search(r"^labelled +no dropout +4 +4 +0", told, re.M)
    assert "no sweep wants" not in told
    assert main(["rm", store.uri, "--only", "arm=LayerMagWeight (retrain.epochs=3)"]) == 2  # nobody to ask
    asked = capsys.readouterr().out
    assert asked.count("LayerMagWeight (retrain.epochs=3)") == 4
    assert "to remove: 4 trials" in asked
    assert main(["rm", store.uri, "--only", "sweep=labelled", "--yes"]) == 2
    assert "say --sweep NAME, which leaves the trials that other sweeps want" in capsys.readouterr().err


def test_status_counts_the_trials_that_no_sweep_wants_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path / "store"))
    for seed in range(2):
        write_arm(store, trial("SNIP", of=dense(seed=seed)), "mine", 0.8)
    said = "2 completed trials that no sweep wants now; --sweep all shows them, too"
    assert said in printed(capsys, "status", store.uri)
    assert json.loads(printed(capsys, "status", store.uri, "--json")) == []


def test_one_figure_has_a_line_for_each_of_six_arms(store: Store) -> None:
    every = trials(store, arm=list(LABELLED))
    figure = plot_curves(curves(every))
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2}
    drawn = {name: line for name, line in lines.items() if name in LABELLED}
    assert set(drawn) == set(LABELLED)
    assert len({line.get_color() for line in drawn.values()}) == 6
    texts = {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}
    assert set(LABELLED) <= texts
    training = plot_training(training_curves(every, metrics(store)))
    assert [text.get_text() for text in training.legends[0].get_texts()] == sorted(LABELLED)


def test_an_arm_looks_the_same_in_all_figures_of_a_store(store: Store) -> None:
    with figure_options(arms=labels_of_store(store)):
        whole, blue = looks(ARMS), looks(["LayerMagWeight"])["LayerMagWeight"].color
        assert len({whole[arm].color for arm in ARMS}) == len(ARMS)
        assert {whole[arm].color for arm in LABELLED} < {color for color, _ in LOOKS.values()}  # which are far apart
        assert all(looks([arm])[arm] == whole[arm] for arm in LABELLED)
        assert looks(["LayerMagWeight", "late"])["LayerMagWeight"].color == blue
        assert {looks([arm])[arm].color for arm in EDITED} == {whole[EDITED[0]].color} == {blue}
        assert len({whole[arm].marker for arm in EDITED}) == len(EDITED)


def test_more_arms_than_colours_are_told_apart_by_brightness_and_marker() -> None:
    found = looks(f"arm {number}" for number in range(40))
    assert len({(look.color, look.marker) for look in found.values()}) == 40


def test_masks_are_drawn_by_arm(store: Store) -> None:
    rows, kept, pairs = trials(store), density(store), overlap(store)
    words = [text.get_text() for text in plot_overlap(pairs, rows).axes[0].get_yticklabels()]
    assert words == [*sorted(LABELLED)[:2], *EDITED, *sorted(LABELLED)[2:]] * 2
    assert {text.get_text() for text in plot_dead(kept, rows).legends[0].get_texts()} == {*ARMS, "by chance"}
    assert sum("other settings" in text.get_text() for text in plot_layers(pairs, rows).legends[0].get_texts()) == 1
    titles = {axes.get_title("left").split("\n")[0] for axes in plot_density(kept, rows).axes}
    assert titles >= ARMS


def test_the_report_is_by_arm(store: Store) -> None:
    page = report(store, "all", baseline="no dropout").text
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert set(data["facets"][0]["stages"]["retrained"]["lines"]) == ARMS
    assert set(data["looks"]) == {"Dense", *ARMS}
    assert {group["arm"] for group in data["layers"]} == ARMS
    assert {trial[2] for trial in data["overlaps"][0]["trials"]} == ARMS
    assert "accuracy against no dropout" in page
    assert "No arm is shown to beat no dropout yet" in page
    assert "9 arms" in page
    with pytest.raises(ValueError, match="unknown baseline 'no dropuot'; did you mean 'no dropout'"):
        report(store, "all", baseline="no dropuot")


def test_no_label_breaks_out_of_a_page_a_table_or_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "store"))
    for seed in range(2):
        write_arm(store, trial("SNIP", of=dense(seed=seed)), HOSTILE, 0.8)
        write_arm(store, trial(of=dense(seed=seed)), "_$x$", 0.8)
    assert "<b>" not in report(store, baseline=HOSTILE).text
    latex = printed(capsys, "table", store.uri, "--latex")
    assert r"{[}50\% \& $<$b$>$x\_1$|$y" in latex
    assert r"\[50% & \<b\>x_1\|y" in printed(capsys, "table", store.uri, "--markdown")
    figure = plot_curves(curves(trials(store)))
    figure.canvas.draw()
    assert r"_\$x\$" in {text.get_text().strip() for text in figure.axes[0].get_yticklabels()}
