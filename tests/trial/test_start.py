"""What retraining starts from: theta_0, an encoder drawn anew, or the kept weights in other places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders.toy_trials import TASK, TRAINING, context, dense, theta_0, theta_1, trial
from torch import Tensor

from deepcuts.data.toy import CONFIG
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import VERSIONS, TrialSpec
from deepcuts.store.masks import masks
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.trial.loading import load_network
from deepcuts.trial.starting import starting_weights
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]
NONE = Training(epochs=0)  # the network that retraining starts from is then the one that it leaves
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
HEAD = ("classifier.weight", "classifier.bias")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def left(store: Store, strategy: str = "GlobalMagWeight", **fields: Any) -> tuple[TrialSpec, dict[str, Tensor]]:
    """A trial without retraining, and what it started from: kept weights alone where there is a mask."""
    spec = trial(strategy, retrain=NONE, **fields)
    row = run_stages(spec, "some", context(store), keep_model=True)
    assert row["status"] == "completed", row["error"]
    assert row["retrained"] == row["rewound"]
    return spec, load_artifact(store, "models", spec.trial_id, "kept.safetensors")


def kept_of(store: Store, spec: TrialSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = masks(store, spec.trial_id)
    return {name: each[torch.from_numpy(found[name])] if name in found else each for name, each in weights.items()}


def test_a_random_start_keeps_the_mask_and_the_head_alone(store: Store) -> None:
    plain, rewound = left(store)
    spec, drawn = left(store, start="random")
    one, other = masks(store, plain.trial_id), masks(store, spec.trial_id)
    assert all((one[name] == other[name]).all() for name in one)
    assert all(torch.equal(drawn[name], rewound[name]) for name in HEAD)
    for name, each in drawn.items():
        if name in one:
            assert not (each == rewound[name]).any()
            assert float(each.std()) == pytest.approx(CONFIG["initializer_range"], rel=0.1)
        elif "LayerNorm.weight" in name:
            assert bool((each == 1).all())
        elif name.endswith("embeddings.weight"):
            assert not torch.equal(each, rewound[name])


def test_all_trials_of_a_seed_have_the_same_random_start(store: Store) -> None:
    _, one = left(store, "Unpruned", start="random")
    spec, other = left(store, "LayerSNIP", start="random")
    _, seeded = left(store, "Unpruned", of=dense(seed=1), start="random")
    assert all(torch.equal(each, other[name]) for name, each in kept_of(store, spec, _whole(one, spec)).items())
    assert not torch.equal(one[QUERY], seeded[QUERY])


def _whole(flat: dict[str, Tensor], spec: TrialSpec) -> dict[str, Tensor]:
    return {name: each.view(theta_0(spec)[name].shape) for name, each in flat.items()}


@pytest.mark.parametrize("rewind", ["init", "none", 2])
def test_a_shuffled_start_has_the_kept_weights_of_each_tensor_in_other_places(store: Store, rewind: Any) -> None:
    spec, found = left(store, start="shuffled", rewind=rewind)
    files = {"init": None, "none": "model.safetensors", 2: "step-2.safetensors"}
    file = files[rewind]
    right = kept_of(store, spec, theta_0(spec) if file is None else theta_1(store, spec, file))
    pruned = masks(store, spec.trial_id)
    for name, each in found.items():
        if name in pruned:
            assert torch.equal(each.sort().values, right[name].sort().values)
            assert float((each == right[name]).float().mean()) < 0.1
        else:
            assert torch.equal(each, right[name])


def test_a_shuffled_start_is_permuted_otherwise_for_another_seed_dataset_or_strategy_and_alike_at_every_level() -> None:
    spec = trial(start="shuffled")
    network, start = load_network(spec.dense), theta_0(spec)
    half = torch.arange(start[QUERY].numel()).view(start[QUERY].shape) % 2 == 0
    others = {
        "level": trial(start="shuffled", sparsity=0.9),
        "retraining": trial(start="shuffled", retrain=NONE),
        "seed": trial(of=dense(seed=1), start="shuffled"),
        "dataset": trial(of=dense(TASK.model_copy(update={"digest": "other"})), start="shuffled"),
        "strategy": trial("GlobalMagWeight", start="shuffled"),
    }

    def values(each: TrialSpec) -> Tensor:
        store = context(Store("unused"))
        return starting_weights(each, store, network, start, dict(start), {QUERY: half})[QUERY][half]

    found = {name: bool(torch.equal(values(each), values(spec))) for name, each in others.items()}
    assert found == {"level": True, "retraining": True, "seed": False, "dataset": False, "strategy": False}
    assert torch.equal(values(others["dataset"]).sort().values, values(spec).sort().values)


def test_a_shuffled_start_alone_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [trial(start=start).trial_id for start in ("rewind", "random", "shuffled")]
    monkeypatch.setitem(VERSIONS, "shuffled_start", 99)
    after = [trial(start=start).trial_id for start in ("rewind", "random", "shuffled")]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_starts_have_ids_of_their_own_and_the_default_has_the_old_one() -> None:
    ids = {trial(start=start).trial_id for start in ("rewind", "random", "shuffled")}
    assert len(ids) == 3
    assert trial(start="rewind").trial_id == trial().trial_id
    assert trial(start="random", retrain=TRAINING).score.score_id == trial().score.score_id


def test_a_start_is_drawn_anew_when_controls_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [trial(start=start).trial_id for start in ("rewind", "random")]
    monkeypatch.setitem(VERSIONS, "control", 99)
    after = [trial(start=start).trial_id for start in ("rewind", "random")]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
