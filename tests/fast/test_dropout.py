"""Our dropout drops with the right probability, independently, and by the seed; scoring reads a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders.transformers_networks import mixing_network, tokens
from torch import nn

from deepcuts.experiment.settings import ScoringPass, Training
from deepcuts.fast.dropout import TABLE_ELEMENTS, Dropout, _factors, _table, dropout_table, use_quick_dropout
from deepcuts.scoring.score import score
from deepcuts.training.train import train


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of elements of each draw from now on; there is no table yet."""
    numbers: list[int] = []
    original = _factors

    def note(number: int, *arguments: object) -> torch.Tensor:
        numbers.append(number)
        return original(number, *arguments)

    monkeypatch.setattr("deepcuts.fast.dropout._factors", note)
    _table.cache_clear()
    return numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_zeroed_is_p_and_the_mean_stays(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    value = Dropout(p)(torch.ones(1000, 1001, dtype=dtype))
    assert value.dtype == dtype
    assert float((value == 0).double().mean()) == pytest.approx(p, abs=0.002)  # four standard deviations
    assert float(value.double().mean()) == pytest.approx(1, abs=0.02)
    assert value.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=0.01)


def test_elements_are_dropped_independently_of_their_neighbours_and_of_other_rows() -> None:
    torch.manual_seed(1)
    zero = (Dropout(0.3)(torch.ones(1000, 1024)) == 0).double()
    for shift in (1, 2, 3, 4, 8, 1024):
        pairs = (zero.flatten()[shift:] * zero.flatten()[:-shift]).mean()
        assert float(pairs) == pytest.approx(0.09, abs=0.002), shift


def test_the_seed_decides_what_is_dropped_and_gradients_are_scaled_alike() -> None:
    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        value = torch.full((7, 5), 2.0, requires_grad=True)
        out = Dropout(0.4)(value)
        out.sum().backward()
        assert value.grad is not None
        torch.testing.assert_close(out, 2 * value.grad)
        return out.detach(), torch.rand(3)

    first, second, other = run(1), run(1), run(2)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_of_a_table_drop_as_fresh_draws_do(dtype: torch.dtype) -> None:
    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        with dropout_table():
            one, two = (Dropout(0.1)(torch.ones(1000, 500, dtype=dtype)) for _ in range(2))
        return one, two

    one, two = run(1)
    assert one.unique().tolist() == pytest.approx([0, 1 / 0.9], rel=0.01)
    zero, other = (one == 0).double(), (two == 0).double()
    for each in (zero, other):
        assert float(each.mean()) == pytest.approx(0.1, abs=0.002)  # five standard deviations
        for shift in (1, 2, 3, 4, 500):
            assert float((each.flatten()[shift:] * each.flatten()[:-shift]).mean()) == pytest.approx(0.01, abs=0.001)
    assert float((zero * other).mean()) == pytest.approx(0.01, abs=0.001)
    assert torch.equal(one, run(1)[0])
    assert not torch.equal(one, run(2)[0])


def test_a_table_is_drawn_once_and_serves_only_tensors_that_fit_inside_its_context(draws: list[int]) -> None:
    small, large = torch.ones(3, 4), torch.ones(TABLE_ELEMENTS // 2 + 1)
    with dropout_table():
        for value in (small, small, large):
            Dropout(0.5)(value)
    Dropout(0.5)(small)
    assert draws == [TABLE_ELEMENTS, large.numel(), small.numel()]
    value = torch.full((3, 4), 2.0, requires_grad=True)
    with dropout_table():
        out = Dropout(0.5)(value)
    out.sum().backward()
    torch.testing.assert_close(out, 2 * value.grad)


@pytest.mark.parametrize(("criterion", "tables"), [("GradCAM", 1), ("SmoothGrad", 1), ("Wanda", 0)])
def test_scoring_draws_only_a_table_and_training_draws_none(criterion: str, tables: int, draws: list[int]) -> None:
    network = mixing_network(dropout=True)
    use_quick_dropout(network.model)
    batches = [np.arange(4), np.arange(4, 8)]
    score(network, ["bert.pooler.dense.weight"], [criterion], tokens(), batches, ScoringPass(smoothing_passes=2), 0)
    assert draws == [TABLE_ELEMENTS] * tables
    draws.clear()
    train(network, tokens(), Training(epochs=1, batch_size=4), seed=0, stage="dense")
    assert TABLE_ELEMENTS not in draws
    assert len(draws) >= 3


@pytest.mark.parametrize(("p", "training", "expected"), [(0.0, True, 1.0), (1.0, True, 0.0), (0.5, False, 1.0)])
def test_a_p_of_0_or_1_and_evaluation_mode_are_exact(p: float, training: bool, expected: float) -> None:
    value = torch.ones(4, 3)
    assert torch.equal(Dropout(p).train(training)(value), expected * value)


def test_every_dropout_of_a_model_is_replaced_and_keeps_its_p() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
    model = nn.Sequential(nn.Dropout(0.2), inner, nn.Dropout1d(0.4), nn.Dropout(0.5, inplace=True))
    use_quick_dropout(model)
    assert [(type(m), m.p) for m in model.modules() if hasattr(m, "p")] == [
        (Dropout, 0.2),
        (Dropout, 0.3),
        (nn.Dropout1d, 0.4),
        (nn.Dropout, 0.5),
    ]
