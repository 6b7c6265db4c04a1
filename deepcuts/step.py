"""One step of the optimiser: the gradients of a batch, masked and clipped, and the update.

B = examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from deepcuts.batches import Integers, Tokens, micro_batches
from deepcuts.capture import RECORDERS, Captured
from deepcuts.models import Network
from deepcuts.spec import Training

# Where steps are recorded, batches are as long as multiples of this: there are fewer to record.
LENGTHS = 8
# Takes a seed and the examples of a batch, and gives the batch's loss, still on the device.
Step = Callable[[int, Integers], Tensor]


def make_step(
    network: Network,
    tokens: Tokens,
    settings: Training,
    optimiser: torch.optim.Optimizer,
    masked: Sequence[tuple[nn.Parameter, Tensor]],
) -> Step:
    """A step over batches of `tokens`, which lie on the network's device; `masked` has parameters with their masks."""
    work = partial(take, network, tokens, settings, optimiser, masked)
    captured = Captured(work, partial(_state, network.model, optimiser), network.device)
    lengths, longest = tokens.lengths, int(tokens.lengths.max())

    def step(seed: int, batch: Integers) -> Tensor:
        sizes = [int(lengths[part].max()) for part in micro_batches(batch, settings.micro_batch)]
        if network.device.type in RECORDERS:
            sizes = [min(-(-size // LENGTHS) * LENGTHS, longest) for size in sizes]
        return captured(seed, tokens.places(batch), tuple(sizes))

    return step


def take(
    network: Network,
    tokens: Tokens,
    settings: Training,
    optimiser: torch.optim.Optimizer,
    masked: Sequence[tuple[nn.Parameter, Tensor]],
    places: Tensor,
    sizes: Sequence[int],
) -> Tensor:
    """One step over the examples at `places` (3, B), whose micro-batches are as long as `sizes`.

    Nothing in it depends on what tensors hold, and nothing of its backward pass is left behind: it can be recorded.
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
        for group in optimiser.param_groups:  # torch wants to be told, and warns of it at other times
            group["capturable"] = torch.cuda.is_current_stream_capturing()
    optimiser.step()
    return total


def _state(model: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    """All that a step changes."""
    yield from model.parameters()
    for state in optimiser.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
