"""The feed-forward layers of many architectures, and the same outputs without the neurons that are pruned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from builders.architectures import SHAPE, WORDS, architecture
from builders.tiny_models import tiny_model
from torch import Tensor, nn

from deepcuts.model.feed_forward import find_feed_forward, with_neurons
from deepcuts.model.network import find_prunable
from deepcuts.pruning.masks import make_masks, zero_weights
from deepcuts.pruning.neurons import kept_neurons

ONE = {"layer.0.intermediate.dense.weight": 0, "layer.0.intermediate.dense.bias": 0, "layer.0.output.dense.weight": 1}
# The tensors of the first feed-forward layer, by the ends of their names.
FIRST = {
    "albert": {"0.ffn.weight": 0, "0.ffn.bias": 0, "0.ffn_output.weight": 1},
    **dict.fromkeys(("bert", "big_bird", "deberta", "deberta-v2", "esm", "longformer", "roberta"), ONE),
    "distilbert": {"layer.0.ffn.lin1.weight": 0, "layer.0.ffn.lin1.bias": 0, "layer.0.ffn.lin2.weight": 1},
    "funnel": {"0.ffn.linear_1.weight": 0, "0.ffn.linear_1.bias": 0, "0.ffn.linear_2.weight": 1},
    "gpt2": {"h.0.mlp.c_fc.weight": 1, "h.0.mlp.c_fc.bias": 0, "h.0.mlp.c_proj.weight": 0},
    "xlnet": {"layer.0.ff.layer_1.weight": 0, "layer.0.ff.layer_1.bias": 0, "layer.0.ff.layer_2.weight": 1},
}
REFUSED = {
    "mixtral": "feed-forward layers of mixtral are more than linear layers",
    "squeezebert": "feed-forward layers of squeezebert are more than linear layers",
}


def prunable(model: nn.Module, biases: bool = False) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().abs() for name in find_prunable(model, biases).names}


@pytest.mark.parametrize("kind", FIRST)
def test_without_its_pruned_neurons_a_network_says_the_same(kind: str) -> None:
    model: Any = architecture(kind).model
    scores = prunable(model)
    layers = find_feed_forward(model, scores)
    assert len(layers) == (1 if kind == "albert" else 2)
    for (name, axis), (end, expected) in zip(layers[0].items(), FIRST[kind].items(), strict=True):
        assert name.endswith(end)
        assert axis == expected
    ids = torch.randint(3, 59, (4, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        total = sum(score.numel() for score in scores.values())
        neuron = sum(scores[name].numel() for layer in layers for name in layer if name in scores) / 12
        masks = make_masks(scores, 1 - 5 * neuron / total, "neuron", layers=layers)
        zero_weights(model, masks)
        small = with_neurons(model, layers, [kept_neurons(masks, layer) for layer in layers])
        pruned, without = model(input_ids=ids).logits, small(input_ids=ids).logits
    assert float((without - pruned).abs().max()) < 1e-5 * max(1, float(pruned.abs().max()))
    assert float((before - pruned).abs().max()) > 1e-3
    widths = {
        parameter.shape[axis]
        for layer in layers
        for name, axis in layer.items()
        for parameter in [small.get_parameter(name)]
    }
    assert widths == {7}
    again = type(small)(type(small.config).from_dict(small.config.to_dict()))  # its config says so
    assert {name: each.shape for name, each in again.named_parameters()} == {
        name: each.shape for name, each in small.named_parameters()
    }


@pytest.mark.parametrize("kind", REFUSED)
def test_layers_that_are_no_two_matrices_are_refused(kind: str) -> None:
    model = architecture(kind).model
    with pytest.raises(ValueError, match=REFUSED[kind]):
        find_feed_forward(model, prunable(model))


def test_gated_layers_are_refused() -> None:
    for model in (tiny_model("modernbert"), other("llama", num_key_value_heads=2)):
        with pytest.raises(ValueError, match="are not two matrices each, but gated or of another form"):
            find_feed_forward(model, prunable(model))


def other(kind: str, **settings: Any) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(kind, **SHAPE | WORDS | settings)
    return transformers.AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("kind", ["xlm", "openai-gpt"])
def test_a_config_without_a_width_is_refused(kind: str) -> None:
    model = other(kind)
    with pytest.raises(ValueError, match=f"the config of {kind} has no width of feed-forward layers"):
        find_feed_forward(model, prunable(model))


def test_gpt2_says_no_width_where_it_is_four_times_its_inputs() -> None:
    model = other("gpt2", n_inner=None)
    layers = find_feed_forward(model, prunable(model))
    kept = [torch.arange(32) < 20 for _ in layers]
    assert with_neurons(model, layers, kept).config.n_inner == 20


def test_layers_of_two_widths_are_refused() -> None:
    sides = {f"{side}_{each}": 2 for side in ("encoder", "decoder") for each in ("layers", "attention_heads")}
    model = other("bart", d_model=8, encoder_ffn_dim=12, decoder_ffn_dim=20, **sides)
    with pytest.raises(ValueError, match="differ in width: 12, 20"):
        find_feed_forward(model, prunable(model))
    model = other("bart", d_model=8, encoder_ffn_dim=12, decoder_ffn_dim=12, **sides)
    layers = find_feed_forward(model, prunable(model))
    assert len(layers) == 4
    small = with_neurons(model, layers, [torch.arange(12) < 5 for _ in layers])
    assert (small.config.encoder_ffn_dim, small.config.decoder_ffn_dim) == (5, 5)


def test_a_layer_of_which_a_matrix_is_not_prunable_is_refused() -> None:
    model = architecture("bert").model
    found = {name: each for name, each in prunable(model).items() if "layer.1.output" not in name}
    with pytest.raises(ValueError, match=r"are not prunable \(bert.encoder.layer.1.output.dense.weight\)"):
        find_feed_forward(model, found)
