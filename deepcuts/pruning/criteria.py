"""Defines the importance criteria: each is one formula, one short function, one row. Add a criterion here.

A linear layer is y = W x + c with W (O, I) and c (O,). For each scoring batch b the formulas see, shaped so
that they broadcast over the tensor being scored:

    g  gradient of the batch's loss, and its magnitude  (O, I); for a bias (O,)
    a  output averaged over the batch's real tokens     (O, 1); for a bias (O,)
    x  the input's statistics over the real tokens      (1, I); for a bias 1

In a "curvature" pass g is H g, the Hessian of the batch's loss times its gradient. SynFlow sees no batch: its `total`
is the gradient of the flow (scoring/flow.py).

`add` adds the batch's term to `total`, an fp32 sum over the batches, and `score` turns weight and total into the score:
higher = keep. abs(W) is constant over the batches and is taken out of every sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from deepcuts.names import nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pass = Literal["none", "forward", "plain", "smoothed", "curvature"]
Scope = Literal["layer", "global", "row", "lamp", "erk", "owl", "nm24", "neuron"]
Control = Literal["none", "shuffle", "invert"]


@dataclass(frozen=True)
class Evidence:
    """What one scoring batch says of one tensor.

    `gradient` is given only where a criterion of the pass asks for its sign, `magnitude` is its absolute value; when
    smoothed they are of the mean over the noisy passes.
    """

    gradient: Tensor | None = None
    magnitude: Tensor | None = None
    output_mean: Tensor | None = None
    input_mean: Tensor | None = None
    input_squares: Tensor | None = None
    shift: float = 0.0


@dataclass(frozen=True)
class Weights:
    """The tensor being scored, fine-tuned and as it was at the start, and a generator seeded for the criterion."""

    tuned: Tensor
    initial: Tensor | None = None
    generator: torch.Generator | None = None


class Needs(Protocol):
    """What has to be known of a criterion to plan with it: of ours a row of the table, of the user's own a record."""

    @property
    def data(self) -> Pass: ...
    @property
    def outputs(self) -> bool: ...
    @property
    def shifted(self) -> bool: ...
    @property
    def signed(self) -> bool: ...


@dataclass(frozen=True)
class Criterion:
    """One row of the table: the formula, its source, and what it needs."""

    score: Callable[[Weights, Tensor | None], Tensor]
    source: str
    add: Callable[[Tensor, Evidence], object] | None = None
    data: Pass = "none"
    sign: bool = False
    outputs: bool = False
    shifted: bool = False
    initial: bool = False
    signed: bool = False
    flow: bool = False


def _given(value: Tensor | None) -> Tensor:
    assert value is not None, "the pass did not collect what the criterion's row asks for"
    return value


def magnitude(weights: Weights, total: Tensor | None) -> Tensor:
    """abs(W)"""
    return weights.tuned.abs()


def initial_magnitude(weights: Weights, total: Tensor | None) -> Tensor:
    """abs(theta_0)"""
    return _given(weights.initial).abs()


def saliency(weights: Weights, total: Tensor | None) -> Tensor:
    """abs(W * total)"""
    return (weights.tuned * _given(total)).abs()


def product(weights: Weights, total: Tensor | None) -> Tensor:
    """W * total"""
    return weights.tuned * _given(total)


def squared(weights: Weights, total: Tensor | None) -> Tensor:
    """W^2 * total"""
    return weights.tuned.square() * _given(total)


def root(weights: Weights, total: Tensor | None) -> Tensor:
    """abs(W) * sqrt(total)"""
    return weights.tuned.abs() * _given(total).sqrt()


def increase(weights: Weights, total: Tensor | None) -> Tensor:
    """abs(theta_1) - abs(theta_0)"""
    return weights.tuned.abs() - _given(weights.initial).abs()


def uniform(weights: Weights, total: Tensor | None) -> Tensor:
    """U(0, 1), drawn on the CPU so that every device has the same"""
    drawn = weights.tuned.new_empty(weights.tuned.shape, device="cpu")
    return drawn.uniform_(generator=weights.generator).to(weights.tuned.device)


def gradient(total: Tensor, batch: Evidence) -> None:
    """g_b"""
    total.add_(_given(batch.gradient))


def absolute_gradient(total: Tensor, batch: Evidence) -> None:
    """abs(g_b)"""
    total.add_(_given(batch.magnitude))


def squared_gradient(total: Tensor, batch: Evidence) -> None:
    """g_b^2"""
    total.addcmul_(_given(batch.magnitude), _given(batch.magnitude))


def class_activation(total: Tensor, batch: Evidence) -> None:
    """abs(g_b * (shift + a_b))"""
    total.addcmul_(_given(batch.magnitude), (batch.shift + _given(batch.output_mean)).abs())


def input_mean(total: Tensor, batch: Evidence) -> None:
    """mean of each input over the batch's tokens"""
    total.add_(_given(batch.input_mean))


def input_squares(total: Tensor, batch: Evidence) -> None:
    """sum of x_j^2 over the batch's tokens"""
    total.add_(_given(batch.input_squares))


