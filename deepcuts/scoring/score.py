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
from deepcuts.experiment.settings import ScoringPass
from deepcuts.fast.dropout import dropout_table
from deepcuts.fast.first_token import first_token_alone
from deepcuts.fast.packed_linear import packed_linears
from deepcuts.model.network import Network, transposed
from deepcuts.pruning.criteria import CRITERIA, Criterion, Evidence, Pass, Weights
from deepcuts.pruning.masks import bytewise
from deepcuts.scoring.activations import Sums, find_axes, observe
from deepcuts.scoring.curvature import hessian_gradients
from deepcuts.scoring.flow import check_flow, flow_gradients
from deepcuts.scoring.gradients import Gradients, Use, separable
from deepcuts.scoring.noise import noisy_outputs
from deepcuts.seeds import derive
from deepcuts.training.checkpoint import Checkpoint, Interrupted

# How many batches form a window: their activations are observed before any gradient is taken, and batches of similar
# length within a window run as one.
WINDOW = 32
# Most tokens of the noisy passes that run as one batch, where the device does not want more.
TOKENS = 2560


@dataclass(frozen=True)
class Variant:
    """A criterion, with those settings in which the criteria of one pass may differ; `own` is a row of the user's."""

    criterion: str
    shift: float
    count_padding: bool
    own: Criterion | None = None

    @classmethod
    def of(cls, settings: ScoringPass, criterion: str, own: Criterion | None = None) -> Variant:
        """Make the variant that the settings mean."""
        return cls(criterion, settings.shift, settings.count_padding, own)

    @property
    def row(self) -> Criterion:
        return self.own or CRITERIA[self.criterion]

    @property
    def observes(self) -> bool:
        """Whether it needs to see activations."""
        return self.row.outputs or self.row.data == "forward"


