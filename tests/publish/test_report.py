"""The report's page: what is on it, and that no name of a store can break out of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.filled_store import HOSTILE, filled_store, write_trial
from builders.rows import LAYERS, mask_rows, random_masks, trial
from markupsafe import escape

from deepcuts.cli.main import main
from deepcuts.publish.html import element, html_page
from deepcuts.publish.report import report
from deepcuts.publish.webdata import choose
from deepcuts.store.store import Store


def _data(text: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled_store(Store(str(tmp_path_factory.mktemp("filled") / "store")))


@pytest.fixture
def store(filled: Store, tmp_path: Path) -> Store:
    """A copy of the store, to be changed."""
    return Store(str(shutil.copytree(filled.root, tmp_path / "store")))


def test_text_and_attributes_are_always_escaped() -> None:
    made = element("p", HOSTILE, title=HOSTILE)
    assert "<img" not in made
    assert made.count('"') == 2
    assert element("div", element("br"), None, "<") == "<div><br>&lt;</div>"


def test_no_string_of_the_data_can_end_its_script() -> None:
    text = html_page(HOSTILE, element("p", HOSTILE), {"hostile": [HOSTILE, "<!--", "\u2028"]})
    assert _data(text)["hostile"] == [HOSTILE, "<!--", "\u2028"]
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "<!--" not in text


def test_the_page_loads_nothing_and_its_policy_admits_only_its_own_script(store: Store) -> None:
    made = report(store)
    text = made.text
    assert made.damaged == {}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'; img-src data:;.*", unescape(policy[1])
    )
    assert not re.search(r'(src|href)="(?!#)', text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|innerHTML|eval|import)\b\(", text)


def test_the_page_says_what_ran_what_failed_and_how_to_repeat_it(store: Store) -> None:
    store.write_bytes("sweeps/first.yaml", b"name: first\nmodel: tiny\n")
    text = report(store).text
    for words in ("18 of 19 trials completed", "not enough seeds to tell", "model: tiny", "1 trial, stage retrain"):
        assert words in text, words
    assert f"deepcuts run first.yaml --store {store.uri}" in text
    assert f"deepcuts run-one {store.uri} {19:016x}" in text


def test_the_page_has_the_facts_of_the_data(tmp_path: Path) -> None:
    counts = {"empty": 0, "repeated": 3, "in_train": None, "contradictory": 1, "truncated": 2, "values": None}
    train = {"examples": 1000, "labels": {HOSTILE: 600, "good": 400, "other": 0}, **counts}
    validation = train | {"examples": 40, "labels": {HOSTILE: 30, "good": 10, "other": 0}, "in_train": 4}
    facts = json.dumps({"train": train, "validation": validation})
    text = report(filled_store(Store(str(tmp_path / "one")), 1, data_facts=facts, majority=0.75)).text
    table = re.search(r"<table><caption>Labels and texts.*?</table>", text, re.DOTALL)
    assert table
    rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in table[0].split("<tr>")[2:]]
    name = str(escape(HOSTILE))
    assert rows[0] == ["toy", "train", "1,000", f"600 of {name}, 400 of good, none of other", "0", "3 (0.3%)", "–"] + [
        *("1 (0.1%)", "2 (0.2%)", "–")
    ]
    assert rows[1][2:4] == ["40", f"30 of {name}, 10 of good, none of other"]
    assert rows[1][6:] == ["4 (10.0%)", "1 (2.5%)", "2 (5.0%)", "accuracy 0.750"]
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    split = f"validation is 20 % of {HOSTILE}.csv, data_seed 0"
    told = report(filled_store(Store(str(tmp_path / "three")), 1, data_facts=facts, data_split=split)).text
    assert f"toy: {escape(split)}." in told
    older = report(filled_store(Store(str(tmp_path / "two")), 1)).text
    assert "These trials do not record facts of their data" in older


def test_curves_and_overlap_of_the_page_are_those_of_the_store(store: Store) -> None:
    from deepcuts.analysis.overlap import overlap

    data = _data(report(store).text)
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


def test_the_page_says_which_masks_it_leaves_out_and_how_to_see_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("deepcuts.publish.webdata.choose", lambda trials: choose(trials, 4))
    text = unescape(report(store).text)
    assert "The masks of 4 of 12 trials are compared here: two seeds of every arm first" in text
    assert f"deepcuts report {store.uri} --only dataset=NAME" in text
    out = tmp_path / "report.html"
    assert main(["report", store.uri, "-o", str(out), "--only", "seed=1,sparsity=0.9"]) == 0
    data = _data(out.read_text("utf-8"))
    assert [row[data["trials"]["columns"].index("strategy")] for row in data["trials"]["rows"]] == [
        *("LayerMagWeight", "LayerSNIP")
    ]
    assert len(data["overlaps"][0]["pairs"]) == 1
    page = unescape(out.read_text("utf-8"))
    assert "only seed=1,sparsity=0.9</h1>" in page
    assert f"deepcuts report {store.uri} --only seed=1,sparsity=0.9 -o report.html" in page
    assert "are compared here" not in out.read_text("utf-8")
    assert main(["report", store.uri, "-o", str(out), "--only", "sed=1"]) == 2
    assert main(["report", store.uri, "-o", str(out), "--only", "seed=77"]) == 2


def test_mixed_settings_are_lines_of_their_own_on_one_page(store: Store) -> None:
    again = trial(f"{99:016x}", "LayerSNIP", 0, sparsity_asked=0.5, sparsity=0.5, sweep="second", retrained=0.5)
    write_trial(store, again | {"finished_at": datetime(2020, 1, 1, tzinfo=UTC)}, 0)
    text = report(store).text
    data = _data(text)
    older = "LayerSNIP (code=older)"
    assert {older, "LayerSNIP", "LayerMagWeight"} <= set(data["looks"])
    lines = next(facet for facet in data["facets"] if facet["main"])["stages"]["retrained"]["lines"]
    assert [point[6] for point in lines[older]] == [[0.5]]
    assert 0.5 not in lines["LayerSNIP"][0][6]
    assert f"{older} " in text
    assert older in {row[data["trials"]["columns"].index("arm")] for row in data["trials"]["rows"]}


def test_one_trial_two_models_and_missing_masks_make_a_page_with_the_reasons(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "one"))
    write_trial(store, trial("a" * 16, "LayerSNIP", 0, finished_at=datetime(2026, 1, 2, tzinfo=UTC)), 0)
    text = report(store).text
    assert "overlap needs the masks of two trials" in text
    assert "Warnings" not in text
    masks = random_masks(0)
    masks[next(iter(masks))][:] = False
    store.write("masks", "a" * 16, mask_rows("a" * 16, masks))
    assert f"LayerSNIP 50 % on toy: no weight is left of {'.'.join(next(iter(masks)))}" in report(store).text
    store.delete(f"masks/{'a' * 16}.parquet")
    store.write("trials", "b" * 16, [trial("b" * 16, "Dense", 0, model="other")])
    text = report(store).text
    assert "2 of 2 trials completed" in text


def test_the_page_says_what_is_left_to_run_and_of_which_sweeps_and_baseline_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    for number, name in enumerate(("a", "b", "c", "d", "run-one")):
        write_trial(store, trial(f"{number:016x}", "LayerSNIP", number, sweep=name), 0)
        wanted = [(number, False), (50 + number, False), (99, True)]
        rows = [
            {"sweep": name, "strategy": "LayerSNIP", "trial_id": f"{key:016x}", "step": step} for key, step in wanted
        ]
        if name != "run-one":
            store.write("sweeps", name, rows)
    text = unescape(report(store, sweep="all", baseline="LayerSNIP").text)
    assert "<h1>a, b, c and 2 more</h1>" in text
    assert "4 trials more are wanted and not run yet" in text
    assert "run-one.yaml" not in text
    assert f"deepcuts report {store.uri} --baseline LayerSNIP -o report.html" in text
    text = unescape(report(store, sweep="b").text)
    assert "1 trial more is wanted and not run yet" in text
    text = unescape(report(store, only={"seed": "3"}).text)
    assert "not run yet" not in text
    assert f"deepcuts table {store.uri} --sweep d --only seed=3" in text


def test_one_failure_and_one_comparison_are_said_as_one(filled: Store) -> None:
    text = report(filled, only={"seed": ["0", "9"], "sparsity": "0.5"}).text
    assert "<p>1 trial failed.</p>" in text
    assert "<p>1 comparison after retraining" in text


def test_of_networks_that_are_not_pruned_the_page_has_no_level(filled: Store) -> None:
    table = _data(report(filled).text)["trials"]
    places = [table["columns"].index(name) for name in ("strategy", "compression", "sparsity_asked")]
    levels = {tuple(row[place] for place in places) for row in table["rows"]}
    assert levels == {("Dense", None, None), ("Unpruned", None, None)} | {
        (name, None, asked) for name in ("LayerMagWeight", "LayerSNIP") for asked in (0.5, 0.9)
    }


def test_an_empty_store_an_unknown_baseline_and_an_absent_folder_exit_2(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "report.html")
    assert main(["report", str(tmp_path / "nothing"), "-o", out]) == 2
    assert main(["report", store.uri, "-o", out, "--baseline", "LayerNope"]) == 2
    assert main(["report", store.uri, "-o", str(tmp_path / "no" / "report.html")]) == 2
    assert not Path(out).exists()
    assert main(["report", store.uri, "-o", out, "--baseline", "LayerSNIP"]) == 0
    assert "wrote" in capsys.readouterr().out


def test_a_report_is_saved_as_it_is_and_says_what_it_lacks(store: Store, tmp_path: Path) -> None:
    Path(store.path("trials", "broken.parquet")).write_bytes(b"no parquet")
    made = report(store, sweep="first", baseline="LayerSNIP", only={"seed": "1"})
    made.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == made.text
    assert [Path(path).name for path in made.damaged] == ["broken.parquet"]
    with pytest.raises(ValueError, match="unknown baseline 'LayerSNPI'; did you mean 'LayerSNIP'"):
        report(store, baseline="LayerSNPI")


def test_a_damaged_file_is_named_on_the_page_and_exits_1(store: Store, tmp_path: Path) -> None:
    Path(store.path("trials", "broken.parquet")).write_bytes(b"no parquet")
    out = tmp_path / "report.html"
    assert main(["report", store.uri, "-o", str(out)]) == 1
    assert "broken.parquet" in out.read_text()
