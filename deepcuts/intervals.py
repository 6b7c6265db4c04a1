"""Intervals of a mean over few seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


def half_width(n: ArrayLike, sd: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Half the width of Student's t interval of a mean of `n` values with sample deviation `sd`, elementwise.

    t(n - 1, (1 + level) / 2) * sd / sqrt(n) (Student 1908); NaN where n is below 2: one value has no spread.
    """
    n, sd = np.asarray(n, np.float64), np.asarray(sd, np.float64)
    enough = n >= 2
    freedom = np.where(enough, n - 1, 1.0)
    width = stdtrit(freedom, (1 + level) / 2) * sd / np.sqrt(freedom + 1)
    return np.where(enough, width, np.nan)