def score(
    network: Network,
    names: Sequence[str],
    criteria: Sequence[str] | Mapping[str, Variant],
    tokens: Tokens,
    order: Sequence[Integers],
    settings: ScoringPass,
    seed: int,
    initial: Mapping[str, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    after_batch: Callable[[int], bool] = lambda used: False,
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Return the scores of the parameters `names` by criterion, fp32 on the CPU, and how many batches were used.

    `criteria` are names of CRITERIA, which take their shift and `count_padding` from the settings; or variants by
    labels, which may differ in these. All must need the same pass, and each takes an fp32 sum for every parameter.
    `order` has the examples of each batch; `tokens` must be on the device of the network. Micro-batches give the
    gradients of their whole batch. A criterion's bits do not depend on the others asked for. Raises ValueError when a
    loss or score is not finite, and Interrupted, once the sums are saved, when `after_batch` returns True.
    """
    if not isinstance(criteria, Mapping):
        criteria = {criterion: Variant.of(settings, criterion) for criterion in criteria}
    (pass_,) = {variant.row.data for variant in criteria.values()}
    turned = transposed(network.model)
    tensors = _turn({name: network.model.get_parameter(name).detach() for name in bytewise(names)}, turned)
    start = _turn(initial, turned) if initial is not None else None
    totals, used = _totals(criteria, tensors, checkpoint if pass_ != "none" else None)
    gradients, saved = Gradients(network.model, list(tensors)), time.monotonic()
    packed = network.takes("packed_weights") and pass_ != "curvature"  # packed layers are differentiated once
    network.model.zero_grad(set_to_none=True)
    # Other casts are kept over passes with and without gradients, which torch can do since its pull request 165068.
    with (
        _only_gradients_of(network.model, tensors),
        packed_linears(network.model, network.dtype, on_backward=gradients.collect, pack=packed),
        dropout_table(),
        network.autocast(),
    ):
        for group in _groups(network, tensors, criteria.values(), tokens, order, settings, used):
            _add_group(network, gradients, criteria, totals, tokens, group, settings, seed, used)
            used += len(group.batches)
            stopping = after_batch(used)
            if checkpoint and (stopping or time.monotonic() - saved > checkpoint.minutes * 60):
                _save(totals, used, checkpoint)
                saved = time.monotonic()
            if stopping:
                raise Interrupted
    totals |= _flows(network.model, criteria, list(tensors))
    made = {key: _scores(each, tensors, totals.get(key, {}), start, seed) for key, each in criteria.items()}
    return {label: _turn(scores, turned) for label, scores in made.items()}, used


def _flows(model: nn.Module, variants: Mapping[str, Variant], names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return the gradients of the flow for those criteria that need no batches but it, by label."""
    labels = [label for label, variant in variants.items() if variant.row.flow]
    return dict.fromkeys(labels, _turn(flow_gradients(model, names), transposed(model))) if labels else {}


def _turn(tensors: Mapping[str, Tensor], turned: Collection[str]) -> dict[str, Tensor]:
    """Transpose those tensors that are `turned`: weights stored as (I, O) to (O, I), and what was made of them back."""
    return {name: tensor.t().contiguous() if name in turned else tensor for name, tensor in tensors.items()}


def _save(totals: Mapping[str, Mapping[str, Tensor]], used: int, checkpoint: Checkpoint) -> None:
    tensors = {f"{label}/{name}": total for label, sums in totals.items() for name, total in sums.items()}
    checkpoint.save(tensors, {"used": used, "criteria": list(totals)})


def _totals(
    variants: Mapping[str, Variant], tensors: Mapping[str, Tensor], checkpoint: Checkpoint | None
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Return the sums by label and name, and how many batches are in them.

    They go on from the checkpoint where it has all the criteria, and begin at zero elsewhere.
    """
    totals = {
        label: {
            name: tensor.new_zeros((1, *tensor.shape[1:]) if variant.row.data == "forward" else tensor.shape)
            for name, tensor in tensors.items()
        }
        for label, variant in variants.items()
        if variant.row.add is not None
    }
    saved = checkpoint.load() if checkpoint else None
    if saved is None or not set(variants) <= set(saved[1]["criteria"]):
        return totals, 0
    for label, sums in totals.items():
        for name, total in sums.items():
            total.copy_(saved[0][f"{label}/{name}"])
    return totals, int(saved[1]["used"])


@torch.no_grad()
def _scores(
    variant: Variant,
    tensors: Mapping[str, Tensor],
    totals: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
    seed: int,
) -> dict[str, Tensor]:
    """Return the criterion's score of every tensor, from its sums over the batches. Raises ValueError unless finite."""
    row, criterion, scores = variant.row, variant.criterion, {}
    generator = torch.Generator().manual_seed(derive(seed, "score", criterion))
    for name, tensor in tensors.items():
        start = initial[name].to(tensor.device) if initial is not None and row.initial else None
        value = row.score(Weights(tensor, start, generator), totals.get(name)).float().cpu()
        if value.shape != tensor.shape:
            raise ValueError(f"{criterion} scores of {name!r} have the shape {[*value.shape]}, not {[*tensor.shape]}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{criterion} scores of {name!r} are not finite: {int((~value.isfinite()).sum())} values")
        scores[name] = value
    if row.flow:
        check_flow(scores)
    return scores


@dataclass(frozen=True)
class _Group:
    """Batches that run as one, and their places in their window.

    `seen` has what a pass without gradients shows of the whole window, by whether padding counts and by the path of the
    layer; it is empty where no criterion asks for it.
    """

    batches: list[Integers]
    places: Integers
    seen: dict[bool, dict[str, Sums]]


def _groups(
    network: Network,
    names: Collection[str],
    variants: Collection[Variant],
    tokens: Tokens,
    order: Sequence[Integers],
    settings: ScoringPass,
    used: int,
) -> Iterator[_Group]:
    """Yield the batches that are left after the first `used`, in groups that run as one.

    Windows begin at the same batches, and batches come in the same order, wherever scoring resumes and whatever
    `micro_batch` is: each batch is used once, and with the same `micro_batch` the sums have the same bits.
    """
    data = next(iter(variants)).row.data
    if data == "none":
        return
    paths, inputs = {name.rpartition(".")[0] for name in names}, data == "forward"
    paddings = sorted({variant.count_padding for variant in variants if variant.observes})
    axes = find_axes(network, paths, tokens) if paddings else {}
    assert len(order), "no batch to score"
    separate = network.takes("batch_gradients") and network.takes("packed_weights") and separable(network.model)
    together = data == "plain" and separate
    for first in range(used - used % WINDOW, len(order), WINDOW):
        window = order[first : first + WINDOW]
        seen = {each: observe(network, axes, tokens, window, each, inputs) for each in paddings if axes}
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
    variants: Mapping[str, Variant],
    totals: dict[str, dict[str, Tensor]],
    tokens: Tokens,
    group: _Group,
    settings: ScoringPass,
    seed: int,
    index: int,
) -> None:
    data = next(iter(variants.values())).row.data
    signs = any(variant.row.sign for variant in variants.values())

    def add(name: str, number: int, gradient: Tensor | None) -> None:
        plain, place = _gradient(gradient, signs), group.places[number]
        seen = {padding: _activations(plain, name, sums, place) for padding, sums in group.seen.items()}
        for label, variant in variants.items():
            evidence = seen.get(variant.count_padding, plain)
            assert variant.row.add is not None
            variant.row.add(
                totals[label][name], replace(evidence, shift=variant.shift) if variant.row.shifted else evidence
            )

    names = list(totals[next(iter(totals))])
    if data == "forward":
        for name in names:
            add(name, 0, None)
    elif data == "curvature":
        (batch,) = group.batches
        for name, product in _curvature(network, names, tokens, batch, settings, seed, index).items():
            add(name, 0, product)
    else:
        _differentiate(network, gradients, tokens, group.batches, data, settings, seed, index, add)


def _gradient(gradient: Tensor | None, signs: bool) -> Evidence:
    """Return what a batch's gradient says of one tensor. Overwrites it."""
    if gradient is None:
        return Evidence()
    signed = gradient.float() if signs else None
    return Evidence(signed, gradient.abs_().float() if signed is None else signed.abs())


def _activations(plain: Evidence, name: str, seen: Mapping[str, Sums], place: int) -> Evidence:
    """Return the evidence with what the activations of a batch say of one tensor.

    A bias (O,) is scored like a weight whose input is 1, with its output (O,) unexpanded.
    """
    path, _, kind = name.rpartition(".")
    bias, sums = kind == "bias", seen[path]
    mean = sums.means[place]
    if sums.squares is None:
        return replace(plain, output_mean=mean if bias else mean[:, None])
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
    _check_loss(total, f"batch {index}" if len(batches) == 1 else f"batches {index} to {index + len(batches) - 1}")
    network.model.eval()


def _curvature(
    network: Network,
    names: Sequence[str],
    tokens: Tokens,
    batch: Integers,
    settings: ScoringPass,
    seed: int,
    index: int,
) -> dict[str, Tensor]:
    """Return the Hessian of a batch's loss times its gradient, of each tensor; of a weight (O, I)."""
    parts = [tokens.batch(part) for part in micro_batches(batch, settings.micro_batch)]
    parameters = {name: network.model.get_parameter(name) for name in names}

    def draw(part: int) -> None:
        torch.manual_seed(derive(seed, "curvature", index, part))

    network.model.train(settings.dropout)
    products, loss = hessian_gradients(network, parameters, parts, len(batch), draw)
    _check_loss(loss, f"batch {index}")
    network.model.eval()
    return _turn(products, transposed(network.model))


def _check_loss(loss: Tensor, which: str) -> None:
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss of scoring {which} is {loss.item()!r}, not finite")


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
