"""Figures with their confidence intervals, and how far rows of one group count as independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Interval", "design_effect", "proportion"]


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def proportion(right: npt.NDArray[np.float64], groups: npt.NDArray[np.uint64], confidence: float) -> Interval:
    """Return a share of successes with its Wilson score interval; all of [0, 1] for no rows.

    Counts are divided by the design effect of the groups, whose rows are not independent.

    Examples
    --------
    >>> f"{proportion(np.array([1.0, 1, 1, 0]), np.arange(4, dtype=np.uint64), 0.95):.2f}"
    '0.75 (0.30 to 0.95)'
    """
    if len(right) == 0:
        return Interval(float("nan"), 0.0, 1.0)
    count = max(1, round(len(right) / design_effect(right, groups)))
    test = stats.binomtest(round(float(right.mean()) * count), count)
    ci = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(right.mean()), float(ci.low), float(ci.high))


def design_effect(values: npt.NDArray[np.float64], groups: npt.NDArray[np.uint64]) -> float:
    """Return how much larger the variance of the mean is than with independent rows; at least 1.

    Examples
    --------
    >>> design_effect(np.array([1.0, 1, -1, -1]), np.array([1, 1, 2, 2], np.uint64))
    2.0
    """
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == len(values):
        return 1.0
    if len(sizes) < 2:
        return float(len(values))  # rows of one thing are one observation
    centred = values - values.mean()
    alone = float((centred**2).sum())
    together = float((np.bincount(codes, weights=centred) ** 2).sum())
    return max(1.0, together / alone) if alone > 0 else 1.0
