from __future__ import annotations

import math

import pytest

from deepcuts.analysis.significance import half_width


def test_three_values_by_hand() -> None:
    # t(2, 0.975) = 4.30265 (any table), sd 0.1: 4.30265 * 0.1 / sqrt(3)
    assert half_width(3, 0.1) == pytest.approx(0.248414, abs=1e-6)


def test_two_values_have_a_wide_interval_and_one_has_none() -> None:
    two, one, none = half_width([2, 1, 0], [1.0, math.nan, math.nan])
    assert two == pytest.approx(12.7062 / math.sqrt(2), rel=1e-5)
    assert math.isnan(one)
    assert math.isnan(none)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert half_width(5, 0.0) == 0
