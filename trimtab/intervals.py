"""Figures with their confidence intervals, and how far rows of one group count as independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = [
    "Interval",
    "Resampled",
    "bootstrap",
    "design_effect",
    "paired_difference",
    "proportion",
    "rows_needed",
]

Resampled = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""A figure under many weightings of its rows at once: weights ``[resamples, rows]`` to figures ``[resamples]``."""

RESAMPLES = 2000
BEYOND = 20
"""Resamples that lie beyond the interval's bounds, together, at the least: fewer would say little of where they are."""
MOST_RESAMPLES = 10_000
CELLS = 1 << 22
"""Weights that are held at a time (32 MB)."""


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

    Counts are divided by the design effect of the groups, whose rows are not independent, and the normal
    quantile gives way to Student's where there are groups.

    Examples
    --------
    >>> f"{proportion(np.array([1.0, 1, 1, 0]), np.arange(4, dtype=np.uint64), 0.95):.2f}"
    '0.75 (0.30 to 0.95)'
    """
    if len(right) == 0:
        return Interval(float("nan"), 0.0, 1.0)
    count = max(1, round(len(right) / design_effect(right, groups)))
    test = stats.binomtest(round(float(right.mean()) * count), count)
    level = 2 * float(stats.norm.cdf(_quantile(groups, confidence))) - 1
    if level == 1:
        return Interval(float(right.mean()), 0.0, 1.0)
    ci = test.proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(right.mean()), float(ci.low), float(ci.high))


def bootstrap(
    figure: Resampled, groups: npt.NDArray[np.uint64], confidence: float, seed: int = 0
) -> tuple[float, float]:
    """Return the bounds of a figure's confidence interval by a bootstrap over groups of rows.

    Whole groups are drawn with replacement (the cluster bootstrap, Field and Welsh 2007), a row's
    weight being the times that its group was drawn. The bounds are percentiles, taken a little further
    out as befits few groups (the expanded percentile interval, Hesterberg 2015). Two models whose
    difference is the figure meet the same draws.

    Parameters
    ----------
    figure
        What is bounded, of weights float64 ``[resamples, rows]``.
    groups
        Group of each row (uint64 ``[rows]``).
    confidence
        Of the interval.
    seed
        Of the draws; the same for the same rows, so that swapping two models turns the interval round.

    Returns
    -------
    low, high
        NaN where the groups are too few for the confidence: percentiles cannot leave the range of the
        groups' own values, outside of which the truth lies with a chance of up to ``2 ** (1 - groups)``. NaN
        too where the figure is not a number in more resamples than may lie beyond a bound.

    Examples
    --------
    >>> values = np.arange(100.0)
    >>> low, high = bootstrap(lambda w: w @ values / w.sum(axis=1), np.arange(100, dtype=np.uint64), 0.95)
    >>> bool(43 < low < 45 and 54 < high < 56)
    True
    """
    codes = np.unique(groups, return_inverse=True)[1]
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < 2 or 2.0 ** (1 - count) > 1 - confidence:
        return float("nan"), float("nan")
    resamples = min(MOST_RESAMPLES, max(RESAMPLES, math.ceil(BEYOND / (1 - confidence))))
    figures = np.concatenate([figure(w) for w in _draws(codes, count, resamples, np.random.default_rng(seed))])
    tail = float(stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.5 + confidence / 2, count - 1)))
    sane = np.sort(figures[~np.isnan(figures)])
    if 1 - len(sane) / resamples > tail:
        return float("nan"), float("nan")
    beyond = max(0, math.ceil(tail * len(sane)) - 1)
    return float(sane[beyond]), float(sane[-1 - beyond])


def _draws(
    codes: npt.NDArray[np.intp], count: int, resamples: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float64]]:
    """Draw groups again and again, and give every row the times that its group came, some resamples at a time."""
    step = max(1, CELLS // max(len(codes), count))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield np.take(times, codes, axis=1).astype(np.float64)


def design_effect(values: npt.NDArray[np.float64], groups: npt.NDArray[np.uint64]) -> float:
    """Return how much larger the variance of the mean is than with independent rows; at least 1.

    Estimated from the groups' sums, with the correction for few groups, m / (m - 1). Where all values are
    the same nothing can be estimated, and the rows of a group count as one.

    Examples
    --------
    >>> groups = np.array([1, 1, 2, 2], np.uint64)
    >>> design_effect(np.array([1.0, 1, -1, -1]), groups), design_effect(np.zeros(4), groups)
    (4.0, 2.0)
    """
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == len(values):
        return 1.0
    if len(sizes) < 2:
        return float(len(values))  # rows of one thing are one observation
    centred = values - values.mean()
    alone = float((centred**2).sum())
    together = float((np.bincount(codes, weights=centred) ** 2).sum())
    few = len(sizes) / (len(sizes) - 1)
    return max(1.0, few * together / alone) if alone > 0 else len(values) / len(sizes)


def _quantile(groups: npt.NDArray[np.uint64], confidence: float) -> float:
    """Return the standard errors of an interval: of few groups of rows, whose spread is estimated, by Student's t."""
    count = len(np.unique(groups))
    if count == len(groups):
        return float(stats.norm.ppf(0.5 + confidence / 2))
    return float(stats.t.ppf(0.5 + confidence / 2, count - 1)) if count > 1 else math.inf


def paired_difference(
    challenger: npt.NDArray[np.float64],
    champion: npt.NDArray[np.float64],
    groups: npt.NDArray[np.uint64],
    confidence: float,
) -> Interval:
    """Return the difference of two shares of right predictions on the same rows, with its interval.

    Bonett and Price (2012): an adjusted Wald interval for paired proportions, which keeps its
    coverage where few rows disagree. Rows of one group are not independent: counts are divided by
    the design effect (Kish 1965) of the groups, and the normal quantile gives way to Student's.

    Parameters
    ----------
    challenger, champion
        1 where right, else 0 (float64 ``[rows]``).
    groups
        Group of each row (uint64 ``[rows]``).

    Examples
    --------
    >>> a, b = np.array([1.0, 1, 1, 1]), np.array([1.0, 1, 0, 0])
    >>> f"{paired_difference(a, b, np.arange(4, dtype=np.uint64), 0.95):.2f}"
    '0.50 (-0.26 to 0.93)'
    """
    difference = challenger - champion
    effect = design_effect(difference, groups)
    n = len(difference) / effect
    better, worse = float((difference > 0).sum()) / effect, float((difference < 0).sum()) / effect
    p_better, p_worse = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    spread = _quantile(groups, confidence) * math.sqrt((p_better + p_worse - (p_better - p_worse) ** 2) / (n + 2))
    middle = p_better - p_worse
    return Interval(float(difference.mean()), max(-1.0, middle - spread), min(1.0, middle + spread))


def rows_needed(disagreeing: float, margin: float, confidence: float, power: float = 0.8) -> int:
    """Return the judge rows that a non-inferiority margin needs when the two models are equally good.

    The normal approximation for paired proportions (Nam 1997): ``(z_a + z_b)^2 * d / margin^2``
    with ``d`` the share of rows on which the two disagree; of other figures, the variance of one row's
    difference.

    Examples
    --------
    >>> rows_needed(0.02, 0.01, 0.95)
    1570
    """
    if margin <= 0:
        return 10**9
    z = float(stats.norm.ppf(0.5 + confidence / 2) + stats.norm.ppf(power))
    return math.ceil(z**2 * max(disagreeing, 1e-3) / margin**2)
