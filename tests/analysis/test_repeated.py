"""The same trials in files of their own and in two compacted ones: every view counts each trial once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from builders.whole_trials import sweep_of, whole_trial

from deepcuts.analysis.compare import compare
from deepcuts.analysis.curves import best_epoch, curves, table, training_curves
from deepcuts.analysis.density import density
from deepcuts.analysis.examples import compare_trials
from deepcuts.analysis.frames import mask_counts, metrics, query, show, status, trials
from deepcuts.analysis.overlap import overlap, overlap_and_density
from deepcuts.analysis.pairs import nested
from deepcuts.cli.main import main
from deepcuts.publish.export import _rows_of
from deepcuts.store.cache import shared_stages
from deepcuts.store.checksums import seal_text
from deepcuts.store.doctor import examine_store
from deepcuts.store.masks import masks
from deepcuts.store.store import SCHEMAS, Store

KEYS = [letter * 16 for letter in "abcdef"]


def fill(store: Store) -> Store:
    for number, key in enumerate(KEYS):
        strategy = "LayerMagWeight" if number < 3 else "LayerSNIP"
        whole_trial(store, key, number % 3, masks=number, strategy=strategy)
    sweep_of(store, KEYS)
    store.write_bytes("sweeps/first.yaml", seal_text("name: first\n"))
    return store


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(Store(str(tmp_path_factory.mktemp("once"))))


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same trials, some of them in one, two or three files; what does not count has other rows."""
    store = Store(str(tmp_path_factory.mktemp("twice")))
    for number, key in enumerate(KEYS):
        whole_trial(store, key, 9, masks=50 + number, strategy="LayerRandom", retrained=0.1)
    every = {name: store.read(name).table.to_pylist() for name in SCHEMAS if name != "sweeps"}
    fill(store)
    for name, stale in every.items():
        now = store.read(name).table.to_pylist()
        later = [row for row in now if row["trial_id"] in KEYS[2:]] + [r for r in stale if r["trial_id"] in KEYS[:1]]
        store.write(name, "compact-ffffffffffffffff", stale)
        store.write(name, "compact-000001-0000000000000000", stale)
        store.write(name, "compact-000002-0000000000000000", later)
        for key in KEYS[3:]:
            store.delete(f"{name}/{key}.parquet")
    return store


VIEWS: dict[str, Callable[[Store], Any]] = {
    "trials": trials,
    "trials by a filter": lambda store: trials(store, strategy="LayerRandom"),
    "trials of a sweep": lambda store: trials(store, sweep="first"),
    "metrics": metrics,
    "masks": mask_counts,
    "bits": lambda store: {key: {name: mask.tolist() for name, mask in masks(store, key).items()} for key in KEYS},
    "predictions": lambda store: query(store, "FROM predictions ORDER BY ALL"),
    "SQL over all tables": lambda store: query(
        store,
        "SELECT trial_id, strategy, count(DISTINCT stage) s, sum(value) v, (SELECT sum(kept) FROM masks m WHERE"
        " m.trial_id = t.trial_id) k FROM trials t JOIN metrics USING (trial_id) GROUP BY ALL ORDER BY ALL",
    ),
    "status": status,
    "show": lambda store: pd.concat(show(store, key) for key in KEYS),
    "statuses": Store.statuses,
    "iou": overlap,
    "iou and density": lambda store: pd.concat(overlap_and_density(store)),
    "density": density,
    "table": lambda store: table(trials(store)),
    "curves": lambda store: curves(trials(store)),
    "training curves": lambda store: training_curves(trials(store), metrics(store)),
    "best epochs": lambda store: best_epoch(trials(store), metrics(store)),
    "compare": lambda store: compare(trials(store)),
    "examples": lambda store: compare_trials(store, KEYS[0], KEYS[4]),
    "nested": lambda store: nested(overlap(store), trials(store), mask_counts(store)),
    "what export reads": lambda store: [_rows_of(store, name, key) for name in ("masks", "metrics") for key in KEYS],
    "cache": shared_stages,
    "doctor": lambda store: [each for each in examine_store(store, busy=False) if each.mend != "none"],
}


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, pd.DataFrame):
        order = list(expected.columns)
        frames = [
            frame.sort_values(order, key=lambda column: column.map(repr)).reset_index(drop=True)
            for frame in (found, expected)
        ]
        pd.testing.assert_frame_equal(*frames)
    else:
        assert found == expected


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_counts_a_trial_once_that_is_in_several_files(once: Store, twice: Store, view: str) -> None:
    same(VIEWS[view](twice), VIEWS[view](once))


@pytest.mark.parametrize("verb", ["table", "status", "iou", "compare", "curves"])
def test_the_command_line_says_the_same(
    once: Store, twice: Store, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for store in (once, twice):
        assert main([verb, store.root, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
