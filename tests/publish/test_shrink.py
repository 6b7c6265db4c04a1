"""A network without its pruned neurons: the same outputs, fewer parameters, its speed on the card, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.tiny_models import tiny_model
from builders.toy_trials import context, theta_0, trial
from transformers import AutoModelForSequenceClassification, pipeline

import deepcuts as dc
from deepcuts.cli.main import main
from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.load import load_tokenizer
from deepcuts.publish import shrink
from deepcuts.publish.shrink import shrink_network
from deepcuts.store.tensors import load_artifact
from deepcuts.trial.loading import load_material
from deepcuts.trial.trial import run_stages

# One epoch on 48 examples teaches a pruned network nothing: it says the same of all of them.
pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrink, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dc.Store, dict[str, TrialSpec]]:
    """A store with trials of whole neurons (with biases pruned, without, and shuffled) and of single weights."""
    store = dc.Store(str(tmp_path_factory.mktemp("store")))
    trials = {
        "neuron": trial("NeuronMagWeight", sparsity=0.4),
        "biases": trial("NeuronSNIP", sparsity=0.4, prune_biases=True),
        "shuffled": trial("NeuronMagWeight+shuffle", sparsity=0.4),
        "layer": trial("LayerMagWeight", sparsity=0.4),
    }
    for each in trials.values():
        row = run_stages(each, "some", context(store), keep_model=True)
        assert row["status"] == "completed", row["traceback"]
    return store, trials


def logits(folder: Path, of: TrialSpec) -> np.ndarray:
    """What transformers alone says of the validation texts."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    seen = load_material(of.dense).evaluated["validation"]
    with torch.no_grad():
        parts = [seen.batch(part) for part in np.array_split(np.arange(len(seen.lengths)), 5)]
        inputs = [{name: tensor for name, tensor in part.items() if name != "labels"} for part in parts]
        return np.concatenate([model(**each).logits.numpy() for each in inputs])


@pytest.mark.usefixtures("torch_state")
@pytest.mark.parametrize("which", ["neuron", "biases", "shuffled"])
def test_the_smaller_network_says_the_same_of_every_validation_text(
    ran: tuple[dc.Store, dict[str, TrialSpec]], which: str, tmp_path: Path
) -> None:
    store, trials = ran
    dc.export(store, trials[which].trial_id, tmp_path / "full")
    row = dc.export(store, trials[which].trial_id, tmp_path / "small", shrink=True)
    full, small = logits(tmp_path / "full", trials[which]), logits(tmp_path / "small", trials[which])
    assert float(np.abs(full - small).max()) <= 1e-5
    assert full.std() > 1e-3
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    # A neuron is 2 x 64 of the weights of both layers, 102,400 in all, and with biases 2 x 64 + 1 of 103,616.
    assert config["intermediate_size"] == row["neurons"] == (95 if which == "biases" else 96)
    assert (tmp_path / "small" / WEIGHTS).stat().st_size < 0.65 * (tmp_path / "full" / WEIGHTS).stat().st_size
    if which == "neuron":
        made: Any = pipeline("text-classification", model=str(tmp_path / "small"))
        assert made("the film was good")[0]["label"] in {"0", "1", "LABEL_0", "LABEL_1", *config["label2id"]}


def test_masks_have_whole_neurons_and_the_bias_of_a_pruned_one_does_not_move(
    ran: tuple[dc.Store, dict[str, TrialSpec]],
) -> None:
    store, trials = ran
    for which, spec in trials.items():
        masks = dc.masks(store, spec.trial_id)
        for name in (name for name in masks if "intermediate.dense.weight" in name and which != "layer"):
            kept = masks[name].any(1)
            assert (masks[name] == kept[:, None]).all()
            assert (masks[name.replace("intermediate", "output")] == kept).all()
            bias = name.replace("weight", "bias")
            if which == "biases":
                assert (masks[bias] == kept).all()
            else:
                assert bias not in masks
                weights = load_artifact(store, "models", spec.trial_id, "kept.safetensors")[bias]
                moved = (weights != theta_0(spec)[bias]).numpy()
                assert not moved[~kept].any()
                assert moved[kept].any()
        whole = [
            name for name in masks if "attention" in name or "pooler" in name or name.endswith("output.dense.bias")
        ]
        assert which == "layer" or all(masks[name].all() for name in whole)
    plain, shuffled = (dc.masks(store, trials[which].trial_id) for which in ("neuron", "shuffled"))
    assert any((plain[name] != shuffled[name]).any() for name in plain)


