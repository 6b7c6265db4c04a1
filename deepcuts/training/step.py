"""Takes one optimiser step: the gradients of a batch, masked and clipped, and an update at the scheduled learning rate.

B = examples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from deepcuts.data.batches import Integers, Tokens, micro_batches
from deepcuts.experiment.settings import Training
from deepcuts.fast.cuda_graphs import RECORDERS, Captured
from deepcuts.model.network import Network

# Where steps can be recorded, batches are padded to multiples of this many tokens, so that fewer shapes occur.
LENGTH_MULTIPLE = 8
# Takes a seed and the examples of a batch; returns the loss of the batch, still on the device.
Step = Callable[[int, Integers], Tensor]


def make_step(
    network: Network,
    tokens: Tokens,
    settings: Training,
    optimiser: torch.optim.Optimizer,
    masked: Sequence[tuple[nn.Parameter, Tensor]],
) -> Step:
    """Return the function that takes one step on a batch of `tokens`, which must be on the network's device.

    `masked` pairs parameters with their masks. On a device that can, the step is recorded and replayed if the network
    asks for it; the bits are the same.
    """
    compute = partial(take_step, network, tokens, settings, optimiser, masked)
    on_failure = partial(network.shortcuts_off.add, "cuda_graphs")
    state = partial(_state, network.model, optimiser)
    captured = Captured(compute, state, network.device, on_failure, wanted=network.capture)
    lengths, longest = tokens.lengths, int(tokens.lengths.max())

    def step(seed: int, batch: Integers) -> Tensor:
        sizes = [int(lengths[part].max()) for part in micro_batches(batch, settings.micro_batch)]
        if network.device.type in RECORDERS:
            sizes = [min(-(-size // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, longest) for size in sizes]
        return captured(seed, tokens.places(batch), tuple(sizes))

    return step


def take_step(
    network: Network,
    tokens: Tokens,
    settings: Training,
    optimiser: torch.optim.Optimizer,
    masked: Sequence[tuple[nn.Parameter, Tensor]],
    places: Tensor,
    sizes: Sequence[int],
) -> Tensor:
    """Take one step on the examples at `places` (3, B), in micro-batches of `sizes` tokens each; return the loss ().

    Control flow never depends on the values of tensors, and nothing of the backward pass outlives the call, so the step
    can be recorded.
    """
    network.model.train()
    optimiser.zero_grad(set_to_none=True)
    examples = places.shape[1]
    total = torch.zeros((), device=network.device)
    for part, size in zip(places.split(settings.micro_batch or examples, 1), sizes, strict=True):
        loss = network.batch_loss(tokens.at(part, size), examples)
        loss.backward()
        total += loss.detach()
    for parameter, mask in masked:
        if parameter.grad is not None:
            parameter.grad.mul_(mask)
    if settings.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(network.model.parameters(), settings.max_grad_norm)
    if network.device.type == "cuda":
        for group in optimiser.param_groups:  # must be set while capturing; torch warns about it at other times
            group["capturable"] = torch.cuda.is_current_stream_capturing()
    optimiser.step()
    return total


def _state(model: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield every tensor that a step changes."""
    yield from model.parameters()
    for state in optimiser.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def make_optimiser(model: nn.Module, settings: Training, device: torch.device) -> torch.optim.Optimizer:
    """Return a fresh optimiser that, as is usual, decays matrices but not vectors (biases and LayerNorm).

    Where steps can be recorded, the learning rate is a tensor on the device: a recording would keep any Python number.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    lr = torch.tensor(settings.lr, device=device) if device.type in RECORDERS else settings.lr
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=settings.betas[0], fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr, betas=settings.betas, fused=True)


def rate(settings: Training, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then constant, linear or cosine decay to 0 at the end.

    With w = int(warmup * steps), step k of the warm-up has (k + 1) / w of the rate, so that no step is lost. The
    schedules of `transformers` have k / w (and its Trainer w = ceil(warmup * steps)); from step w on they are equal.
    """
    warmup = int(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.lr * factors[settings.schedule]


def set_rate(optimiser: torch.optim.Optimizer, settings: Training, step: int, steps: int) -> None:
    """Set the learning rate of a step in place, also where it is a tensor on the device."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate(settings, step, steps))
        else:
            group["lr"] = rate(settings, step, steps)
