"""A fine-tuned network and batches to the scores of several criteria, in one pass.

B = examples of a batch, T = tokens of its longest, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from deepcuts import firsttoken
from deepcuts.batches import Integers, Tokens, micro_batches
from deepcuts.checkpoint import Checkpoint, Interrupted
from deepcuts.criteria import CRITERIA, Pass, Weights
from deepcuts.criteria import Batch as Evidence
from deepcuts.masks import bytewise
from deepcuts.models import Network
from deepcuts.observe import Sums, observe
from deepcuts.packed import packed
from deepcuts.seeds import derive

# Batches that are looked at together before their gradients are taken.
WINDOW = 16
# Tokens of the noisy passes that run as one batch, where the device does not want more.
TOKENS = 2560
# Gaussian numbers that the noise of a CPU is taken from: twice the output of so many tokens in a layer 3,276 wide.
DRAWN = 2**24


@dataclass(frozen=True)
class Settings:
    """How the batches are run, at most `micro_batch` examples at once (None: all) where gradients are taken; `passes`,
    `noise_std` only matter to a smoothed pass, `shift` to Shift criteria."""

    seed: int
    micro_batch: int | None = None
    passes: int = 10
    noise_std: float = 0.001
    shift: float = 10.0
    dropout: bool = True
    count_padding: bool = False


def score(
    network: Network,
    names: Sequence[str],
    criteria: Sequence[str],
    tokens: Tokens,
    order: Sequence[Integers],
    settings: Settings,
    initial: Mapping[str, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    after_batch: Callable[[int], bool] = lambda used: False,
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Scores of the parameters `names`, per criterion, fp32 on the CPU, and the number of batches used.

    All criteria must need the same pass. `order` has the examples of each batch; `tokens` lie where the network is.
    The gradients of micro-batches are put together as if their batch were whole. A criterion's bits do not depend on
    the others asked for. Raises ValueError when a loss or a score is not finite, Interrupted (with the sums saved)
    when `after_batch` says to stop.
    """
    data = {CRITERIA[criterion].data for criterion in criteria}
    assert len(data) == 1, "criteria of one call share their pass"
    parameters = dict(network.model.named_parameters())
    tensors = {name: parameters[name] for name in bytewise(names)}
    pass_ = data.pop()
    totals, used = _resumed(criteria, network.device, checkpoint if pass_ != "none" else None)
    saved = time.monotonic()
    # Casts are kept over passes with and without gradients, which torch can do since its pull request 165068.
    with _only_gradients_of(network.model, tensors), packed(network.model, network.dtype), network.autocast():
        for batch, seen in _looks(network, tensors, list(totals), tokens, order, settings, used):
            _add_batch(network, tensors, totals, tokens, batch, seen, settings, used)
            used += 1
            stopping = after_batch(used)
            if checkpoint and (stopping or time.monotonic() - saved > checkpoint.minutes * 60):
                _save(totals, used, checkpoint)
                saved = time.monotonic()
            if stopping:
                raise Interrupted
    scores = {}
    for criterion in criteria:
        generator = torch.Generator().manual_seed(derive(settings.seed, "score", criterion))
        scores[criterion] = {
            name: _score(criterion, tensor, totals[criterion].get(name), initial, name, generator)
            for name, tensor in tensors.items()
        }
    return scores, used


def _save(totals: Mapping[str, Mapping[str, Tensor]], used: int, checkpoint: Checkpoint) -> None:
    tensors = {f"{criterion}/{name}": total for criterion, sums in totals.items() for name, total in sums.items()}
    checkpoint.save(tensors, {"used": used, "criteria": list(totals)})


