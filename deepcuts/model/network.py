"""Runs a model: its outputs and loss, which of its tensors are prunable, and what a forward pass costs.

B = examples of a batch, T = tokens of the longest, C = outputs of the head (classes, or 1 for a regression).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcuts.pruning.masks import bytewise

ModelInputs = Mapping[str, Tensor]
# Ways to compute the same in less time: our own attention; linear layers with packed weights, and with the GELU after
# them in one operation; the gradients of several batches in one backward pass; the last layer for the first token
# alone; training only the words that occur; replaying a step on a GPU.
Shortcut = Literal["attention", "packed_weights", "gelu", "batch_gradients", "first_token", "used_words", "cuda_graphs"]


@dataclass(frozen=True)
class Network:
    """A model and how it is run.

    `head` says what its outputs mean ("linear" or "sigmoid5"), `loss` how a batch's loss is reduced ("mean" or
    "mse_sum"), `precision` the type of matrix products ("fp32" or "bf16"). Training runs `compiled`, where it is given,
    in place of the model. `shortcuts_off` names the shortcuts that would change what this model computes, or
    that failed; copies share it.
    """

    model: nn.Module
    head: str
    loss: str
    precision: str
    device: torch.device
    compiled: Callable[..., Any] | None = None
    shortcuts_off: set[Shortcut] = field(default_factory=set)

    def takes(self, shortcut: Shortcut) -> bool:
        """Return whether this network may take a shortcut."""
        return shortcut not in self.shortcuts_off

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a batch whose size does not matter: few enough for a CPU's cache, enough to keep a GPU busy."""
        return 1024 if self.device.type == "cpu" else 8192

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def outputs(self, batch: ModelInputs) -> Tensor:
        """Return outputs (B, C) in fp32 for inputs (B, T); `sigmoid5` maps them to 0..5, as the seed does for STS-B."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        run = self.compiled if self.compiled is not None and self.model.training else self.model
        with self.autocast():
            logits = run(**inputs).logits.float()
        return 5 * torch.sigmoid(logits) if self.head == "sigmoid5" else logits

    def autocast(self) -> torch.autocast:
        """Return a context in which matrix products run in the network's precision and weights are cast once."""
        bf16 = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=bf16)

    def batch_loss(self, batch: ModelInputs, examples: int) -> Tensor:
        """Return the contribution of a micro-batch (B, T) to the loss () of a whole batch of `examples`.

        The loss is the mean cross entropy or squared error of the batch, so these contributions add up to it. With
        `mse_sum` squared errors are summed and not averaged, as the seed does for STS-B.
        """
        outputs, labels = self.outputs(batch), batch["labels"]
        assert outputs.shape[0] == labels.shape[0]
        if outputs.shape[1] == 1:
            squares = (outputs[:, 0] - labels).square().sum()
            return squares if self.loss == "mse_sum" else squares / examples
        return F.cross_entropy(outputs, labels.long(), reduction="sum") / examples


def compiled(model: nn.Module) -> Callable[..., Any]:
    """Return the model under `torch.compile`, which compiles it at its first batch, for batches of all shapes.

    Forgets what this process compiled before: torch stops compiling code that it has compiled for eight other networks,
    and the bits must not depend on what ran before.
    """
    torch.compiler.reset()
    run: Callable[..., Any] = torch.compile(model, dynamic=True)
    return run


def prunable(model: nn.Module, biases: bool) -> list[str]:
    """Return the names of the prunable parameters in bytewise order.

    These are the weights, and with `biases` also the biases, of every nn.Linear of the encoder but of its embeddings.
    """
    encoder: nn.Module = model.base_model  # type: ignore[assignment]
    linear = {
        id(module)
        for path, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and "embeddings" not in path.split(".")
    }
    names = []
    for path, module in model.named_modules():
        if id(module) in linear:
            names.append(f"{path}.weight")
            if biases and module.bias is not None:
                names.append(f"{path}.bias")
    return bytewise(names)


def flops(model: nn.Module, tokens: int, nonzero: bool = False) -> int:
    """Count the floating point operations of the linear layers in a forward pass of one example of `tokens` tokens.

    A layer takes 2 x inputs x outputs for each position, biases left out: every token in the encoder, one position in
    the pooler and the head. With `nonzero`, only weights that are not zero count (Blalock et al. 2020, arXiv
    2003.03033, ask for both).
    """
    encoder: nn.Module = model.base_model  # type: ignore[assignment]
    per_token = {id(m) for path, m in encoder.named_modules() if "pooler" not in path.split(".")}
    total = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weights = int(torch.count_nonzero(module.weight)) if nonzero else module.weight.numel()
            total += 2 * weights * (tokens if id(module) in per_token else 1)
    return total


def weights_of(network: Network) -> dict[str, Tensor]:
    """Copy every parameter to the CPU; the copies share no memory with the network."""
    return {name: parameter.detach().cpu().clone() for name, parameter in network.model.named_parameters()}


@torch.no_grad()
def set_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the network. Raises ValueError unless there is one of each parameter's name and shape."""
    parameters = dict(network.model.named_parameters())
    if set(parameters) != set(weights):
        raise ValueError(f"weights of other parameters: {sorted(set(parameters) ^ set(weights))[:3]!r}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)!r} and the network's {tuple(parameter.shape)!r}"
            raise ValueError(f"weights of other parameters: {name!r} has shape {shapes}")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
