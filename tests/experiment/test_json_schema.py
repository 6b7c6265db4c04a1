"""The JSON Schema of the sweep file: current, and in agreement with the reader."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from deepcuts.experiment.json_schema import schema_text, sweep_schema
from deepcuts.experiment.reading import read_sweep_file
from deepcuts.experiment.yaml_errors import parse_yaml
from deepcuts.pruning.criteria import CRITERIA

SWEEPS = Path(__file__).parents[2] / "sweeps"
FILES = sorted(SWEEPS.rglob("*.yaml"))
GOOD = {"datasets": ["toy"], "strategies": ["LayerSNIP"], "compressions": [2]}


def valid(sweep: object) -> bool:
    return jsonschema.Draft202012Validator(sweep_schema()).is_valid(sweep)


def test_the_committed_schema_is_current():
    """To update: python -m deepcuts.experiment.json_schema > sweeps/sweep.schema.json"""
    assert (SWEEPS / "sweep.schema.json").read_text() == schema_text()
    jsonschema.Draft202012Validator.check_schema(sweep_schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_sweep_of_the_project_is_valid_and_names_the_schema(path):
    text = path.read_text("utf-8")
    up = "../" * (len(path.relative_to(SWEEPS).parts) - 1)
    assert text.startswith(f"# yaml-language-server: $schema={up}sweep.schema.json\n")
    jsonschema.validate(parse_yaml(text), json.loads((SWEEPS / "sweep.schema.json").read_text()))
    file = read_sweep_file(path)
    assert file.name == path.stem
    assert valid(file.resolved())  # as the store and the report keep it


def test_the_sweeps_are_those_that_the_readme_tells_of():
    own = [path.stem for path in FILES if path.parent == SWEEPS]
    assert own == ["ablation", "bert-tickets", "minilm", "paper", "quickstart", "sanity", "seed", "transfer"]
    study = [path.stem for path in FILES if path.parent != SWEEPS]
    assert study == [
        *("accuracy", "budget", "dropout", "extreme", "iterative", "lr", "masks", "padding", "sanity", "tickets"),
    ]


def test_a_teacher_is_offered_to_retraining_alone():
    assert valid(GOOD | {"retrain": {"distill": {"weight": 0.5}}})
    assert not valid(GOOD | {"finetune": {"distill": {"weight": 0.5}}})
    assert not valid(GOOD | {"overrides": {"toy": {"finetune": {"distill": None}}}})


def test_every_key_is_described():
    made = sweep_schema()
    for name in ("ArmSettings", "MaskFrom", "OwnData", "Resources", "Rounds", "Scoring", "Settings", "Training"):
        keys = made["$defs"][name]["properties"]
        plain = {"revision", "kind", "optimizer", "weight_decay"}
        assert {key for key, value in keys.items() if "description" not in value} <= plain, name
    assert all("description" in value for value in made["properties"].values())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_strategy_is_known_to_it(criterion):
    for scope in ("Layer", "Global", "Row"):
        assert valid(GOOD | {"strategies": [f"{scope}{criterion}{control}" for control in ("", "+shuffle", "+invert")]})


@pytest.mark.parametrize(
    "change",
    [
        {"datasets": {"mine": {"train": "a.csv", "validation": "b.csv", "text": "t", "classes": 2}, "sst2": None}},
        {"datasets": {"mine": {"hub": "x", "text": ["a", "b"], "classes": ["no", "yes"]}}},
        {
            "datasets": {
                "mine": {"hub": "x", "text": "t", "classes": [0, 1], "splits": {"train": "a", "validation": "b"}}
            }
        },
        {"datasets": {"mine": {"hub": "x", "text": "t", "classes": [False, True], "same_data": True}}},
        {"datasets": {"mine": {"file": "a.csv", "validation": 0.2, "text": "t"}}},
        {"datasets": {"mine": {"file": "a.csv", "validation": 80, "text": "t", "data_seed": 1, "kind": "regression"}}},
        {"datasets": ["STSBDATA"], "overrides": {"STSBDATA": {"finetune": {"lr": 2e-5}}}},
        {"name": "a.b-c", "rewind": 5, "seeds": [0, 1], "resources": {"gpus": 0.5}},
        {"strategies": {"LayerSNIP": None, "late σ": {"use": "LayerSNIP", "rewind": 5, "scoring": {"shift": 1}}}},
        {"axes": {"scoring.shift": [0, 0.1], "rewind": ["init", 5]}},
        {"rewind": "none", "max_train_examples": None, "finetune": {"betas": [0.9, 0.99], "micro_batch": 4}},
    ],
)
def test_it_takes_what_the_reader_takes(change):
    assert valid(GOOD | change)


@pytest.mark.parametrize(
    "change",
    [
        {"modle": "x"},
        {"datasets": ["sst3"]},
        {"datasets": []},
        {"datasets": {"a/b": None}},
        {"strategies": ["LayerGradCam"]},
        {"strategies": ["LayerSNIP+shufle"]},
        {"strategies": []},
        {"strategies": {}},
        {"strategies": {"a,b": {"use": "LayerSNIP"}}},
        {"strategies": {"late": {"use": "LayerSNP"}}},
        {"strategies": {"late": {"use": "LayerSNIP", "finetune": {"lr": 1}}}},
        {"axes": {"finetune.lr": [1]}},
        {"axes": {"scoring.shift": []}},
        {"compressions": [0.5]},
        {"sparsities": [0.5]},
        {"seeds": [-1]},
        {"seeds": []},
        {"precision": "fp16"},
        {"rewind": "later"},
        {"finetune": {"epoch": 3}},
        {"finetune": {"lr": 0}},
        {"finetune": {"warmup": 2}},
        {"finetune": {"betas": [0.9]}},
        {"finetune": None},
        {"scoring": {"batches": 0}},
        {"overrides": {"toy": {"seeds": [1]}}},
        {"name": "../x"},
        {"name": "_x"},
        {"tf32": "no"},
        {"datasets": {"mine": {"file": "a.csv", "validation": 1.5, "text": "t"}}},
        {"datasets": {"mine": {"file": "a.csv", "validation": 0, "text": "t"}}},
    ],
)
def test_it_refuses_what_the_reader_refuses(change):
    assert not valid(GOOD | change)


@pytest.mark.parametrize("missing", GOOD)
def test_the_required_keys_are_required(missing):
    assert not valid({key: value for key, value in GOOD.items() if key != missing})