@pytest.mark.usefixtures("torch_state")
def test_the_card_says_what_was_left_out_and_measured(
    ran: tuple[dc.Store, dict[str, TrialSpec]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trials = ran
    assert main(["export", store.uri, trials["neuron"].trial_id, str(tmp_path / "small"), "--shrink"]) == 0
    said = capsys.readouterr().out
    assert "96 of 256 neurons in each feed-forward layer, " in said
    card = (tmp_path / "small" / "README.md").read_text()
    left = 108_866 - 160 * 2 * (2 * 64 + 1)
    assert f"has 96 of 256 neurons, the network {left:,} of 108,866 parameters; what is left out was pruned" in card
    assert "a batch of 8 texts of 32 tokens took" in card
    assert "the median of 9 pairs" in card
    assert "structured-pruning" in card
    assert "unstructured" not in card
    assert "zeros in dense tensors" not in card
    [times] = [line for line in card.splitlines() if "times as fast" in line]
    assert said.split(" times as fast")[0].rpartition(" ")[2] in times


def emptied(model: Any, counts: list[int]) -> dict[str, np.ndarray]:
    """Masks that prune some single weights, and the first neurons of each layer; zeroes them in the model."""
    draw, masks = np.random.default_rng(0), {}
    for name, parameter in model.named_parameters():
        if name.endswith("dense.weight"):
            masks[name] = draw.random(tuple(parameter.shape)) < 0.8
            layer = int(name.split(".")[3]) if "layer" in name else None
            if layer is not None and "attention" not in name:
                axis = 0 if "intermediate" in name else 1
                np.moveaxis(masks[name], axis, 0)[: counts[layer]] = False
            with torch.no_grad():
                parameter.mul_(torch.from_numpy(masks[name]))
    return masks


def two_layers() -> Any:
    """A BERT in which every weight and bias matters to the outputs."""
    config = tiny_model("bert").config
    config.num_hidden_layers, config.intermediate_size = 2, 24
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def test_any_mask_that_empties_as_many_neurons_of_each_layer_will_do() -> None:
    model, tokenizer = two_layers(), load_tokenizer("toy", "main")
    masks = emptied(model, [5, 5])
    small = shrink_network(model, masks, tokenizer, 16)
    assert (small.neurons, small.full, small.tokens) == (19, 24, 16)
    zeros = sum(int((~mask).sum()) for mask in masks.values()) - 2 * 2 * 5 * 8
    assert small.zeros == zeros
    assert small.difference <= 1e-5
    assert len(small.ratios) == 9


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([5, 6], "leave 18 to 19 of the 24 neurons in each feed-forward layer, and a config has one width"),
        ([0, 0], "leave all of the 24 neurons"),
        ([24, 24], "leave none of the 24 neurons"),
    ],
)
def test_masks_that_leave_other_numbers_are_refused(counts: list[int], reason: str) -> None:
    model = two_layers()
    with pytest.raises(ValueError, match=reason):
        shrink_network(model, emptied(model, counts), load_tokenizer("toy", "main"), 16)


def test_a_network_whose_outputs_would_change_is_refused() -> None:
    model = two_layers()
    masks = emptied(model, [5, 5])
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = 1e-2  # pruned, and yet not zero
    with pytest.raises(ValueError, match=r"differ by .* for 8 texts, and 1e-05 is allowed"):
        shrink_network(model, masks, load_tokenizer("toy", "main"), 16)


def test_a_trial_of_single_weights_is_refused_and_nothing_is_written(
    ran: tuple[dc.Store, dict[str, TrialSpec]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trials = ran
    spec = trials["layer"]
    assert main(["export", store.uri, spec.trial_id, str(tmp_path / "small"), "--shrink"]) == 2
    said = capsys.readouterr().err
    assert f"trial '{spec.trial_id}' (LayerMagWeight) cannot be shrunk: its masks leave all of the 256 neurons" in said
    assert not (tmp_path / "small").exists()


def test_an_architecture_without_a_width_in_its_config_is_refused() -> None:
    model = tiny_model("modernbert").eval()
    masks = {name: np.ones(tuple(each.shape), bool) for name, each in model.named_parameters() if each.dim() == 2}
    with pytest.raises(ValueError, match="feed-forward layers of modernbert are not two matrices each, but gated"):
        shrink_network(model, masks, load_tokenizer("toy", "main"), 16)
