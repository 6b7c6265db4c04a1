"""The report's section over datasets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders.many_datasets import many_datasets, noisy
from builders.rows import write_trial

from deepcuts.publish.report import report
from deepcuts.records import records
from deepcuts.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(str(tmp_path_factory.mktemp("over") / "store"))
    for row in records(many_datasets(noisy(0), datasets=2)):
        write_trial(made, row)
    return made


def test_a_store_of_two_datasets_has_the_section_with_table_words_and_figure(store: Store) -> None:
    text = report(store).text
    (found,) = re.findall(r'<section id="over".*?</section>', text, re.DOTALL)
    assert '<a href="#over">Over datasets</a>' in text
    assert "P(better than LayerMagWeight)" in found
    assert "2 datasets (data0, data1), seeds 0, 1, 2; 2 datasets cannot decide about ranks" in found
    assert "LayerSNIP against LayerMagWeight on 2 datasets at 4x: undecided" in found
    assert '<img src="data:image/svg+xml;base64,' in found


def test_one_dataset_has_no_section_and_two_that_are_not_complete_say_why(store: Store) -> None:
    text = report(store, only={"dataset": ["data0"]}).text
    assert 'id="over"' not in text
    assert "over datasets" not in text
    assert 'id="over"' not in report(store, only={"strategy": ["LayerSNIP"], "seed": ["0"], "dataset": ["data1"]}).text


def test_two_datasets_that_are_not_complete_have_a_note(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    for row in records(many_datasets(noisy(0), datasets=2)):
        if (row["dataset"] == "data0") == (row["strategy"] == "LayerSNIP"):
            write_trial(store, row)
    text = report(store).text
    assert 'id="over"' not in text
    assert "over datasets: no level has two datasets" in text
