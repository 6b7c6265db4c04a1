"""Small sweeps on the embedded dataset and network, run without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.reading import read_sweep_file
from deepcuts.experiment.sharing import shared
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.store.store import Store
from deepcuts.sweep.launch import _write_sweep
from deepcuts.sweep.plan import make_plan
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.trial.context import Context
from deepcuts.trial.trial import run_stages

KEYS: dict[str, Any] = {
    "name": "small",
    "model": "toy",
    "datasets": ["toy"],
    "strategies": ["LayerMagWeight", "LayerGradCAM"],
    "sparsities": [0.5],
    "max_tokens": 32,
    "max_train_examples": 64,
    "finetune": {"epochs": 1, "batch_size": 32, "lr": 1e-3},
    "retrain": {"epochs": 1},
    "scoring": {"batches": 2, "smooth_batches": 1},
    "resources": {"gpus": 0, "cpus": 1},
}
SWEEP = yaml.safe_dump(KEYS, sort_keys=False)


def toy_sweep(**changes: Any) -> SweepSpec:
    """The three trials of KEYS (Dense, and one for each strategy), with some keys changed."""
    return prepare_sweep(SweepFile(**(KEYS | changes)), "cpu").spec


def run_missing(store: Store, spec: SweepSpec | None = None) -> int:
    """Run in this process every trial that the store lacks, one after the other; return how many there were."""
    spec = spec or toy_sweep()
    trials = spec.trials()
    missing, together = make_plan(trials, store).to_run, shared(trials)
    for trial in missing:
        kept = trial.trial_id in together.networks
        run_stages(trial, spec.name, Context(store, 1, partners=together.partners(trial), keep_network=kept))
    return len(missing)


def run_file(sweep: str | Path, folder: str | Path) -> Store:
    """Run a sweep file into a store, which then also holds the sweep, as after a launch."""
    spec, store = prepare_sweep(read_sweep_file(Path(sweep)), "cpu").spec, Store(str(folder))
    _write_sweep(store, spec)
    run_missing(store, spec)
    assert not make_plan(spec.trials(), store).to_run
    return store


def numbers(store: Store) -> dict[str, list[dict[str, object]]]:
    """What a store's trials found, without times, in an order that does not depend on who ran what."""
    found = {}
    for table in ("masks", "metrics", "predictions"):
        rows = store.read(table).table.to_pylist()
        found[table] = sorted(({key: row[key] for key in row if key != "seconds"} for row in rows), key=repr)
        assert found[table]
    return found
