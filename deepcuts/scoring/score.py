"""Scores the weights of a fine-tuned network by several criteria in one pass over the scoring batches.

B = examples of a batch, T = tokens of its longest, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.data.batches import Integers, Tokens, group_batches, micro_batches
from deepcuts.experiment.spec import ScoringPass
from deepcuts.fast.dropout import dropout_table
from deepcuts.fast.first_token import first_token_alone
from deepcuts.fast.packed_linear import packed_linears
from deepcuts.model.network import Network, transposed
from deepcuts.pruning.criteria import CRITERIA, Criterion, Evidence, Pass, Weights
from deepcuts.pruning.masks import bytewise
from deepcuts.scoring.activations import Sums, find_axes, observe
from deepcuts.scoring.gradients import Gradients, Use, separable
from deepcuts.scoring.noise import noisy_outputs
from deepcuts.seeds import derive
from deepcuts.training.checkpoint import Checkpoint, Interrupted

# How many batches form a window: their activations are observed before any gradient is taken, and batches of similar
# length within a window run as one.
WINDOW = 32
# Most tokens of the noisy passes that run as one batch, where the device does not want more.
TOKENS = 2560


def score(
    network: Network,
    names: Sequence[str],
    criteria: Sequence[str],
    tokens: Tokens,
    order: Sequence[Integers],
    settings: ScoringPass,
    seed: int,
    initial: Mapping[str, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    after_batch: Callable[[int], bool] = lambda used: False,
    own: Mapping[str, Criterion] | None = None,
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Return the scores of the parameters `names` by criterion, fp32 on the CPU, and how many batches were used.

    All criteria must need the same pass. `order` has the examples of each batch; `tokens` must be on the device of the
    network. Micro-batches give the gradients of their whole batch. A criterion's bits do not depend on the others
    asked for. `own` has the rows of those that are not in CRITERIA. Raises ValueError when a loss or a score is not
    finite, and Interrupted, once the sums are saved, when `after_batch` returns True.
    """
    rows = {criterion: (own or {}).get(criterion) or CRITERIA[criterion] for criterion in criteria}
    (pass_,) = {row.data for row in rows.values()}
    turned = transposed(network.model)
    tensors = _turn({name: network.model.get_parameter(name).detach() for name in bytewise(names)}, turned)
    start = _turn(initial, turned) if initial is not None else None
    totals, used = _totals(rows, tensors, checkpoint if pass_ != "none" else None)
    gradients, packed = Gradients(network.model, list(tensors)), network.takes("packed_weights")
    saved = time.monotonic()
    network.model.zero_grad(set_to_none=True)
    # Other casts are kept over passes with and without gradients, which torch can do since its pull request 165068.
    with (
        _only_gradients_of(network.model, tensors),
        packed_linears(network.model, network.dtype, on_backward=gradients.collect, pack=packed),
        dropout_table(),
        network.autocast(),
    ):
        for group in _groups(network, tensors, rows.values(), tokens, order, settings, used):
            _add_group(network, gradients, rows, totals, tokens, group, settings, seed, used)
            used += len(group.batches)
            stopping = after_batch(used)
            if checkpoint and (stopping or time.monotonic() - saved > checkpoint.minutes * 60):
                _save(totals, used, checkpoint)
                saved = time.monotonic()
            if stopping:
                raise Interrupted
    scores = {each: _scores(each, row, tensors, totals.get(each, {}), start, seed) for each, row in rows.items()}
    return {each: _turn(made, turned) for each, made in scores.items()}, used


def _turn(tensors: Mapping[str, Tensor], turned: Collection[str]) -> dict[str, Tensor]:
    """Transpose those tensors that are `turned`: weights stored as (I, O) to (O, I), and what was made of them back."""
    return {name: tensor.t().contiguous() if name in turned else tensor for name, tensor in tensors.items()}