def _resumed(
    criteria: Sequence[str], device: torch.device, checkpoint: Checkpoint | None
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Sums per criterion and name, and the batches in them: from the checkpoint where it has all the criteria."""
    totals: dict[str, dict[str, Tensor]] = {criterion: {} for criterion in criteria}
    saved = checkpoint.load() if checkpoint else None
    if saved is None or not set(criteria) <= set(saved[1]["criteria"]):
        return totals, 0
    for key, total in saved[0].items():
        criterion, _, name = key.partition("/")
        if criterion in totals:
            totals[criterion][name] = total.to(device)
    return totals, int(saved[1]["used"])


@torch.no_grad()
def _score(
    criterion: str,
    tensor: Tensor,
    total: Tensor | None,
    initial: Mapping[str, Tensor] | None,
    name: str,
    generator: torch.Generator,
) -> Tensor:
    start = initial[name].to(tensor.device) if initial is not None and CRITERIA[criterion].initial else None
    value = CRITERIA[criterion].score(Weights(tensor.detach(), start, generator), total).float().cpu()
    assert value.shape == tensor.shape
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{criterion} scores of {name!r} are not finite: {int((~value.isfinite()).sum())} values")
    return value


def _looks(
    network: Network,
    tensors: Mapping[str, nn.Parameter],
    criteria: Sequence[str],
    tokens: Tokens,
    order: Sequence[Integers],
    settings: Settings,
    used: int,
) -> Iterator[tuple[Integers, dict[str, Sums]]]:
    """The batches from `used` on, and what passes without gradients show of each, where a criterion asks for it.

    Windows of batches begin at the same ones wherever scoring goes on, and so their sums have the same bits.
    """
    rows = [CRITERIA[criterion] for criterion in criteria]
    if rows[0].data == "none":
        return
    paths = {name.rpartition(".")[0] for name in tensors}
    inputs = rows[0].data == "forward"
    looking = inputs or any(row.outputs for row in rows)
    for first in range(used - used % WINDOW, len(order), WINDOW):
        window = order[first : first + WINDOW]
        sums = observe(network, paths, tokens, window, settings.count_padding, inputs) if looking else {}
        for index in range(max(used - first, 0), len(window)):
            yield window[index], {path: each.of(index) for path, each in sums.items()}


def _add_batch(
    network: Network,
    tensors: Mapping[str, nn.Parameter],
    totals: dict[str, dict[str, Tensor]],
    tokens: Tokens,
    batch: Integers,
    seen: Mapping[str, Sums],
    settings: Settings,
    index: int,
) -> None:
    rows = [CRITERIA[criterion] for criterion in totals]
    gradients = {}
    if rows[0].data != "forward":
        parts = [tokens.batch(part) for part in micro_batches(batch, settings.micro_batch)]
        gradients = _gradients(network, tensors, parts, rows[0].data, settings, index)
    with torch.no_grad():
        for name in tensors:
            evidence = _evidence(name, gradients.get(name), seen.get(name.rpartition(".")[0]), settings.shift)
            for criterion, row in zip(totals, rows, strict=True):
                assert row.term is not None
                term = row.term(evidence if row.shifted else replace(evidence, shift=0.0)).float()
                sums = totals[criterion]
                sums[name] = sums[name].add_(term) if name in sums else term.clone()


def _evidence(name: str, gradient: Tensor | None, seen: Sums | None, shift: float) -> Evidence:
    """A bias (O,) is scored like a weight: its output unexpanded, its input 1."""
    if seen is None:
        return Evidence(gradient, shift=shift)
    bias, mean = name.endswith(".bias"), seen.values / seen.count
    if seen.squares is None:
        return Evidence(gradient, output_mean=mean if bias else mean[:, None], shift=shift)
    if bias:
        one = torch.ones(1, device=mean.device)
        return Evidence(input_mean=one, input_squares=one * seen.count)
    return Evidence(input_mean=mean[None], input_squares=seen.squares[None])


def _gradients(
    network: Network,
    tensors: Mapping[str, nn.Parameter],
    parts: Sequence[Mapping[str, Tensor]],
    pass_: Pass,
    settings: Settings,
    index: int,
) -> dict[str, Tensor]:
    """Gradients of the batch's loss; when smoothed, their mean over passes with noise on every linear output.

    The random numbers of repeats that run together are drawn from the seed, the pass, the batch and the first of them.
    """
    network.model.train(settings.dropout)
    network.model.zero_grad(set_to_none=True)
    repeats = settings.passes if pass_ == "smoothed" else 1
    examples = sum(len(batch["labels"]) for batch in parts)
    together = _together(network, parts, repeats)
    total = torch.zeros((), device=network.device)
    std = settings.noise_std if pass_ == "smoothed" else 0.0
    with firsttoken.alone(network.model), _noise(network.model, std, settings.seed):
        for repeat in range(0, repeats, together):
            for part, batch in enumerate(parts):
                torch.manual_seed(derive(settings.seed, pass_, index, repeat, part))
                loss = network.batch_loss(_repeated(batch, min(together, repeats - repeat)), examples)
                loss.backward()
                total += loss.detach()
    if not bool(torch.isfinite(total)):
        raise ValueError(f"the loss of scoring batch {index} is {total.item() / repeats!r}, not finite")
    gradients = {}
    for name, tensor in tensors.items():
        # An unused tensor (a pooler that the head passes by) has no gradient: it has no influence on the loss.
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        gradients[name] = gradient if repeats == 1 else gradient.div_(repeats)
    network.model.zero_grad(set_to_none=True)
    network.model.eval()
    return gradients


def _together(network: Network, parts: Sequence[Mapping[str, Tensor]], repeats: int) -> int:
    """How many repeats run as one batch, for larger products are faster; one by one where a batch does not fit."""
    if len(parts) > 1:
        return 1
    tokens = max(TOKENS, network.tokens_at_once)
    most = max(1, min(repeats, tokens // parts[0]["attention_mask"].numel()))
    return math.ceil(repeats / math.ceil(repeats / most))  # in parts of nearly equal size


def _repeated(batch: Mapping[str, Tensor], times: int) -> Mapping[str, Tensor]:
    if times == 1:
        return batch
    return {name: tensor.repeat(times, *[1] * (tensor.dim() - 1)) for name, tensor in batch.items()}


@contextmanager
def _noise(model: nn.Module, std: float, seed: int) -> Iterator[None]:
    """Gaussian noise on the output of every linear layer, the head included (the seed's SmoothGrad)."""

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.add(output, _gaussian(output, seed), alpha=std)

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)] if std > 0 else []
    handles = [module.register_forward_hook(add) for module in linear]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gaussian(like: Tensor, seed: int) -> Tensor:
    """Numbers of N(0, 1) in the shape of a tensor; on a CPU a window of a long row that was drawn once.

    Where the window begins is random: the shared noise of Salimans et al. 2017, arXiv 1703.03864. Drawing every number
    anew, as for larger tensors still, took a CPU a quarter of a smoothed pass.
    """
    if not like.is_cpu or like.numel() > DRAWN // 2:  # a longer window has too few places to begin
        return torch.randn_like(like)
    begin = int(torch.randint(DRAWN - like.numel(), ()))
    return _row(seed, like.dtype)[begin : begin + like.numel()].view(like.shape)


@lru_cache(maxsize=1)
def _row(seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(DRAWN, generator=torch.Generator().manual_seed(derive(seed, "noise"))).to(dtype)


@contextmanager
def _only_gradients_of(model: nn.Module, tensors: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Spare the gradients that nothing scores."""
    wanted = {id(tensor) for tensor in tensors.values()}
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
