"""The report in a real browser: it draws, its controls work, hostile names do nothing, it fits and prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from builders import specs
from builders.chromium import PATH, Page, chromium
from builders.filled_store import HOSTILE, filled_store, write_trial
from builders.rows import LAYERS, row_of, trial

from deepcuts.experiment.settings import Training
from deepcuts.publish.report import report
from deepcuts.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled_store(Store(str(tmp_path_factory.mktemp("filled") / "store")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if PATH is None:
        pytest.skip("no chromium is installed; on Debian: apt-get install chromium")
    with chromium() as opened:
        yield opened


@lru_cache
def _text(uri: str) -> str:
    """The page of a store that no test changes."""
    return report(Store(uri)).text


def _open(browser: Page, tmp_path: Path, store: Store) -> Page:
    out = tmp_path / "report.html"
    out.write_text(_text(store.uri), "utf-8")
    browser.said.clear()
    browser.requested.clear()
    browser.look()
    browser.open(out)
    return browser


def _choose(browser: Page, form: str, label: str, value: str) -> None:
    """Choose an option of a menu as a person does: the value, then its change event."""
    script = """(([form, label, value]) => {
      const of = [...document.querySelectorAll(`#${form} label`)].find((each) => each.textContent.startsWith(label));
      const control = of.querySelector('select,input');
      control.value = value;
      control.dispatchEvent(new Event(control.type === 'search' ? 'input' : 'change', { bubbles: true }));
    })"""
    browser.run(f"{script}({json.dumps([form, label, value])})")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders_without_a_word_on_the_console_and_asks_for_nothing_else(
    browser: Page, tmp_path: Path, store: Store, scheme: str
) -> None:
    browser = _open(browser, tmp_path, store)
    browser.look(scheme=scheme)
    assert browser.said == []
    assert [url.rsplit("/", 1)[-1] for url in browser.requested] == ["report.html"]
    assert browser.run("document.querySelectorAll('#curve-chart .curve').length") == 2
    assert browser.run("document.querySelectorAll('#overlap-layers td.cell').length") == len(LAYERS)
    assert browser.run("document.querySelectorAll('#trial-table tbody tr').length") == 19


@pytest.mark.parametrize(("scheme", "inverted"), [("light", False), ("dark", True)])
def test_a_still_figure_is_dark_on_a_dark_page(
    browser: Page, tmp_path: Path, store: Store, scheme: str, inverted: bool
) -> None:
    """An image brings its own colours, black on white, into the page."""
    browser = _open(browser, tmp_path, store)
    browser.look(scheme=scheme)
    browser.run("document.body.appendChild(document.createElement('figure')).appendChild(new Image()).id = 'still'")
    shown = browser.run("getComputedStyle(document.querySelector('#still')).filter")
    assert shown.startswith("invert(") == inverted


def test_the_controls_of_the_curves_work(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    text = "document.querySelector('#curve-chart').textContent"
    before = browser.run(text)
    _choose(browser, "curve-controls", "Scale", "log")
    _choose(browser, "curve-controls", "Across", "compression")
    assert "compression" in browser.run(text)
    _choose(browser, "curve-controls", "Network", "pruned")
    assert browser.run(text) != before
    browser.run("document.querySelector('#curve-legend .chip').click()")
    assert browser.run("document.querySelectorAll('#curve-chart .curve').length") == 1
    assert browser.run("document.querySelector('#curve-legend .chip').getAttribute('aria-pressed')") == "false"
    assert browser.said == []


def test_the_curves_are_read_out_by_the_arrow_keys(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    browser.run("document.querySelector('#curve-chart svg').focus()")
    browser.key("ArrowRight")
    said = browser.run("document.querySelector('#curve-said').textContent")
    assert said.startswith("sparsity 50 %: LayerSNIP 0.780 (0.")
    browser.key("ArrowRight")
    assert "90 %" in browser.run("document.querySelector('#curve-said').textContent")
    assert browser.run("!document.querySelector('#tip').hidden")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_first_screen_says_who_wins_where_and_shows_the_curve(
    browser: Page, tmp_path: Path, store: Store, width: int, height: int
) -> None:
    browser = _open(browser, tmp_path, store)
    browser.look(width=width, height=height)
    sentence = browser.run("document.querySelector('.lead').textContent")
    assert sentence.startswith("No arm is shown to beat LayerMagWeight yet: 3 seeds cannot tell; the highest mean")
    assert browser.run("document.querySelector('#curve-chart').getBoundingClientRect().bottom") <= height


def test_two_seeds_are_dots_and_not_an_interval(browser: Page, tmp_path: Path) -> None:
    browser = _open(browser, tmp_path, filled_store(Store(str(tmp_path / "two")), seeds=2))
    assert browser.run("document.querySelectorAll('#curve-chart .seed').length") == 2 * 2 * 2
    assert browser.run("document.querySelectorAll('#curve-chart .band').length") == 0
    browser.run("document.querySelector('#curve-chart svg').focus()")
    browser.key("ArrowRight")
    assert "LayerSNIP 0.775 (0.770, 0.780)" in browser.run("document.querySelector('#curve-said').textContent")
    assert browser.run("document.querySelector('#curve-table tbody tr').cells[4].textContent") == "–"
    assert browser.run("document.querySelectorAll('.forest .interval').length") == 0
    assert browser.run("document.querySelectorAll('.forest .seed').length") == 2 * 2


def test_the_axes_of_curves_that_do_not_move_have_numbers_each_once(browser: Page, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "flat"))
    for number in range(2):
        write_trial(store, trial(f"{number:016x}", "LayerSNIP", number, dense=0.5, retrained=0.5), number)
        rows = store.read("metrics", where=ds.field("trial_id") == f"{number:016x}").table.to_pylist()
        later = [row | {"epoch": 1, "step": 9} for row in rows if row["stage"] == "retrained"]
        store.write("metrics", f"{number:016x}", rows + later)
    _open(browser, tmp_path, store)
    for chart in ("curve-chart", "training-chart"):
        found = browser.run(
            f"[...document.querySelectorAll('#{chart} text[text-anchor=end]')].map((e) => e.textContent)"
        )
        ticks = [text for text in found if re.fullmatch(r"[0-9.]+", text)]
        assert len(ticks) == len(set(ticks)) > 2, found


def test_at_a_single_level_arms_stand_beside_each_other(browser: Page, tmp_path: Path, store: Store) -> None:
    out = tmp_path / "level.html"
    out.write_text(report(store, only={"sparsity_asked": ["0", "0.5"]}).text, "utf-8")
    browser.open(out)
    marks = "[...document.querySelectorAll('#curve-chart .mark')]"
    places = browser.run(f"{marks}.map((each) => each.getAttribute('transform').split(/[(,]/)[1])")
    assert len(places) == len(set(places)) == 2


def test_a_link_opens_the_same_view_again(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    assert browser.run("location.hash") == ""
    _choose(browser, "curve-controls", "Network", "pruned")
    _choose(browser, "curve-controls", "Across", "compression")
    browser.run("document.querySelector('#curve-legend .chip').click()")
    _choose(browser, "overlap-controls", "Another", "7")
    _choose(browser, "layer-controls", "Share", "neurons")
    _choose(browser, "trial-controls", "Search", "layersnip 90 %")
    browser.run("document.querySelector('#trial-table [data-column=retrained]').click()")
    browser.run("document.querySelector('#trial-table [data-column=retrained]').click()")
    browser.run("document.querySelector('#trial-table .id').click()")
    browser.run("document.querySelector('nav a[href=\"#trials\"]').click()")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    shown = "document.querySelector('main').innerText"
    before, fragment = browser.run(shown), browser.run("location.hash")
    assert fragment.startswith("#trials?")
    browser.open(tmp_path / "report.html", fragment)
    assert browser.run(shown) == before
    assert browser.run("location.hash") == fragment
    assert browser.run("scrollY") > 500
    nonsense = "#trials?sort=nothing&open=%5Bx&task=none&pair=a,b&layers=x&counted=y&stage=z&network=w"
    browser.open(tmp_path / "report.html", nonsense)
    assert browser.run("document.querySelectorAll('#trial-table tbody tr').length") == 19
    assert browser.said == []


def test_a_trial_shows_its_training_and_its_settings(browser: Page, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "trained"))
    for epochs in (2, 3):
        spec = specs.trial(retrain=Training(epochs=epochs))
        write_trial(store, row_of(spec), 0)
        rows = [
            {"trial_id": spec.trial_id, "stage": stage, "epoch": epoch, "step": 10 * (epoch + 1), "seconds": 0.0}
            | {"split": split, "metric": metric, "value": 0.5 + 0.1 * epoch}
            for stage in ("dense", "retrained")
            for epoch in range(epochs)
            for split, metric in (("validation", "accuracy"), ("train", "loss"))
        ]
        store.write("metrics", spec.trial_id, rows)
    browser = _open(browser, tmp_path, store)
    assert browser.run("document.querySelectorAll('#training-chart .curve').length") >= 2
    browser.run("document.querySelector('#trial-table .id').click()")
    assert browser.run("document.querySelectorAll('.more .chart').length") == 4
    more = browser.run("document.querySelector('.more').innerText")
    assert "accuracy on validation during retraining" in more
    assert browser.run("document.querySelector('.more dt strong').textContent") == "retrain.epochs"
    assert "retrain.batch_size" in more
    assert browser.said == []


def test_a_narrow_window_shows_arm_level_and_retrained_first(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    browser.look(width=390, height=844)
    heads = "[...document.querySelectorAll('#trial-table th')]"
    places = browser.run(f"{heads}.map((each) => [each.textContent, each.getBoundingClientRect().right])")
    shown = [name for name, right in places if right <= 390]
    assert shown[:3] == ["arm", "pruned to", "retrained"]


def test_two_trials_can_be_chosen_and_their_layers_seen(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    words = "document.querySelector('#overlap-said').textContent"
    before = browser.run(words)
    _choose(browser, "overlap-controls", "Another", "7")
    assert browser.run(words) != before
    _choose(browser, "overlap-controls", "Measure", "kept_iou")
    assert "chance" in browser.run("document.querySelector('#overlap-layers td.cell').textContent")
    _choose(browser, "overlap-controls", "Another", "0")
    assert "same trial" in browser.run("document.querySelector('#overlap-layers').textContent")
    click = "document.querySelectorAll('.matrix rect')[3].dispatchEvent(new Event('click'))"
    browser.run(click)
    assert browser.run(words).startswith("Whole network: kappa ")
    assert browser.said == []


def test_trials_are_searched_sorted_and_opened_by_keyboard(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    _choose(browser, "trial-controls", "Search", "layersnip 90 %")
    assert browser.run("document.querySelectorAll('#trial-table tbody tr').length") == 3
    browser.run("document.querySelector('#trial-table [data-column=retrained]').focus()")
    browser.key("Enter")
    browser.key("Enter")
    column = "[...document.querySelectorAll('#trial-table tbody tr')].map((row) => row.cells[2].textContent)"
    assert browser.run(column) == ["0.710", "0.700", "0.690"]
    sorts = "document.querySelector('#trial-table [data-column=retrained]').parentElement.getAttribute('aria-sort')"
    assert browser.run(sorts) == "descending"
    browser.run("document.querySelector('#trial-table .id').focus()")
    browser.key("Enter")
    assert "deepcuts show" in browser.run("document.querySelector('#trial-table .more').textContent")
    assert browser.run("document.activeElement.className") == "id"


def test_hostile_names_are_shown_and_do_nothing(browser: Page, tmp_path: Path) -> None:
    store = filled_store(Store(str(tmp_path / "store")), dataset=HOSTILE, sweep=HOSTILE, model=HOSTILE, device=HOSTILE)
    odd = trial("f" * 16, f"Layer{HOSTILE}", 0, sweep=HOSTILE, model=HOSTILE, dataset=HOSTILE, sparsity=0.5)
    write_trial(store, odd, 0)
    browser = _open(browser, tmp_path, store)
    _choose(browser, "trial-controls", "Search", "onerror")
    browser.run("document.querySelector('#trial-table .id').click()")
    browser.run("document.querySelector('#curve-chart svg').focus()")
    browser.key("ArrowRight")
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.run("document.querySelectorAll('img, b img, body > b').length") == 0
    assert HOSTILE in browser.run("document.querySelector('#tip').textContent")
    assert browser.said == []
    assert len(browser.requested) == 1


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Page, tmp_path: Path, store: Store, width: int) -> None:
    browser = _open(browser, tmp_path, store)
    browser.look(width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_every_control_and_table_has_a_name(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "combobox", "searchbox", "checkbox", "table", "link", "region", "form", "navigation")
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"] and node["role"]["value"] in roles and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_it_prints_to_a_few_pages(browser: Page, tmp_path: Path, store: Store) -> None:
    browser = _open(browser, tmp_path, store)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    assert browser.run("document.querySelector('#verdicts details').open") is False
