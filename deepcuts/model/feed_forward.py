"""Finds the feed-forward layers of a model, and makes the model again with fewer neurons in them.

F = neurons of a feed-forward layer, between its two linear layers; H = its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from deepcuts.model.network import linear_layers, transposed
from deepcuts.pruning.compression import FeedForward

# The keys of a config that say F, by architecture; BART has one for each side.
WIDTHS = ("intermediate_size", "hidden_dim", "n_inner", "d_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")


def find_feed_forward(model: nn.Module, prunable: Collection[str]) -> list[FeedForward]:
    """Find the feed-forward layers of a model: pairs of linear layers that the width in its config connects.

    Their tensors are those whose shapes follow that width when the architecture is built with another one. In the order
    of their definition, each layer that has it as outputs must come just before one that has it as inputs. Raises
    ValueError with the reason where the layers are not such pairs, of one width, all of them `prunable`.
    """
    kind = _config(model).model_type
    axes = _axes_of_width(model, kind)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    widths = sorted({shapes[name][axis] for name, axis in axes.items()})
    if len(widths) > 1:
        raise ValueError(f"its feed-forward layers differ in width: {', '.join(map(str, widths))}")
    turned = transposed(model)
    weights = [name for name in axes if name.endswith(".weight")]
    firsts = [axes[name] == (1 if name in turned else 0) for name in weights]
    if firsts != [True, False] * (len(weights) // 2):
        raise ValueError(_other_form(kind, weights))
    missing = [name for name in weights if name not in prunable]
    if missing:
        raise ValueError(f"feed-forward layers of {kind} are not prunable ({_few(missing)})")
    return [_layer(axes, *pair) for pair in zip(weights[::2], weights[1::2], strict=True)]


def _layer(axes: Mapping[str, int], first: str, second: str) -> FeedForward:
    bias = f"{first.removesuffix('.weight')}.bias"
    return {first: axes[first]} | ({bias: 0} if bias in axes else {}) | {second: axes[second]}


def _axes_of_width(model: nn.Module, kind: str) -> dict[str, int]:
    """Return each parameter that has the width of the feed-forward layers, in order, and the axis that it is along."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sizes = {size for shape in shapes.values() for size in shape}
    other = next(size for size in count(16, 16) if size not in sizes)
    try:
        with torch.device("meta"):
            built = _built(model, other)
    except Exception as error:  # whatever its code expects of a width
        raise ValueError(f"the architecture of {kind} takes no other width of feed-forward layers: {error}") from error
    changed = {name: each.shape for name, each in built.named_parameters() if each.shape != shapes[name]}
    if not changed:
        raise ValueError(f"the config of {kind} has no width of feed-forward layers (such as {WIDTHS[0]})")
    linear = linear_layers(model)
    strange = [name for name in changed if name.rpartition(".")[0] not in linear]
    if strange:
        raise ValueError(f"feed-forward layers of {kind} are more than linear layers ({_few(strange)})")
    axes = {name: next(i for i, size in enumerate(shape) if size != shapes[name][i]) for name, shape in changed.items()}
    gated = [name for name, axis in axes.items() if changed[name][axis] != other]
    if gated:
        raise ValueError(_other_form(kind, gated))
    return axes


def _other_form(kind: str, names: Sequence[str]) -> str:
    return f"the feed-forward layers of {kind} are not two matrices each, but gated or of another form ({_few(names)})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _built(model: nn.Module, width: int) -> Any:
    """Build the model's architecture in fp32 with another width of feed-forward layers."""
    config = deepcopy(_config(model))
    for key in WIDTHS:
        if hasattr(config, key):
            setattr(config, key, width)
    return type(model)(config)


def _config(model: Any) -> Any:
    return model.config


def with_neurons(model: nn.Module, layers: Sequence[FeedForward], kept: Sequence[Tensor]) -> Any:
    """Return the model with only the neurons that `kept` (F,) has for each layer, the same number in all of them.

    Its config says the new width; all other weights are copied.
    """
    (width,) = {int(neurons.sum()) for neurons in kept}
    weights = model.state_dict()
    for layer, neurons in zip(layers, kept, strict=True):
        places = neurons.nonzero()[:, 0]
        for name, axis in layer.items():
            weights[name] = weights[name].index_select(axis, places)
    small = _built(model, width)
    small.load_state_dict(weights)
    return small.eval()
