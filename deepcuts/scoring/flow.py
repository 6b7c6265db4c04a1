"""Differentiates the flow of a network: what comes out of it where all weights are positive and all inputs are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from deepcuts.fast.attention import use_torch_attention
from deepcuts.model.network import SAMPLE_TOKENS, sample


def flow_gradients(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return dR/d abs(theta) of each parameter in float64: R is the sum of the outputs of the network with abs(theta).

    Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow", arXiv
    2006.05467, equation 1 and algorithm 1. The inputs are word embeddings of ones, for one text of 8 tokens, and the
    network is in evaluation mode. All of this is done to a copy of the model.
    """
    copy: Any = deepcopy(model).eval().requires_grad_(False).double()
    if hasattr(copy, "config"):
        use_torch_attention(copy)  # ours has its softmax in float32
    parameters = {name: copy.get_parameter(name) for name in names}
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.abs_()
        copy.get_input_embeddings().weight.fill_(1.0)
    for parameter in parameters.values():
        parameter.requires_grad_()
    device = next(copy.parameters()).device
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        flow = copy(**sample(copy, SAMPLE_TOKENS)).logits.sum()
        found = torch.autograd.grad(flow, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def check_flow(scores: Mapping[str, Tensor]) -> None:
    """Raise ValueError where every score of SynFlow is zero: there is nothing to choose by."""
    if not any(bool(score.any()) for score in scores.values()):
        raise ValueError(
            "every SynFlow score is 0: no path of weights that are not zero leads from the inputs of the network to its"
            " outputs; prune less, or take another criterion"
        )