def _save(totals: Mapping[str, Mapping[str, Tensor]], used: int, checkpoint: Checkpoint) -> None:
    tensors = {f"{criterion}/{name}": total for criterion, sums in totals.items() for name, total in sums.items()}
    checkpoint.save(tensors, {"used": used, "criteria": list(totals)})


def _totals(
    rows: Mapping[str, Criterion], tensors: Mapping[str, Tensor], checkpoint: Checkpoint | None
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Return the sums by criterion and name, and how many batches are in them.

    They go on from the checkpoint where it has all the criteria, and begin at zero elsewhere.
    """
    totals = {
        criterion: {
            name: tensor.new_zeros((1, *tensor.shape[1:]) if row.data == "forward" else tensor.shape)
            for name, tensor in tensors.items()
        }
        for criterion, row in rows.items()
        if row.add is not None
    }
    saved = checkpoint.load() if checkpoint else None
    if saved is None or not set(rows) <= set(saved[1]["criteria"]):
        return totals, 0
    for criterion, sums in totals.items():
        for name, total in sums.items():
            total.copy_(saved[0][f"{criterion}/{name}"])
    return totals, int(saved[1]["used"])


@torch.no_grad()
def _scores(
    criterion: str,
    row: Criterion,
    tensors: Mapping[str, Tensor],
    totals: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
    seed: int,
) -> dict[str, Tensor]:
    """Return the criterion's score of every tensor, from its sums over the batches. Raises ValueError unless finite."""
    scores = {}
    generator = torch.Generator().manual_seed(derive(seed, "score", criterion))
    for name, tensor in tensors.items():
        start = initial[name].to(tensor.device) if initial is not None and row.initial else None
        value = row.score(Weights(tensor, start, generator), totals.get(name)).float().cpu()
        if value.shape != tensor.shape:
            raise ValueError(f"{criterion} scores of {name!r} have the shape {[*value.shape]}, not {[*tensor.shape]}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{criterion} scores of {name!r} are not finite: {int((~value.isfinite()).sum())} values")
        scores[name] = value
    return scores


@dataclass(frozen=True)
class _Group:
    """Batches that run as one, and their places in their window.

    `seen` has what a pass without gradients shows of the whole window, by the path of the layer; it is empty where no
    criterion asks for it.
    """

    batches: list[Integers]
    places: Integers
    seen: dict[str, Sums]


def _groups(
    network: Network,
    names: Collection[str],
    rows: Collection[Criterion],
    tokens: Tokens,
    order: Sequence[Integers],
    settings: ScoringPass,
    used: int,
) -> Iterator[_Group]:
    """Yield the batches that are left after the first `used`, in groups that run as one.

    Windows begin at the same batches, and batches come in the same order, wherever scoring resumes and whatever
    `micro_batch` is: each batch is used once, and with the same `micro_batch` the sums have the same bits.
    """
    data = next(iter(rows)).data
    if data == "none":
        return
    paths, inputs = {name.rpartition(".")[0] for name in names}, data == "forward"
    axes = find_axes(network, paths, tokens) if inputs or any(row.outputs for row in rows) else {}
    assert len(order), "no batch to score"
    separate = network.takes("batch_gradients") and network.takes("packed_weights") and separable(network.model)
    together = data == "plain" and separate
    for first in range(used - used % WINDOW, len(order), WINDOW):
        window = order[first : first + WINDOW]
        seen = observe(network, axes, tokens, window, settings.count_padding, inputs) if axes else {}
        before = first
        for group in group_batches(tokens.lengths, window, network.tokens_at_once if together else 0):
            bound = settings.micro_batch and max(1, settings.micro_batch // len(window[group[0]]))
            for part in micro_batches(np.array(group), bound):
                rest = part[max(0, used - before) :]
                before += len(part)
                if len(rest):
                    yield _Group([window[place] for place in rest], rest, seen)


def _add_group(
    network: Network,
    gradients: Gradients,
    rows: Mapping[str, Criterion],
    totals: dict[str, dict[str, Tensor]],
    tokens: Tokens,
    group: _Group,
    settings: ScoringPass,
    seed: int,
    index: int,
) -> None:
    data = next(iter(rows.values())).data
    signs = any(row.sign for row in rows.values())

    def add(name: str, number: int, gradient: Tensor | None) -> None:
        evidence = _evidence(name, gradient, signs, group.seen, group.places[number])
        for criterion, row in rows.items():
            assert row.add is not None
            row.add(totals[criterion][name], replace(evidence, shift=settings.shift) if row.shifted else evidence)

    if data == "forward":
        for name in totals[next(iter(totals))]:
            add(name, 0, None)
    else:
        _differentiate(network, gradients, tokens, group.batches, data, settings, seed, index, add)


def _evidence(name: str, gradient: Tensor | None, signs: bool, seen: Mapping[str, Sums], place: int) -> Evidence:
    """Return what a batch says of one tensor. Overwrites the gradient.

    A bias (O,) is scored like a weight whose input is 1, with its output (O,) unexpanded.
    """
    signed = magnitude = None
    if gradient is not None:
        signed = gradient.float() if signs else None
        magnitude = gradient.abs_().float() if signed is None else signed.abs()
    if not seen:
        return Evidence(signed, magnitude)
    path, _, kind = name.rpartition(".")
    bias, sums = kind == "bias", seen[path]
    mean = sums.means[place]
    if sums.squares is None:
        return Evidence(signed, magnitude, mean if bias else mean[:, None])
    if bias:
        return Evidence(input_mean=torch.ones_like(mean[:1]), input_squares=sums.count[place, None])
    return Evidence(input_mean=mean[None], input_squares=sums.squares[place][None])


def _differentiate(
    network: Network,
    gradients: Gradients,
    tokens: Tokens,
    batches: Sequence[Integers],
    pass_: Pass,
    settings: ScoringPass,
    seed: int,
    index: int,
    use: Use,
) -> None:
    """Call use(name, number of the batch, gradient of its loss) for every tensor and batch.

    When smoothed, the gradient is the mean over passes with noise on every linear output. The random numbers of
    batches and repeats that run together are drawn from the seed, the pass, and the first batch and repeat of them.
    """
    examples = len(batches[0])
    assert len(batches) == 1 or settings.micro_batch is None or len(batches) * examples <= settings.micro_batch
    parts = [tokens.batch(part) for part in micro_batches(np.concatenate(batches), settings.micro_batch)]
    repeats, std = (settings.smoothing_passes, settings.noise_std) if pass_ == "smoothed" else (1, 0.0)
    together = _together(network, parts, repeats)
    firsts = range(0, repeats, together)
    total = torch.zeros((), device=network.device)
    network.model.train(settings.dropout)
    with (
        first_token_alone(network.model, network.takes("first_token")),
        noisy_outputs(network.model, std, seed),
        gradients.of(len(batches), len(firsts) * len(parts), use),
    ):
        for repeat in firsts:
            for part, batch in enumerate(parts):
                torch.manual_seed(derive(seed, pass_, index, repeat, part))
                loss = network.batch_loss(_repeated(batch, min(together, repeats - repeat)), examples) / repeats
                loss.backward()
                total += loss.detach()
    if not bool(torch.isfinite(total)):
        which = f"batch {index}" if len(batches) == 1 else f"batches {index} to {index + len(batches) - 1}"
        raise ValueError(f"the loss of scoring {which} is {total.item()!r}, not finite")
    network.model.eval()


def _together(network: Network, parts: Sequence[Mapping[str, Tensor]], repeats: int) -> int:
    """Return how many repeats run as one batch: larger products are faster. One where the batch itself is split."""
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
def _only_gradients_of(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Require no gradients but those of the parameters that are scored, which saves computing the others."""
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
