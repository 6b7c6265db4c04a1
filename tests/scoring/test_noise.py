"""The noise of a smoothed pass is Gaussian; on a CPU it is read from windows of one row."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from deepcuts.scoring.noise import NOISE_NUMBERS, _gaussian, noisy_outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_gaussian_and_decided_by_the_seeds(dtype: torch.dtype) -> None:
    def draw(seed: int, torch_seed: int) -> Tensor:
        torch.manual_seed(torch_seed)
        return _gaussian(torch.empty(300, 500, dtype=dtype), seed)

    first = draw(1, 2)
    assert first.shape == (300, 500)
    assert first.dtype == dtype
    values = first.double().flatten().numpy()
    assert stats.kstest(values, "norm").statistic < (0.005 if dtype == torch.float32 else 0.02)
    assert stats.kurtosis(values) == pytest.approx(0, abs=0.06)  # five standard deviations
    assert torch.equal(first, draw(1, 2))
    for other in (draw(1, 3), draw(2, 2)):  # another window, another row
        assert abs(float(torch.corrcoef(torch.stack([first, other]).double().flatten(1))[0, 1])) < 0.013
    rows = torch.corrcoef(first.double())
    assert float((rows - torch.eye(300)).abs().max()) < 0.3


def test_noise_too_large_for_the_row_is_drawn_anew() -> None:
    torch.manual_seed(4)
    large = _gaussian(torch.empty(NOISE_NUMBERS // 2 + 1), 1)
    torch.manual_seed(4)
    assert torch.equal(large, torch.randn(NOISE_NUMBERS // 2 + 1))


def test_every_linear_layer_has_its_own_noise() -> None:
    model = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Sequential(nn.Linear(50, 50)))
    torch.manual_seed(6)
    outputs: list[Tensor] = []
    value = torch.randn(40, 3)
    clean = [model[0](value).detach(), model[2](model[0](value).relu()).detach()]
    with noisy_outputs(model, 0.01, seed=0):
        for path in (0, 2):
            model[path].register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
        model(value).sum().backward()
    assert model[0].weight.grad is not None
    added = torch.stack([(noisy - plain).flatten() for noisy, plain in zip(outputs, clean, strict=True)])
    assert added.std(1)[0] == pytest.approx(0.01, rel=0.1)
    assert abs(float(torch.corrcoef(added)[0, 1])) < 0.1
    torch.testing.assert_close(model(value), clean[1])