_SEED = "DeepCuts, arXiv 2212.13392"
_SHRINKBENCH = "ShrinkBench: Blalock et al. 2020, arXiv 2003.03033"

CRITERIA: dict[str, Criterion] = {
    "MagWeight": Criterion(magnitude, "Han et al. 2015, arXiv 1506.02626"),
    "MagGrad": Criterion(saliency, _SHRINKBENCH, absolute_gradient, "plain"),
    "SNIP": Criterion(saliency, "Lee et al. 2019, arXiv 1810.02340", gradient, "plain", sign=True),
    "Fisher": Criterion(squared, "LeCun et al. 1990; Kurtic et al. 2022, arXiv 2203.07259", squared_gradient, "plain"),
    "MagAct": Criterion(saliency, _SHRINKBENCH, input_mean, "forward"),
    "Wanda": Criterion(root, "Sun et al. 2023, arXiv 2306.11695", input_squares, "forward"),
    "GradCAM": Criterion(saliency, _SEED, class_activation, "plain", outputs=True),
    "GradCAMShift": Criterion(saliency, _SEED, class_activation, "plain", outputs=True, shifted=True),
    "SmoothGrad": Criterion(saliency, _SEED, absolute_gradient, "smoothed"),
    "SmoothGradCAM": Criterion(saliency, _SEED, class_activation, "smoothed", outputs=True),
    "SmoothGradCAMShift": Criterion(saliency, _SEED, class_activation, "smoothed", outputs=True, shifted=True),
    "GraSP": Criterion(product, "Wang et al. 2020, arXiv 2002.07376", gradient, "curvature", sign=True, signed=True),
    "SynFlow": Criterion(saliency, "Tanaka et al. 2020, arXiv 2006.05467", flow=True),
    "MagInit": Criterion(initial_magnitude, "Chen et al. 2020, arXiv 2007.12223", initial=True),
    "MagIncrease": Criterion(increase, "Zhou et al. 2019, arXiv 1905.01067", initial=True, signed=True),
    "Random": Criterion(uniform, "baseline"),
}


def sees_network(criterion: Needs) -> bool:
    """Whether a score depends on the other weights too, so that it changes where some of these are pruned."""
    return criterion.data != "none" or (isinstance(criterion, Criterion) and criterion.flow)


# The strategies that prune nothing: the fine-tuned network, and the unpruned one rewound and retrained.
NOT_PRUNED = ("Dense", "Unpruned")

# Over what scores compete, and how the name of a strategy begins then.
SCOPES: dict[Scope, str] = {
    "layer": "Layer",
    "global": "Global",
    "row": "Row",
    "lamp": "Lamp",
    "erk": "Erk",
    "owl": "Owl",
    "nm24": "NM24",
    "neuron": "Neuron",
}


def strategy_name(criterion: str | None, scope: Scope | None, control: str) -> str:
    """Return `<Scope><Criterion>[+control]`, as `LayerMagWeight` or `GlobalSNIP+shuffle`."""
    assert criterion is not None
    assert scope is not None
    return SCOPES[scope] + criterion + ("" if control == "none" else f"+{control}")


def plain_strategies(criteria: Mapping[str, Needs] = CRITERIA) -> dict[str, tuple[str, Scope]]:
    """Return the criterion and scope of every strategy without a control, by name."""
    return {
        strategy_name(criterion, scope, "none"): (criterion, scope)
        for scope in SCOPES
        for criterion, row in criteria.items()
        if not (scope == "lamp" and row.signed)
    }


def is_control(strategy: str) -> bool:
    """Whether a strategy is no method but a control: its scores are random or inverted, or its mask is shuffled."""
    return "+" in strategy or strategy.endswith("Random")


def parse_strategy(strategy: str, criteria: Mapping[str, Needs] = CRITERIA) -> tuple[str, Scope, Control]:
    """Split a strategy's name into criterion, scope and control. Raises ValueError that names the nearest known one."""
    known = plain_strategies(criteria)
    base, plus, control = strategy.partition("+")
    if base in known:
        controls: Mapping[str, Control] = {"": "none", "+shuffle": "shuffle", "+invert": "invert"}
        if plus + control in controls:
            return *known[base], controls[plus + control]
        raise ValueError(f"unknown control {control!r} of strategy {strategy!r}; known: '+shuffle', '+invert'")
    criterion = base.removeprefix(SCOPES["lamp"])
    if criterion != base and criterion in criteria:
        raise ValueError(
            f"strategy {strategy!r}: Lamp divides squares of scores, and those of {criterion} may be negative; take"
            f" another criterion, or another scope, as in 'Layer{criterion}'"
        )
    hint = nearest(strategy, [name + plus + control for name in known]) or ";"
    *scopes, last = SCOPES.values()
    raise ValueError(
        f"unknown strategy {strategy!r}{hint} known: {', '.join(scopes)} or {last},"
        f" then one of {', '.join(criteria)}, then perhaps +shuffle or +invert"
    )
