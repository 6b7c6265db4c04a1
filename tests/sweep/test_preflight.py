"""A model is tried out once for each kind of trial, before anything is launched, and what passed is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders.bert_folder import bert_folder
from builders.hub_cache import fill_cache
from builders.specs import dense, trial
from builders.toy_sweeps import KEYS, SWEEP

import deepcuts
from deepcuts.cli.main import BAD_INPUT, main
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import TASKS
from deepcuts.store.store import Store
from deepcuts.sweep.preflight import check_trials

FACTS = ["it is slow"]
HUB = ModelSource(name="some/model")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def tried(monkeypatch):
    """The trials of each call of a stub that replaces trying out, which loads torch."""
    calls: list[list[Any]] = []
    monkeypatch.setattr("deepcuts.trial.tryout.try_out", lambda trials, files: calls.append(list(trials)) or FACTS)
    return calls


def test_alike_trials_are_tried_out_together_and_once(tried):
    alike = [trial(), trial("SNIP"), trial(of=dense(seed=3))]
    assert check_trials(alike, False) == ("it is slow",)
    assert tried == [alike]
    check_trials(list(reversed(alike)), False)
    assert len(tried) == 1
    assert check_trials([], False) == ()


@pytest.mark.parametrize(
    "changed",
    [
        trial(of=dense(max_tokens=64)),
        trial(of=dense(precision="bf16")),
        trial(of=dense(task=TASKS["qnli"])),
        trial(of=dense(task=TASKS["toy"].model_copy(update={"digest": "other texts"}))),
        trial(of=dense(dataset="of another name, which is said")),
        trial(of=dense(task=TASKS["mnli"])),
        trial(of=dense(task=TASKS["stsb"])),
        trial(of=dense(finetune=Training(weight_decay=0.1))),
        trial(of=dense(model=ModelSource(name="toy", digest="other"))),
        trial("SNIP"),
        trial("SNIP", Scoring(dropout=False)),
        trial("GradCAM", Scoring(count_padding=True)),
    ],
    ids=range(12),
)
def test_what_decides_whether_a_trial_runs_is_tried_out_again(tried, changed):
    check_trials([trial()], False)
    check_trials([changed], False)
    assert tried == [[trial()], [changed]]
    check_trials([changed], False)
    assert len(tried) == 2


def test_another_version_of_a_library_tries_out_again(tried, monkeypatch):
    check_trials([trial()], False)
    monkeypatch.setattr("deepcuts.sweep.preflight.version", lambda package: "999")
    check_trials([trial()], False)
    assert len(tried) == 2


def test_what_failed_is_tried_out_again(monkeypatch, tried):
    def fail(trials: Any, files: Any) -> None:
        raise ValueError("no pad token")

    with monkeypatch.context() as patch:
        patch.setattr("deepcuts.trial.tryout.try_out", fail)
        for _ in range(2):
            with pytest.raises(ValueError, match="no pad token"):
                check_trials([trial()], False)
    assert check_trials([trial()], False) == ("it is slow",)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\x00"])
def test_a_damaged_verdict_is_made_again(tmp_path, tried, content):
    check_trials([trial()], False)
    [path] = (tmp_path / "cache/preflight").iterdir()
    assert json.loads(path.read_text()) == FACTS
    path.write_text(content)
    assert check_trials([trial()], False) == ("it is slow",)
    assert len(tried) == 2


def test_weights_still_on_the_hub_are_fetched_and_checked_by_run_alone(tmp_path, tried, monkeypatch, capsys):
    of = [trial(of=dense(model=HUB))]
    assert check_trials(of, download=False) == (
        "the weights of some/model are not on this machine: `run` downloads them, and checks them then",
    )
    assert not tried

    def fetch(trials: Any, files: Any) -> list[str]:
        header = b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}'
        weights = len(header).to_bytes(8, "little") + header + bytes(4)
        fill_cache(tmp_path, "some/model", {"config.json": b"{}", "model.safetensors": weights}, kind="models")
        tried.append(trials)
        return FACTS

    monkeypatch.setattr("deepcuts.trial.tryout.try_out", fetch)
    assert check_trials(of, download=True) == ("it is slow",)
    assert capsys.readouterr().err == "checking the model some/model on toy ...\n"
    assert check_trials(of, download=False) == ("it is slow",)
    assert len(tried) == 1


def test_a_model_that_cannot_run_ends_plan_and_run_with_its_cause_and_writes_nothing(tmp_path, capsys):
    bert_folder(tmp_path / "m", pad=None)
    (tmp_path / "small.yaml").write_text(SWEEP.replace("model: toy", f"model: {tmp_path / 'm'}"))
    for verb in ("plan", "run"):
        assert main([verb, str(tmp_path / "small.yaml"), "--store", str(tmp_path / "store")]) == BAD_INPUT
        said = capsys.readouterr()
        assert "has no pad token" in said.err
        assert "Traceback" not in said.err + said.out
    assert not (tmp_path / "store").exists()


def test_a_model_with_code_of_its_own_is_refused_without_advice_that_nobody_can_follow(tmp_path):
    code = {"AutoConfig": "configuration_mine.Mine", "AutoModelForSequenceClassification": "modeling_mine.Mine"}
    (tmp_path / "configuration_mine.py").write_text("raise RuntimeError('never run')")
    bert_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": code}))
    sweep = deepcuts.read_sweep(KEYS | {"model": str(tmp_path)})
    with pytest.raises(ValueError, match="models with code of their own are not supported") as caught:
        deepcuts.plan(sweep, Store(str(tmp_path / "store")))
    assert "trust_remote_code" not in str(caught.value)


def test_facts_of_the_model_are_said_by_plan(tmp_path, monkeypatch, tried, capsys):
    (tmp_path / "small.yaml").write_text(SWEEP)
    words = ["plan", str(tmp_path / "small.yaml"), "--store", str(tmp_path / "store")]
    assert main(words) == 0
    assert "\n  it is slow\n" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 3
    assert said.err == "deepcuts: it is slow\n"


def test_plan_says_what_the_sweep_of_this_name_wanted_before(tmp_path, tried, capsys):
    (tmp_path / "small.yaml").write_text(SWEEP)
    store = Store(str(tmp_path / "store"))
    words = ["plan", str(tmp_path / "small.yaml"), "--store", store.uri]
    former = {"trial_id": "0" * 16, "dataset": "toy", "strategy": "LayerSNIP"}
    store.write("sweeps", "other", [former | {"sweep": "other"}])
    assert main(words) == 0
    assert "wanted" not in capsys.readouterr().out
    store.write("sweeps", "small", [former | {"sweep": "small"}])
    assert main(words) == 0
    assert "\n  sweep 'small' no longer wants 1 trial that it wanted before: " in capsys.readouterr().out


def test_trials_that_are_done_are_not_tried_out(tmp_path, monkeypatch, tried):
    monkeypatch.setattr("deepcuts.sweep.plan.Store.statuses", lambda store: dict.fromkeys(ids, "completed"))
    sweep = deepcuts.read_sweep(KEYS)
    ids = [each.trial_id for each in sweep.trials()]
    deepcuts.plan(sweep, Store(str(tmp_path)))
    assert not tried
