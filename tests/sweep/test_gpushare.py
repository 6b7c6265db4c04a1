"""The share of a GPU that a plan recommends, from fabricated rows."""

from __future__ import annotations

import pytest
from builders.rows import trial as row
from builders.specs import SMALL, dense, write
from builders.specs import trial as spec_of

from deepcuts.cli.main import main
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import canonical
from deepcuts.experiment.tasks import TASKS
from deepcuts.store.store import Store
from deepcuts.sweep.cost import fitting, recommended
from deepcuts.sweep.plan import make_plan

GB = 10**9


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def of(seed=0, **fields):
    return spec_of(of=dense(seed=seed, **{"device": "cuda", **fields}))


def measured(store, trial, peak=6.1 * GB, total=139.8 * GB, **fields):
    about = {"spec": canonical(trial.model_dump(mode="json")), "device": "NVIDIA H200", "model": "toy"}
    about |= {"peak_gpu_bytes": peak and int(peak), "gpu_bytes": total and int(total)}
    store.write("trials", trial.trial_id, [row(trial.trial_id, **about | fields)])


def share(store, *trials):
    return recommended(make_plan(trials, store), store)


def test_what_a_trial_of_the_kind_took_says_how_many_fit(store):
    measured(store, of(seed=0), peak=3 * GB)
    measured(store, of(seed=1))
    words = "peak 6.1 GB of 139.8 GB (NVIDIA H200): resources.gpus=0.125 would run 8 at a time"
    assert str(share(store, of(seed=2))) == words


@pytest.mark.parametrize(
    ("peak", "total", "count"), [(6.1, 139.8, 8), (14, 139.8, 8), (15, 139.8, 4), (30, 80, 2), (32.8, 80, 2)]
)
def test_a_fifth_and_the_context_are_left_free(peak, total, count):
    assert fitting(int(peak * GB), int(total * GB)) == count
    assert count * (1.2 * peak + 0.6) <= total


@pytest.mark.parametrize(("peak", "total"), [(33, 80), (79, 80), (90, 80)])
def test_a_trial_that_needs_a_gpu_of_its_own_gets_no_recommendation(store, peak, total):
    assert fitting(peak * GB, total * GB) == 1
    measured(store, of(), peak=peak * GB, total=total * GB)
    assert share(store, of(seed=1)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"peak": None},
        {"total": None},
        {"status": "failed", "failure": "trial"},
        {"spec": "{}"},
        {"spec": None},
        {"spec": canonical(of(seed=2).model_dump(mode="json"))},  # so it does where what it computes has changed
    ],
)
def test_rows_that_measured_nothing_recommend_nothing(store, fields):
    measured(store, of(), **fields)
    assert share(store, of(seed=1)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"max_tokens": 64},
        {"precision": "bf16"},
        {"dataset": "sst2", "task": TASKS["sst2"]},
        {"finetune": Training(batch_size=64)},
        {"finetune": Training(optimizer="sgd")},
        {"compile": True},
    ],
)
def test_every_kind_of_the_plan_must_be_measured_and_the_largest_counts(store, other):
    measured(store, of(seed=0))
    assert share(store, of(seed=1)).at_a_time == 8
    assert share(store, of(seed=1), of(seed=1, **other)) is None
    measured(store, of(seed=0, **other), peak=40 * GB)
    assert share(store, of(seed=1), of(seed=1, **other)).at_a_time == 2
    assert share(store, of(seed=1)).at_a_time == 8


@pytest.mark.parametrize("trial", [{"retrain": Training(batch_size=128)}, {"criterion": "SmoothGrad"}])
def test_retraining_and_scoring_must_be_measured_too(store, trial):
    measured(store, of(seed=0))
    wanted = spec_of(of=dense(seed=1, device="cuda"), **trial)
    assert share(store, wanted) is None
    measured(store, spec_of(of=dense(seed=0, device="cuda"), **trial))
    assert share(store, wanted).at_a_time == 8


def test_nothing_is_recommended_on_a_cpu_or_where_nothing_is_left(store):
    measured(store, of())
    assert share(store, spec_of()) is None
    assert share(store, of()) is None


def test_a_plan_says_what_it_recommends(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deepcuts.sweep.machines._gpus_of_machine", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = ["plan", str(write(tmp_path, SMALL + "max_tokens: 32\n")), "--store", str(tmp_path)]
    assert main(words) == 0
    assert "resources.gpus=" not in capsys.readouterr().out
    measured(store, of(max_tokens=32), peak=10 * GB, total=80 * GB)
    assert main(words) == 0
    assert (
        "\n  peak 10.0 GB of 80.0 GB (NVIDIA H200): resources.gpus=0.25 would run 4 at a time\n"
        in capsys.readouterr().out
    )
