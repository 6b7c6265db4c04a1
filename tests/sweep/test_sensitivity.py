"""How much each part of a network matters, against pruning that part by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.own_criteria import MINE, write_mine
from builders.rows import row_of, write_trial
from builders.toy_trials import TASK, context, dense, theta_1, trial

import deepcuts
from deepcuts.cli.main import main
from deepcuts.data.toy import sentences
from deepcuts.experiment.metrics import UndefinedMetric
from deepcuts.experiment.own_criteria import read_criteria
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import ScoreSpec, TrialSpec
from deepcuts.model.network import set_weights
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.trial.fitting import evaluate_stage
from deepcuts.trial.loading import load_material, load_network
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]
# Of a regression, whose metric shows every change of the outputs.
NUMBERS = TASK.model_copy(update={"kind": "regression", "classes": None, "metric": "pearson"})
SPEC = trial("GlobalMagGrad", dense(NUMBERS), retrain=Training(epochs=0))
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a trial whose network has learned something, of the same few sentences."""
    folder, whole = tmp_path_factory.mktemp("sensitivity"), sentences
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepcuts.data.toy.sentences", lambda split: whole(split)[: 200 if split == "train" else 64])
        assert run_stages(SPEC, "test", context(Store(str(folder))))["status"] == "completed"
    return folder


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Store:
    return Store(str(shutil.copytree(folder, tmp_path / "store")))


def by_hand(store: Store, spec: TrialSpec, chosen: Any, sparsity: float) -> float:
    """The correlation of the fine-tuned network without the lowest scores of the tensors whose names are chosen."""
    weights = theta_1(store, spec)
    scores = load_artifact(store, "scores", str(spec.score.score_id), "scores.safetensors")
    for name in filter(chosen, scores):
        order = np.argsort(scores[name].double().numpy().ravel(), kind="stable")
        weights[name].view(-1)[order[: round(sparsity * order.size)].tolist()] = 0.0
    network = load_network(spec.dense)
    set_weights(network, weights)
    return evaluate_stage(network, load_material(spec.dense), "pruned")[0]["validation"]["pearson"]


def test_each_part_is_pruned_alone_by_the_scores_of_the_trial(store: Store) -> None:
    heard = []
    key = str(SPEC.trial_id)
    frame = deepcuts.sensitivity(
        store, key[:8], [0.0, 0.9], threads=1, on_evaluation=lambda *told: heard.append(told[:2])
    )
    assert heard == [(done, 26) for done in range(27)]
    assert len(frame) == 2 * 13
    [row] = store.read("trials").table.to_pylist()
    assert set(frame["dense"]) == {row["dense"]}
    assert (frame["pruned"] == frame["dense"])[frame["sparsity"] == 0].all()
    deep = frame[frame["sparsity"] == 0.9]
    assert deep["pruned"].nunique() == 13
    for place in deep.itertuples():
        assert place.pruned == by_hand(store, SPEC, lambda name: name == place.part, 0.9)  # noqa: B023
    query = deep.set_index("part").loc[QUERY]
    assert (query["depth"], query["kind"], query["tensors"]) == (1, "query", 1)
    assert query["size"] - query["kept"] == round(0.9 * query["size"])
    assert (frame["drop"] == frame["dense"] - frame["pruned"]).all()


def test_kinds_and_layers_are_pruned_together(store: Store) -> None:
    kinds = deepcuts.sensitivity(store, SPEC.trial_id, [0.8], "kind", threads=1).set_index("part")
    assert dict(kinds["tensors"]) == {
        **dict.fromkeys(("query", "key", "value", "attention output", "intermediate", "output"), 2),
        "pooler": 1,
    }
    assert kinds.loc["value", "pruned"] == by_hand(store, SPEC, lambda name: ".value." in name, 0.8)
    layers = deepcuts.sensitivity(store, SPEC.trial_id, [0.8], "layer", threads=1).set_index("part")
    assert list(layers.index) == ["bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler.dense"]
    assert layers.loc["bert.encoder.layer.0", "pruned"] == by_hand(store, SPEC, lambda name: ".layer.0." in name, 0.8)
    assert layers["depth"].tolist()[:2] == [0, 1]


def test_scores_that_need_no_pass_need_not_be_there(tmp_path: Path) -> None:
    store, spec = Store(str(tmp_path)), trial("LampMagWeight", exclude=("layer.0",))
    run_stages(spec, "test", context(store))
    frame = deepcuts.sensitivity(store, spec.trial_id, by="layer", threads=1)
    assert list(frame["part"]) == ["bert.encoder.layer.1", "bert.pooler.dense"]


