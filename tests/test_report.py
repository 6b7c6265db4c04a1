"""The report's page: safe against hostile names, whole without a network, and working in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import PATH, Page, chromium
from rows import LAYERS, mask_rows, random_masks, trial

from deepcuts import cli
from deepcuts.page import element, page
from deepcuts.report import report
from deepcuts.store import Store

HOSTILE = "</script><img src=x onerror=\"console.error('broken out')\"><b>&amp;'`${1}"


def _filled(store: Store, seeds: int = 3, **fields: Any) -> Store:
    """Two strategies at two sparsities, the levels beside them, and one trial that failed."""
    number = 0
    for seed in range(seeds):
        for strategy in ("Dense", "Unpruned", "LayerMagWeight", "LayerSNIP"):
            for asked in (0.5, 0.9) if strategy.startswith("Layer") else (0.0,):
                number += 1
                value = 0.85 - 0.2 * asked + (0.02 if strategy == "LayerSNIP" else 0) + 0.01 * seed
                made = trial(f"{number:016x}", strategy, seed, sparsity_asked=asked, sparsity=asked, **fields)
                made |= {"total_seconds": 60.0, "finished_at": datetime(2026, 1, 2, tzinfo=UTC), "device": "cpu"}
                made |= {"retrained": None if strategy == "Dense" else value}
                _write(store, made, seed)
    failed = trial(f"{number + 1:016x}", "LayerSNIP", 9, status="failed", failure="trial", error_stage="retrain")
    failed |= {"error": HOSTILE, "traceback": f"Traceback: {HOSTILE}", "dense": None, "retrained": None, **fields}
    store.write("trials", failed["trial_id"], [failed | {"pruned": None, "rewound": None}])
    return store


def _write(store: Store, row: dict[str, Any], seed: int) -> None:
    key = row["trial_id"]
    stages = {name: row[name] for name in ("dense", "pruned", "rewound", "retrained") if row.get(name) is not None}
    store.write("metrics", key, [_metric(key, stage, value) for stage, value in stages.items()])
    if row["strategy"].startswith("Layer"):
        store.write("masks", key, mask_rows(key, random_masks(seed, 1 - row["sparsity"])))
    store.write("trials", key, [row])


def _metric(key: str, stage: str, value: float) -> dict[str, Any]:
    at = {"trial_id": key, "stage": stage, "epoch": 0, "step": 0, "split": "validation", "seconds": 0.0}
    return at | {"metric": "accuracy", "value": value}


def _data(text: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _filled(Store(str(tmp_path_factory.mktemp("filled") / "store")))


@pytest.fixture
def store(filled: Store, tmp_path: Path) -> Store:
    """A copy of the store, to be changed."""
    return Store(str(shutil.copytree(filled.root, tmp_path / "store")))


# The page, without a browser


def test_text_and_attributes_are_always_escaped() -> None:
    made = element("p", HOSTILE, title=HOSTILE)
    assert "<img" not in made
    assert made.count('"') == 2
    assert element("div", element("br"), None, "<") == "<div><br>&lt;</div>"


def test_no_string_of_the_data_can_end_its_script() -> None:
    text = page(HOSTILE, element("p", HOSTILE), {"hostile": [HOSTILE, "<!--", "\u2028"]})
    assert _data(text)["hostile"] == [HOSTILE, "<!--", "\u2028"]
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "<!--" not in text


def test_the_page_loads_nothing_and_its_policy_admits_only_its_own_script(store: Store) -> None:
    text, damaged = report(store)
    assert damaged == {}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'; img-src data:;.*", unescape(policy[1])
    )
    assert not re.search(r'(src|href)="(?!#)', text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|innerHTML|eval|import)\b\(", text)


def test_the_page_says_what_ran_what_failed_and_how_to_repeat_it(store: Store) -> None:
    store.write_bytes("sweeps/first.yaml", b"name: first\nmodel: tiny\n")
    text, _ = report(store)
    for words in ("18 of 19 trials completed", "not enough seeds to tell", "model: tiny", "1 trial, stage retrain"):
        assert words in text, words
    assert f"deepcuts run first.yaml --store {store.uri}" in text
    assert f"deepcuts run-one {store.uri} {19:016x}" in text


def test_curves_and_overlap_of_the_page_are_those_of_the_store(store: Store) -> None:
    from deepcuts.overlap import overlap

    data = _data(report(store)[0])
    (facet,) = data["facets"]
    points = facet["stages"]["retrained"]["lines"]["LayerSNIP"]
    assert [point[0] for point in points] == [0.5, 0.9]
    assert points[0][3] == pytest.approx(np.mean([0.77, 0.78, 0.79]))
    (found,) = data["overlaps"]
    frame = overlap(store)
    kappa = frame["kappa"].to_numpy()
    packed = np.frombuffer(base64.b64decode(found["values"]), "<u2").reshape(len(frame), 5)
    assert len(found["layers"]) == len(LAYERS)
    chosen = [tuple(found["trials"][place][0] for place in pair) for pair in found["pairs"]]
    whole = {tuple(sorted(pair)): row for row, pair in enumerate(chosen)}
    stride = len(LAYERS) + 1
    for row in range(0, len(frame), stride):
        pair = tuple(sorted((frame["trial_a"][row], frame["trial_b"][row])))
        assert packed[whole[pair] * stride, 4] / 65534 * 2 - 1 == pytest.approx(kappa[row], abs=1e-4)


def test_mixed_settings_are_shown_sweep_by_sweep(store: Store) -> None:
    again = trial(f"{99:016x}", "LayerSNIP", 0, sparsity_asked=0.5, sparsity=0.5, sweep="second", retrained=0.5)
    _write(store, again, 0)
    data = _data(report(store)[0])
    assert {facet["set"] for facet in data["facets"]} == {"first", "second"}


def test_one_trial_two_models_and_missing_masks_make_a_page_with_the_reasons(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "one"))
    _write(store, trial("a" * 16, "LayerSNIP", 0, finished_at=datetime(2026, 1, 2, tzinfo=UTC)), 0)
    text, _ = report(store)
    assert "overlap needs the masks of two trials" in text
    store.delete(f"masks/{'a' * 16}.parquet")
    store.write("trials", "b" * 16, [trial("b" * 16, "Dense", 0, model="other")])
    text, _ = report(store)
    assert "2 of 2 trials completed" in text


def test_an_empty_store_an_unknown_baseline_and_an_absent_folder_exit_2(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "report.html")
    assert cli.main(["report", str(tmp_path / "nothing"), "-o", out]) == 2
    assert cli.main(["report", store.uri, "-o", out, "--baseline", "LayerNope"]) == 2
    assert cli.main(["report", store.uri, "-o", str(tmp_path / "no" / "report.html")]) == 2
    assert not Path(out).exists()
    assert cli.main(["report", store.uri, "-o", out, "--baseline", "LayerSNIP"]) == 0
    assert "wrote" in capsys.readouterr().out


def test_a_damaged_file_is_named_on_the_page_and_exits_1(store: Store, tmp_path: Path) -> None:
    Path(store.path("trials", "broken.parquet")).write_bytes(b"no parquet")
    out = tmp_path / "report.html"
    assert cli.main(["report", store.uri, "-o", str(out)]) == 1
    assert "broken.parquet" in out.read_text()


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if PATH is None:
        pytest.skip("no chromium is installed; on Debian: apt-get install chromium")
    with chromium() as opened:
        yield opened


def _open(browser: Page, tmp_path: Path, store: Store) -> Page:
    out = tmp_path / "report.html"
    out.write_text(report(store)[0], "utf-8")
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
    assert said.startswith("sparsity 50 %: LayerSNIP 0.780 ± ")
    browser.key("ArrowRight")
    assert "90 %" in browser.run("document.querySelector('#curve-said').textContent")
    assert browser.run("!document.querySelector('#tip').hidden")


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
    column = "[...document.querySelectorAll('#trial-table tbody tr')].map((row) => row.cells[9].textContent)"
    assert browser.run(column) == ["0.710", "0.700", "0.690"]
    sorts = "document.querySelector('#trial-table [data-column=retrained]').parentElement.getAttribute('aria-sort')"
    assert browser.run(sorts) == "descending"
    browser.run("document.querySelector('#trial-table .id').focus()")
    browser.key("Enter")
    assert "deepcuts show" in browser.run("document.querySelector('#trial-table .more').textContent")
    assert browser.run("document.activeElement.className") == "id"


def test_hostile_names_are_shown_and_do_nothing(browser: Page, tmp_path: Path) -> None:
    store = _filled(Store(str(tmp_path / "store")), dataset=HOSTILE, sweep=HOSTILE, model=HOSTILE, device=HOSTILE)
    odd = trial("f" * 16, f"Layer{HOSTILE}", 0, sweep=HOSTILE, model=HOSTILE, dataset=HOSTILE, sparsity=0.5)
    _write(store, odd, 0)
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
