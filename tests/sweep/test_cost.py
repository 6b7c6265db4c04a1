"""What a plan will take."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from builders.rows import trial as row
from builders.specs import sweep

from deepcuts.experiment.spec import canonical
from deepcuts.store.store import Store
from deepcuts.sweep.cost import OTHER_SECONDS, PARAMETER_SECONDS, START_SECONDS, Cost, Texts, check_disk, estimate
from deepcuts.sweep.devices import DEVICES
from deepcuts.sweep.plan import make_plan
from deepcuts.wording import size_text

COUNTS = {"toy": SimpleNamespace(parameters=1000, prunable=800, positions=64)}
OTHER = OTHER_SECONDS + 1000 * PARAMETER_SECONDS
TEXTS = {"toy": Texts(train=100, evaluated=0, tokens=20.0)}
GUESS = (
    "a guess, until a trial of this model, data and precision has run on such a device: a training step reaches 0.1"
    " TFLOP/s on 1 CPU core; it may well take a third of that time, or three times as long"
)


@pytest.fixture(autouse=True)
def core(monkeypatch):
    """Every machine has the same cores."""
    monkeypatch.setattr("deepcuts.sweep.cost.core_speed", lambda: 1e11)


def cost(store, trials, **fields):
    given = {"gpus": 0, "cpus": 1, "slots": 1, "keep_models": False} | fields
    return estimate(make_plan(trials, store), COUNTS, TEXTS, store, **given)


def work(made):
    return sum(made.seconds.values())


def finish(store, trial, seconds, **fields):
    """A completed trial that retrained for so many seconds."""
    steps = trial.retrain.epochs * 7 if trial.retrain else 0
    spec = canonical(trial.model_dump(mode="json"))
    store.write("trials", trial.trial_id, [row(trial.trial_id, retrain_seconds=seconds, spec=spec, **fields)])
    store.write("metrics", trial.trial_id, [{"trial_id": trial.trial_id, "stage": "retrained", "step": steps}])


def test_bytes_are_the_shared_networks_scores_masks_and_checkpoints(tmp_path):
    trials = sweep(strategies=["LayerSNIP", "GlobalSNIP", "LayerMagWeight"], seeds=[0, 1]).trials()
    checkpoints = 2 * 3 * 4 * 1000
    shared, masks = 2 * 4 * 1000 + 2 * 4 * 800, 6 * 100
    store = Store(str(tmp_path))
    made = cost(store, trials)
    assert (made.left_bytes, made.peak_bytes) == (shared + masks, shared + masks + checkpoints)
    assert cost(store, trials, slots=3).peak_bytes == shared + masks + 3 * checkpoints
    assert cost(store, trials, keep_models=True).left_bytes == shared + masks + 6 * 4 * 1000


def test_the_weights_of_each_step_that_trials_rewind_to_are_counted(tmp_path):
    store = Store(str(tmp_path))
    none, one = (cost(store, sweep(rewind=rewind).trials()) for rewind in ("init", 3))
    assert one.left_bytes - none.left_bytes == 4 * 1000
    assert one.peak_bytes - none.peak_bytes == 2 * 4 * 1000  # the fine-tuning keeps its own copy until it is published


def test_shared_work_is_counted_once(tmp_path):
    store = Store(str(tmp_path))
    few = cost(store, sweep(strategies=["LayerSNIP"]).trials())
    more = cost(store, sweep(strategies=["LayerSNIP", "GlobalSNIP", "LayerGradCAM"]).trials())
    # Fine-tuning, retraining and one pass over 100 examples.
    unit = (work(few) - 2 * OTHER) / (5 + 12 + 1)
    assert work(more) == pytest.approx(unit * (5 + 3 * 12 + 1) + 4 * OTHER)
    assert few.basis == (GUESS,)


def test_a_guess_counts_the_tokens_of_the_texts_and_what_is_evaluated_after_each_epoch(tmp_path):
    store, trials = Store(str(tmp_path)), sweep().trials()

    def seconds(**fields):
        texts = {"toy": Texts(**({"train": 100, "evaluated": 0, "tokens": 20.0} | fields))}
        plan = make_plan(trials, store)
        made = estimate(plan, counts, texts, store, gpus=0, cpus=2, slots=1, keep_models=False)
        return work(made) - 2 * (OTHER_SECONDS + PARAMETER_SECONDS * counts["toy"].parameters)

    counts = {"toy": SimpleNamespace(parameters=10**8, prunable=10**8, positions=64)}
    by_hand = 6 * 1e8 * 20 / 2e11 * 100 * (5 + 12)  # FLOPs of an example at the speed of two cores, examples, epochs
    assert seconds() == pytest.approx(by_hand)
    assert seconds(tokens=10.0) == pytest.approx(by_hand / 2)
    assert seconds(tokens=1000.0) == pytest.approx(by_hand * trials[0].dense.max_tokens / 20)
    # Three times as many, for a third of the time each; and twice, pruned and rewound, for each of the two trials.
    assert seconds(evaluated=300) == pytest.approx(2 * by_hand + by_hand / (5 + 12) * (2 + 2))
    counts = COUNTS
    assert seconds() == pytest.approx(100 / 16 * 17 * 1e-2)  # a step of a small network takes 10 ms


def test_later_rounds_of_scoring_are_work_of_each_trial_and_curvature_takes_longer(tmp_path):
    store, ends = Store(str(tmp_path)), 2 * OTHER
    unit = (work(cost(store, sweep(strategies=["LayerSNIP"]).trials())) - ends) / (5 + 12 + 1)
    thrice = cost(store, sweep(strategies=["LayerSNIP", "GlobalSNIP"], scoring={"rounds": 3}).trials())
    assert work(thrice) == pytest.approx(unit * (5 + 1 + 2 * (12 + 2)) + ends + OTHER)
    grasp = cost(store, sweep(strategies=["LayerGraSP"]).trials())
    assert work(grasp) == pytest.approx(unit * (5 + 12 + 3) + ends)


def test_what_was_measured_in_the_store_is_believed(tmp_path):
    store = Store(str(tmp_path))
    trials = sweep(compressions=[2, 3]).trials()
    finish(store, trials[1], seconds=12 * 7 * 16 * 0.5)
    made = cost(store, trials)
    assert made.basis == ("measured by trials in this store, on cpu",)
    assert work(made) == pytest.approx(0.5 * 100 * (5 + 12) + 2 * OTHER_SECONDS)
    other = sweep(strategies=["LayerRandom"]).trials()[1:]
    assert work(cost(store, other)) == pytest.approx(0.5 * 100 * (5 + 12) + OTHER_SECONDS)


def test_what_trials_take_besides_training_and_scoring_is_measured_too(tmp_path):
    """Loading, pruning and evaluating; a trial that retrains for no epoch is evaluated in its last stage."""
    store = Store(str(tmp_path))
    trained = sweep(compressions=[2, 3]).trials()
    stages = {"finetune_seconds": 7.0, "score_seconds": 5.0}
    finish(store, trained[1], seconds=12 * 7 * 16 * 0.5, total_seconds=12 + 12 * 7 * 16 * 0.5 + 3, **stages)
    assert work(cost(store, trained[2:])) == pytest.approx(0.5 * 100 * (5 + 12) + 3)
    pruned = sweep(compressions=[2, 3], retrain={"epochs": 0}).trials()
    assert work(cost(store, pruned[1:])) == pytest.approx(0.5 * 100 * 5 + 2 * 3)  # none such has run: as the others
    finish(store, pruned[1], seconds=4.0, total_seconds=12 + 9.0, **stages)
    assert work(cost(store, pruned[2:])) == pytest.approx(0.5 * 100 * 5 + 9)
    assert work(cost(store, trained[2:])) == pytest.approx(0.5 * 100 * (5 + 12) + 3)


def on_gpu(**fields):
    spec = sweep(**fields)
    return replace(spec, device="cuda").trials()


def test_a_plan_for_a_gpu_believes_what_was_measured_on_one_of_its_kind(tmp_path):
    store, trials = Store(str(tmp_path)), on_gpu(compressions=[2, 3])
    finish(store, trials[1], seconds=12 * 7 * 16 * 0.5, device="NVIDIA H100 80GB HBM3")
    for on in ("gpu", "h100"):
        made = cost(store, trials, gpus=1, on=on)
        assert made.basis == ("measured by trials in this store, on NVIDIA H100 80GB HBM3",)
        assert work(made) == pytest.approx(0.5 * 100 * (5 + 12) + 2 * OTHER_SECONDS)
    [other] = cost(store, trials, gpus=1, on="l4").basis
    assert ": a training step reaches 9.1 TFLOP/s in fp32 on a GPU like the L4 (a" in other
    [other] = cost(store, on_gpu(precision="bf16"), gpus=1).basis  # another precision than what was measured
    assert ": a training step reaches 41 TFLOP/s in bf16 on a GPU like the A100 (a" in other


def test_a_guess_for_a_gpu_follows_its_peak_and_a_small_network_its_kernels(tmp_path):
    large = {"toy": SimpleNamespace(parameters=10**9, prunable=10**9, positions=64)}
    store, trials = Store(str(tmp_path)), on_gpu(precision="bf16")

    def seconds(counts=large, **fields):
        given = {"gpus": 1.0, "cpus": 1, "slots": 1, "keep_models": False} | fields
        made = estimate(make_plan(trials, store), counts, TEXTS, store, **given)
        return work(made) - len(trials) * (OTHER_SECONDS + PARAMETER_SECONDS * counts["toy"].parameters)

    assert seconds(on="a100") / seconds(on="h100") == pytest.approx(989 / 312)
    assert seconds(gpus=0.5) == pytest.approx(2 * seconds())
    assert seconds(gpus=2.0) == seconds()
    assert seconds(COUNTS, on="h100") == seconds(COUNTS, on="t4") == pytest.approx(100 / 16 * 17 * 5e-3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA RTX A1000", None),
        ("x86_64", None),
    ],
)
def test_a_device_is_known_by_what_torch_calls_it(name, kind):
    assert [each for each, device in DEVICES.items() if device.is_called(name)] == ([kind] if kind else [])


@pytest.mark.parametrize("spec", [None, "", "{}", '{"score": 3}', "half {"])
def test_rows_of_another_version_stop_no_plan(tmp_path, spec):
    store = Store(str(tmp_path))
    trials = sweep().trials()
    finish(store, trials[1], seconds=5)
    store.write("trials", trials[1].trial_id, [row(trials[1].trial_id, retrain_seconds=5.0, spec=spec)])
    assert cost(store, trials).basis == (GUESS,)


def test_side_by_side_takes_less_time_and_the_same_gpu_hours(tmp_path):
    trials = sweep(compressions=[2, 3, 4], seeds=[0, 1, 2, 3]).trials()
    one, four = (cost(Store(str(tmp_path)), trials, slots=slots, gpus=1) for slots in (1, 4))
    assert four.wall_seconds - START_SECONDS == pytest.approx((one.wall_seconds - START_SECONDS) / 4)
    assert one.wall_seconds == pytest.approx(START_SECONDS + work(one))
    assert four.gpu_hours == one.gpu_hours == pytest.approx(work(one) / 3600)


def test_nothing_left_costs_nothing(tmp_path):
    store = Store(str(tmp_path))
    for trial in sweep().trials():
        finish(store, trial, 1.0)
    made = cost(store, sweep().trials())
    assert (made.seconds, made.wall_seconds, made.left_bytes, made.peak_bytes) == ({}, 0, 0, 0)


def test_too_little_disk_is_refused_with_both_numbers(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "not" / "there"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    check_disk(store, Cost({}, 1, 0, 0, "", 0, 10**9))
    with pytest.raises(ValueError, match="needs about 2.5 GB and 1.0 GB are free; make room"):
        check_disk(store, Cost({}, 1, 0, 0, "", 0, 2_500_000_000))
    store.local = False
    check_disk(store, Cost({}, 1, 0, 0, "", 0, 2_500_000_000))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.2e9, "2.2 GB"), (5e15, "5000.0 TB")]
)
def test_bytes_are_readable(count, text):
    assert size_text(count) == text