def test_the_file_of_an_own_criterion_without_data_is_asked_for_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deepcuts.sweep.sensitivity.MOST_CPUS", 1)
    store, twin = Store(str(tmp_path / "store")), trial("LayerMagIncrease", dense(NUMBERS), retrain=Training(epochs=0))
    mine = read_criteria(write_mine(tmp_path))
    score = ScoreSpec(dense=twin.dense, criterion="Moved", own=mine.rows["Moved"])
    own = TrialSpec(**dict(twin) | {"score": score})
    for spec in (twin, own):
        assert run_stages(spec, "test", context(store, criteria=[mine]))["status"] == "completed"
    with pytest.raises(ValueError, match=f"'Moved' of your own file .*{mine.digest}, and no file was given"):
        deepcuts.sensitivity(store, own.trial_id)
    changed = write_mine(tmp_path, MINE.replace("weights.initial.abs()", "0"), "changed.py")
    with pytest.raises(ValueError, match="changed.py' has .*give the file as it was then"):
        deepcuts.sensitivity(store, own.trial_id, criteria=[changed])
    files = sorted((tmp_path / "store").rglob("*"))
    found = [deepcuts.sensitivity(store, each.trial_id, by="kind", threads=1, criteria=[mine]) for each in (twin, own)]
    assert found[0]["pruned"].tolist() == found[1]["pruned"].tolist()
    assert sorted((tmp_path / "store").rglob("*")) == files  # it only reads
    assert main(["sensitivity", store.uri, own.trial_id, "--by", "kind", "--criteria", mine.path, "--json"]) == 0
    assert [row["pruned"] for row in json.loads(capsys.readouterr().out)] == found[1]["pruned"].tolist()
    (tmp_path / "store" / "artifacts/dense" / own.dense.dense_id / "meta.json").unlink()
    with pytest.raises(ValueError, match=f"run-one .* {own.trial_id} --criteria {mine.path}` makes them again"):
        deepcuts.sensitivity(store, own.trial_id, criteria=[mine])


def test_what_cannot_be_measured_is_refused_with_what_to_do(store: Store, tmp_path: Path) -> None:
    whole = trial("Dense", SPEC.dense)
    run_stages(whole, "test", context(store))
    for arguments, message in (
        ((whole.trial_id,), r"\(Dense\) prunes nothing, so it has no scores"),
        (("nowhere",), "unknown trial 'nowhere'"),
        ((SPEC.trial_id, [1.0]), "sparsity 1.0 is not the share"),
        ((SPEC.trial_id, []), "no sparsity is given"),
        ((SPEC.trial_id, [0.5], "tensr"), "unknown part 'tensr'; did you mean 'tensor'"),
    ):
        with pytest.raises(ValueError, match=message):
            deepcuts.sensitivity(store, *arguments)
    deepcuts.collect_garbage(store)
    again = f"deepcuts run-one {store.uri} {SPEC.trial_id}"
    with pytest.raises(ValueError, match=f"fine-tuned network and the scores of MagGrad .* --gc.*{again}"):
        deepcuts.sensitivity(store, SPEC.trial_id)
    assert deepcuts.run_trial(SPEC, store, threads=1)["status"] == "completed"
    assert len(deepcuts.sensitivity(store, SPEC.trial_id, by="kind", threads=1)) == 7


def test_the_command_says_first_how_long_it_takes_and_writes_the_figure(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deepcuts.sweep.sensitivity.MOST_CPUS", 1)
    assert main(["sensitivity", store.uri, SPEC.trial_id, "--by", "kind", "--sparsity", "0.5", "0.9"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"0 of 14 evaluations, about [0-9.]+ s", first)
    assert rest[-1] == "wrote sensitivity.png"
    assert sum("pearson" in line for line in rest) == 14
    assert Path("sensitivity.png").stat().st_size > 5000
    for by in ("tensor", "layer"):
        assert main(["sensitivity", store.uri, SPEC.trial_id, "--by", by, "-o", f"{by}.svg"]) == 0
        text = Path(f"{by}.svg").read_text()
        assert f"one {by} pruned, not retrained" in text.replace("<!-- ", "")
    capsys.readouterr()
    assert main(["sensitivity", store.uri, SPEC.trial_id, "--by", "layer", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["part"] for row in json.loads(out)][-1] == "bert.pooler.dense"
    assert err.startswith("0 of 3 evaluations")
    assert main(["sensitivity", store.uri, SPEC.trial_id, "-o", "a.gif"]) == 2
    assert "cannot write a figure as '.gif'" in capsys.readouterr().err


def test_a_figure_is_of_one_trial(store: Store) -> None:
    frame = deepcuts.sensitivity(store, SPEC.trial_id, by="layer", threads=1)
    with pytest.raises(ValueError, match="of one trial and one kind of part"):
        deepcuts.plot_sensitivity(frame.assign(by=["layer", "layer", "kind"]))
    with pytest.raises(ValueError, match="no rows"):
        deepcuts.plot_sensitivity(frame.iloc[:0])


def test_a_trial_that_does_not_score_its_fine_tuned_network_is_refused(tmp_path):
    first, store = trial(), Store(str(tmp_path))
    of_network = ScoreSpec(**dict(trial().score) | {"network": first.trial_id})
    later = TrialSpec(**dict(trial()) | {"score": of_network, "previous": first, "sparsity": 0.7})
    unscored = ScoreSpec(dense=dense(), criterion="Mine")  # a criterion of the user's own, which is not here
    given = TrialSpec(**dict(trial()) | {"score": unscored, "mask_of": trial(of=dense(seed=1))})
    for spec, what in ((later, "is round 2 of iterative pruning"), (given, "takes its mask from elsewhere")):
        write_trial(store, row_of(spec))
        with pytest.raises(ValueError, match=f"{what}, so it has no scores of its fine-tuned network"):
            deepcuts.sensitivity(store, spec.trial_id)
